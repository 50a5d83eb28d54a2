"""A training run from a recipe to `model.keras`."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_vit import VisionTransformer
from keras_vit.atomic_files import write_text
from training.build import build_model, build_trained
from training.callbacks import (
    SaveProgress,
    StopWhenNotFinite,
    WriteSummaries,
    save_if_best,
    save_model,
    write_metrics,
)
from training.checkpoints import Checkpoints, TrainingState
from training.config import Recipe, StrategyName
from training.curves import plot_curves
from training.data import (
    DataSource,
    Share,
    load_source,
    steps_per_epoch,
    training_batches,
    validation_batches,
)
from training.interruption import StopRequest, stop_requests
from training.probes.callback import ProbeCallback
from training.progress import ShowProgress
from training.strategy import (
    check_workers_agree,
    distribute,
    is_chief,
    is_multiworker,
    make_strategy,
)
from training.streams import give_each_stream_a_thread, streams_of_batch
from training.workdir import check_workdir, only_run

# Test images with fewer pixel values in all (256 MB) are decoded once and kept in memory.
_CACHED_VALUES = 64_000_000


class WorkerLostError(RuntimeError):
    """Another process of the run has ended."""


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """A finished run.

    Args:
        model: the trained model, weights of the last epoch.
        history: one row of metrics for each epoch, as in `metrics.csv`.
        is_chief: whether this process is the one that has written the files. Default True.
    """

    model: VisionTransformer
    history: list[dict[str, float]]
    is_chief: bool = True


def train(
    recipe: Recipe,
    workdir: str | Path,
    *,
    data_dir: str | Path | None = None,
    strategy: StrategyName = "auto",
    num_replicas: int | None = None,
    allow_changed: bool = False,
    own_process: bool = False,
    report: Callable[[str], None] = print,
) -> TrainingResult:
    """Train, or go on with, the run of a workdir.

    Args:
        recipe: what to do.
        workdir: gets `config.json`, `metrics.csv`, `checkpoints/`, `tensorboard/`, and at the end
            `model.keras` (weights of the last step, or their moving average) and `curves.png`.
            Several workers must share it.
        data_dir: where TFDS keeps its data. Default None: TFDS's own place.
        strategy: see `training.strategy.make_strategy`. Default "auto".
        num_replicas: devices of "mirrored". Default None: every GPU.
        allow_changed: whether a run may go on with other settings than it began with. Default
            False.
        own_process: whether nothing else will compute in this process, so that TensorFlow's threads
            may be set for the training alone. Default False.
        report: called with lines for the user. Default `print`.

    Returns:
        A `TrainingResult`.

    Raises:
        ValueError: if the workdir belongs to another recipe or is in use, or the recipe does not
            fit the data.
        TrainingDivergedError: if the loss becomes NaN or infinite.
        TrainingInterruptedError: after SIGINT or SIGTERM; the run is saved.
        WorkerLostError: if another process of the run ends before its time.

    Example:
        >>> import tempfile
        >>> from training.optimization.config import ScheduleConfig
        >>> from training.recipes import RECIPES
        >>> recipe = dataclasses.replace(
        ...     RECIPES["digits"], epochs=1, schedule=ScheduleConfig(warmup_epochs=0)
        ... )
        >>> len(train(recipe, tempfile.mkdtemp(), report=lambda line: None).history)
        1
    """
    workdir = Path(workdir)
    if not recipe.data:
        raise ValueError(
            "The recipe names no data: give --data folder:PATH, --data tfds:NAME or --data digits."
        )
    check_workdir(workdir, recipe, allow_changed, report)
    scope = make_strategy(strategy, num_replicas)  # before TensorFlow starts its devices
    check_batch_size(recipe, scope.num_replicas_in_sync)
    if own_process and not recipe.jit_compile and recipe.batch_size > recipe.accumulation:
        with scope.scope():
            give_each_stream_a_thread(streams_of_batch(recipe.model.dtype))
    if recipe.deterministic:
        tf.config.experimental.enable_op_determinism()
    with stop_requests() as request:
        # Not with the recipe's seed: runs of all seeds, and `evaluate` after them, must keep the
        # same images for testing where the data has no test split of its own.
        source = load_source(
            recipe.data, data_dir=data_dir, bad_images=recipe.bad_images, report=report
        )
        with _lost_workers_explained(scope), source.damage.explained():
            run = _Run(recipe, workdir, source, scope, request, report)
            with only_run(workdir) if run.chief else contextlib.nullcontext():
                run.go()
    return TrainingResult(run.model, run.state.history, run.chief)


class _Run:
    """The parts of a run, put together under its strategy and restored from its checkpoint."""

    def __init__(
        self,
        recipe: Recipe,
        workdir: Path,
        source: DataSource,
        scope: tf.distribute.Strategy,
        request: StopRequest,
        report: Callable[[str], None],
    ) -> None:
        self.recipe, self.workdir, self.source = recipe, workdir, source
        self.scope, self.request, self.report = scope, request, report
        self.steps = steps_per_epoch(source, recipe.batch_size)
        self.total_steps = recipe.steps or recipe.epochs * self.steps
        self.epochs = math.ceil(self.total_steps / self.steps)
        self.validation_steps = math.ceil(source.splits["test"] / recipe.batch_size)
        self.chief = is_chief(scope)
        # After the data is open: preparing a data set draws random numbers too.
        keras.utils.set_random_seed(recipe.seed)
        with scope.scope():
            self.model = build_model(recipe, source)
            self.trained = build_trained(
                self.model, recipe, self.steps, self.total_steps, report if self.chief else _silent
            )
            self.checkpoints = Checkpoints(
                workdir / "checkpoints",
                [
                    *self.model.variables,
                    *self.trained.optimizer.variables,
                    self.trained.train_sums,
                ],
                keep=recipe.checkpoint.keep,
                report=report,
            )
            restored = self.checkpoints.restore_newest() or TrainingState()
            self.state = restored.in_steps_of(recipe.batch_size)
        check_workers_agree(scope, self.state.epoch * self.steps + self.state.epoch_step)

    def go(self) -> None:
        """Do what is left, and leave the model behind."""
        report = self.report if self.chief else _silent
        report(
            f"{self.model.name}: {self.model.count_params():,} parameters, "
            f"{self.source.splits['train']:,} training and {self.source.splits['test']:,} test "
            f"images of {len(self.source.labels)} classes, "
            f"{self.scope.num_replicas_in_sync} replica(s)"
        )
        if self.chief:
            self.checkpoints.remove_leftovers()
            config = json.dumps(self.recipe.to_dict(), indent=2)
            write_text(self.workdir / "config.json", config + "\n")
            write_metrics(self.workdir / "metrics.csv", self.state.history)
            # A run that was killed may have had no time for either.
            save_if_best(self.trained, self.model, self.workdir, self.state)
        if self.state.epoch >= self.epochs:
            report(f"All {self.epochs} epochs are done already.")
        else:
            if self.state.epoch or self.state.epoch_step:
                step = self.state.epoch_step
                within = f" and step {step} of the next" if step else ""
                report(f"Going on after epoch {self.state.epoch} of {self.epochs}{within}.")
            self._fit(report)
        if self.chief:
            self._write_results()

    def _write_results(self) -> None:
        title = f"{self.recipe.data}: {self.model.name}, {self.model.count_params():,} parameters"
        try:
            with self.trained.averaged_weights():
                save_model(self.model, self.workdir / "model.keras")
            plot_curves(self.state.history, self.workdir / "curves.png", title)
        except OSError as error:
            raise OSError(
                f"{error}. The training is done, and the last checkpoint that could be written is "
                f"{self.checkpoints.newest}: make room, and run the same command to go on from "
                f"there."
            ) from error

    def _fit(self, report: Callable[[str], None]) -> None:
        recipe, state = self.recipe, self.state
        saving = SaveProgress(
            self.workdir,
            self.model,
            self.checkpoints,
            state,
            steps=self.steps,
            total_steps=self.total_steps,
            validation_steps=self.validation_steps,
            config=recipe.checkpoint,
            request=self.request,
            write=self.chief,
            report=self.report,
        )
        progress = ShowProgress(self.steps, recipe.batch_size, self.epochs, report)
        callbacks: list[keras.callbacks.Callback] = [StopWhenNotFinite(self.workdir)]
        if recipe.probes.every and self.chief:
            past = state.history[-1] if state.history else None
            callbacks.append(
                ProbeCallback(
                    self.model,
                    self.source,
                    **dataclasses.asdict(recipe.probes),
                    epochs=self.epochs,
                    last=past,
                    report=report,
                )
            )
        callbacks.append(saving)
        if self.chief:
            callbacks += [progress, WriteSummaries(self.workdir / "tensorboard", report)]
        validation = distribute(self.scope, self._validation_batches)
        try:
            for epoch, count, steps in self._stretches():
                if steps == 0:
                    self._judge(callbacks, saving, validation, epoch)
                    continue
                first = state.epoch_step if epoch == state.epoch else 0
                self.trained.fit(
                    distribute(self.scope, functools.partial(self._batches, epoch, first)),
                    initial_epoch=epoch,
                    epochs=epoch + count,
                    steps_per_epoch=steps,
                    validation_data=validation,
                    validation_steps=self.validation_steps,
                    callbacks=callbacks,
                    verbose=0,
                    shuffle=False,  # the batches come shuffled
                )
        finally:
            progress.stop()
            self.state = saving.state

    def _stretches(self) -> Iterator[tuple[int, int, int]]:
        """What is left, as epochs of equal length: (first epoch, epochs, steps in each).

        The rest of an epoch that is under way, whole epochs, and a last one that is cut short.
        """
        epoch, done = self.state.epoch, self.state.epoch_step
        whole_epochs, tail = divmod(self.total_steps, self.steps)
        if done:
            last = min(self.steps, self.total_steps - epoch * self.steps)
            yield epoch, 1, max(last - done, 0)  # below 0 only after a change of the settings
            epoch += 1
        if epoch < whole_epochs:
            yield epoch, whole_epochs - epoch, self.steps
            epoch = whole_epochs
        if epoch == whole_epochs and tail:
            yield epoch, 1, tail

    def _batches(self, epoch: int, step: int, share: Share) -> tf.data.Dataset:
        recipe = self.recipe
        return training_batches(
            self.source,
            self.model.preprocessing,
            recipe.augmentation,
            batch_size=recipe.batch_size,
            seed=recipe.seed,
            start_epoch=epoch,
            start_step=step,
            epochs=self.epochs,
            share=share,
        )

    def _validation_batches(self, share: Share) -> tf.data.Dataset:
        batch_size, preprocessing = self.recipe.batch_size, self.model.preprocessing
        batches = validation_batches(
            self.source, "test", preprocessing, batch_size=batch_size, share=share
        )
        if self.source.splits["test"] * math.prod(preprocessing.output_shape) >= _CACHED_VALUES:
            return batches
        # Not `cache()`: an iterator given up half-way, as Keras does, may leave a cache cut short.
        arrays = [np.stack(part) for part in zip(*batches.as_numpy_iterator(), strict=True)]
        return tf.data.Dataset.from_tensor_slices(tuple(arrays))

    def _judge(
        self,
        callbacks: list[keras.callbacks.Callback],
        saving: SaveProgress,
        validation: Any,
        epoch: int,
    ) -> None:
        """The evaluation of an epoch whose steps were done when the run was stopped."""
        logs = self.trained.train_logs()
        everyone = keras.callbacks.CallbackList(callbacks, model=self.trained)
        everyone.on_epoch_begin(epoch)
        results = self.trained.evaluate(
            validation,
            steps=self.validation_steps,
            return_dict=True,
            verbose=0,
            callbacks=[saving],
        )
        logs |= {f"val_{name}": value for name, value in results.items()}
        everyone.on_epoch_end(epoch, logs)


def check_batch_size(recipe: Recipe, replicas: int) -> None:
    """Refuse a batch that cannot be divided.

    Args:
        recipe: its `batch_size` and `accumulation` are read.
        replicas: that share a batch.

    Raises:
        ValueError: if the batch is not a whole number of parts on each replica.

    Example:
        >>> from training.recipes import RECIPES
        >>> check_batch_size(RECIPES["digits"], replicas=4)
    """
    parts = replicas * recipe.accumulation
    if recipe.batch_size % parts:
        nearest = max(parts, round(recipe.batch_size / parts) * parts)
        raise ValueError(
            f"batch_size={recipe.batch_size} is not a multiple of {replicas} replicas x "
            f"{recipe.accumulation} accumulated parts: each must get the same share of every "
            f"batch. --batch-size {nearest} is the nearest that is."
        )


@contextlib.contextmanager
def _lost_workers_explained(scope: tf.distribute.Strategy) -> Iterator[None]:
    try:
        yield
    except (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,  # the chief was stopped, not ended
        tf.errors.InternalError,
    ) as error:
        if not is_multiworker(scope):
            raise
        lines = str(error).splitlines()
        # Where the error came up in the graph stands before what it is.
        reason = next((line for line in lines if "aborted by" in line), lines[0]).strip()
        raise WorkerLostError(
            f"Another worker of this run has ended, so this one stops too ({reason[:200]}). Start "
            f"all workers again with the same command: the run goes on from its last checkpoint."
        ) from error


def _silent(line: str) -> None:
    """Where the words of the workers go that are not the chief."""
