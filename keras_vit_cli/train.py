"""`keras-vit train`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import tyro

from keras_vit_cli.arguments import call
from training.recipes import RECIPES, Recipe, StrategyName


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
    ) -> None:
        """Train a model, or go on with the run in the workdir: repeat the same command.

        Args:
            workdir: gets config.json, metrics.csv, checkpoints/, tensorboard/, model.keras and
                curves.png.
            recipe: what to do; every field can be overridden.
            data_dir: where TFDS keeps its data; may be a bucket, gs://…
            strategy: which devices train together; auto looks at what is there.
            num_replicas: devices of the strategy mirrored; without GPUs the CPU is split.
        """
        from training.train import train as run_training

        # Shells let what they start with `&` in a script ignore Ctrl-C; a run must always hear it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            result = run_training(
                recipe,
                workdir,
                data_dir=data_dir,
                strategy=strategy,
                num_replicas=num_replicas,
            )
        except KeyboardInterrupt:
            print(f"\nStopped. Run the same command to go on; {workdir} holds what is done.")
            raise
        last = result.history[-1]
        print(
            f"top1 {last['val_top1']:.4f} on the test split after {last['epoch']} epochs\n"
            f"{workdir / 'model.keras'}\n{workdir / 'curves.png'}\n"
            f"next: keras-vit export {workdir} served/{workdir.name}"
        )

    call(train, f"train {name}", arguments[1:])


def _usage() -> str:
    recipes = "\n".join(
        f"  {name:<10} data: {recipe.data or 'give --data'}, {recipe.epochs} epochs, "
        f"batch size {recipe.batch_size}, {recipe.model.variant}"
        for name, recipe in RECIPES.items()
    )
    return (
        "usage: keras-vit train RECIPE --workdir DIR [--data SPEC] [overrides]\n\n"
        f"Recipes:\n{recipes}\n\n"
        "Every field of a recipe is an option; keras-vit train RECIPE --help explains them all.\n"
        "  keras-vit train digits --workdir runs/digits\n"
        "  keras-vit train folder --data folder:photos --workdir runs/photos --batch-size 64 "
        "--optimizer.learning-rate 5e-4"
    )
