"""`keras-vit train`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import tyro

from keras_vit_cli.arguments import call
from training.config import Recipe, StrategyName
from training.recipes import RECIPES


def run(arguments: list[str]) -> None:
    """Run the command: the recipe's fields are its options."""
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(_usage())
        return
    if name not in RECIPES:
        raise ValueError(f"There is no recipe {name!r}; choose one of {', '.join(RECIPES)}.")

    def train(
        workdir: Path,
        recipe: Annotated[Recipe, tyro.conf.arg(name="")] = RECIPES[name],
        data_dir: str | None = None,
        strategy: StrategyName = "auto",
        num_replicas: int | None = None,
        num_workers: int = 1,
        allow_changed: bool = False,
    ) -> None:
        """Train a model, or go on with the run in the workdir: repeat the same command.

        Args:
            workdir: gets config.json, metrics.csv, checkpoints/, tensorboard/, model.keras and
                curves.png.
            recipe: what to do; every field can be overridden.
            data_dir: where TFDS keeps its data; may be a bucket, gs://…
            strategy: which devices train together; auto looks at what is there.
            num_replicas: devices of the strategy mirrored; without GPUs the CPU is split.
            num_workers: processes on this machine that train together (strategy multiworker). On
                several machines use srun, or set TF_CONFIG on each.
            allow_changed: go on with a run that began with other settings.
        """
        if num_workers != 1:
            if strategy not in ("auto", "multiworker"):
                raise ValueError(
                    f"--num-workers {num_workers} goes with the strategy multiworker, not with "
                    f"{strategy}: leave --strategy out."
                )
            _train_in_workers(arguments, num_workers)
            return
        _train(recipe, workdir, data_dir, strategy, num_replicas, allow_changed)

    call(train, f"train {name}", arguments[1:], description=RECIPES[name].__doc__)


def _train(
    recipe: Recipe,
    workdir: Path,
    data_dir: str | None,
    strategy: StrategyName,
    num_replicas: int | None,
    allow_changed: bool,
) -> None:
    from training.interruption import TrainingInterruptedError
    from training.train import WorkerLostError
    from training.train import train as run_training
    from training.workers import end_with_starter

    end_with_starter()
    try:
        result = run_training(
            recipe,
            workdir,
            data_dir=data_dir,
            strategy=strategy,
            num_replicas=num_replicas,
            allow_changed=allow_changed,
            own_process=True,
        )
    except TrainingInterruptedError as error:
        print(f"\nStopped and saved. Run the same command to go on; {workdir} holds what is done.")
        sys.stdout.flush()
        raise SystemExit(128 + error.signal_number) from None
    except WorkerLostError as error:
        print(f"keras-vit: {error}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)  # TensorFlow would wait for the lost worker before it lets the process end
    if result.is_chief:
        last = result.history[-1]
        print(
            f"top1 {last['val_top1']:.4f} on the test split after {last['epoch']} epochs\n"
            f"{workdir / 'model.keras'}\n{workdir / 'curves.png'}\n"
            f"next: keras-vit export {workdir} served/{workdir.name}"
        )


def _train_in_workers(arguments: list[str], count: int) -> None:
    from training.workers import run_workers

    command = [sys.executable, "-m", "keras_vit_cli", "train", *_without(arguments)]
    command += ["--strategy", "multiworker"]
    if status := run_workers(command, count):
        raise SystemExit(status)


def _without(arguments: list[str]) -> list[str]:
    """The arguments without what `_train_in_workers` has taken care of."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        name = argument.partition("=")[0].replace("_", "-")
        if skip:
            skip = False
        elif name in ("--num-workers", "--strategy"):
            skip = "=" not in argument
        else:
            kept.append(argument)
    return kept


def _usage() -> str:
    recipes = "\n".join(
        f"  {name:<10} {(recipe.__doc__ or '').splitlines()[0]}" for name, recipe in RECIPES.items()
    )
    return (
        "usage: keras-vit train RECIPE --workdir DIR [--data SPEC] [overrides]\n\n"
        f"Recipes:\n{recipes}\n\n"
        "Every field of a recipe is an option; keras-vit train RECIPE --help explains them all.\n"
        "  keras-vit train digits --workdir runs/digits\n"
        "  keras-vit train folder --data folder:photos --workdir runs/photos --batch-size 64 "
        "--optimizer.learning-rate 5e-4"
    )
