"""What happens while `fit` runs: saving, stopping when told to, and when the loss is lost."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import keras
import tensorflow as tf

from keras_vit import VisionTransformer
from keras_vit.atomic_files import hidden_sibling, publish, write_text
from training.checkpoints import Checkpoints, TrainingState
from training.config import CheckpointConfig
from training.interruption import StopRequest, TrainingInterruptedError
from training.train_step import TrainedModel

# A loss scale below this does not come back.
_LOWEST_LOSS_SCALE = 2.0**-14


class TrainingDivergedError(ArithmeticError):
    """The loss is no longer a number."""


class StopWhenNotFinite(keras.callbacks.Callback):
    """Raise `TrainingDivergedError` as soon as the loss is NaN or infinite.

    Args:
        workdir: of the run, for the message.
    """

    def __init__(self, workdir: Path) -> None:
        super().__init__()
        self._workdir = workdir
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Remember the epoch."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Look at the running mean of the loss: one NaN stays in it."""
        logs = logs or {}
        loss = logs.get("loss", 0.0)
        scale = logs.get("loss_scale", 1.0)
        if math.isfinite(loss) and scale >= _LOWEST_LOSS_SCALE:
            return
        reason = f"loss is {loss}" if not math.isfinite(loss) else f"loss scale fell to {scale:.2g}"
        raise TrainingDivergedError(
            f"The {reason} in epoch {self._epoch + 1}, step {batch + 1}. Nothing was saved since "
            f"the last checkpoint; {self._workdir} still holds it. Try a lower "
            f"--optimizer.learning-rate, a longer --schedule.warmup-epochs, or "
            f"--model.dtype float32."
        )


class SaveProgress(keras.callbacks.Callback):
    """Checkpoints, and at the end of each epoch a row of metrics and the best model so far.

    The rows live in the checkpoint and `metrics.csv` is written from them, so a run that was killed
    and resumed has each epoch once.

    Args:
        workdir: where to write.
        model: the Vision Transformer that is trained.
        checkpoints: of the run.
        state: where the run is; `self.state` moves on from it.
        steps: in an epoch.
        total_steps: after which the run is done, within an epoch if need be.
        validation_steps: in an evaluation.
        config: when to save.
        request: checked after each step; when it is true, the run is saved and stops.
        write: whether this process is the one that writes files. Default True.
        report: called with lines for the user. Default `print`.

    Raises:
        TrainingInterruptedError: after a stop request.
    """

    def __init__(
        self,
        workdir: Path,
        model: VisionTransformer,
        checkpoints: Checkpoints,
        state: TrainingState,
        *,
        steps: int,
        total_steps: int,
        validation_steps: int,
        config: CheckpointConfig,
        request: StopRequest,
        write: bool = True,
        report: Callable[[str], None] = print,
    ) -> None:
        super().__init__()
        self.state = state
        self._workdir = workdir
        self._vit = model
        self._write = write
        self._checkpoints = checkpoints
        self._steps = steps
        self._total_steps = total_steps
        self._validation_steps = validation_steps
        self._config = config
        self._request = request
        self._report = report
        self._restored_sums: Any = None
        self._started = self._saved = time.monotonic()

    @property
    def trained(self) -> TrainedModel:
        """What `fit` runs."""
        return self.model

    def on_train_begin(self, logs: Any = None) -> None:
        """Keep what the checkpoint says about an epoch that is under way."""
        # Keras resets it before each epoch.
        self._restored_sums = self.trained.train_sums.numpy() if self.state.epoch_step else None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the clock, and go on with the sums of an epoch that is under way."""
        if self._restored_sums is not None:
            self.trained.train_sums.assign(self._restored_sums)
            self._restored_sums = None
        self._started = time.monotonic() - self.state.seconds
        self._saved = time.monotonic()
        done = self.state.epoch * self._steps
        self.trained.steps_left = min(self._steps, self._total_steps - done) - self.state.epoch_step

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Tell the other workers, who must stop at the same step."""
        if self._request:
            self.trained.ask_to_stop()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count the step; save when it is time to, or when the run must stop."""
        last = min(self._steps, self._total_steps - self.state.epoch * self._steps)
        step = last - (self.trained.steps_left or 0)
        seconds = time.monotonic() - self._started
        before = self.state.epoch_step
        self.state = dataclasses.replace(self.state, epoch_step=step, seconds=round(seconds, 3))
        if self.trained.must_stop(bool(self._request)):
            self._stop()
        every_steps, minutes = self._config.every_steps, self._config.every_minutes
        due = every_steps is not None and step // every_steps > before // every_steps
        due |= minutes is not None and time.monotonic() - self._saved > 60 * minutes
        if due and step < last:
            self._save()

    def on_test_begin(self, logs: Any = None) -> None:
        """Evaluation has steps of its own."""
        self.trained.steps_left = self._validation_steps

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Cut an evaluation short; it is repeated when the run goes on."""
        if self._request and not self.trained.has_workers and self.trained.steps_left:
            self.trained.stop_evaluating = True

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Save, the checkpoint first: it is what counts."""
        if self.trained.steps_left:  # the evaluation was cut short
            self._stop()
        row: dict[str, float] = {"epoch": epoch + 1}
        row |= {name: round(float(value), 6) for name, value in (logs or {}).items()}
        row["learning_rate"] = float(self.model.optimizer.learning_rate)
        row["seconds"] = round(time.monotonic() - self._started, 3)
        self.state = dataclasses.replace(
            self.state,
            epoch=self.state.epoch + 1,
            epoch_step=0,
            history=[*self.state.history, row],
            seconds=0.0,
        )
        if self._write:
            self._save()
            try:
                write_metrics(self._workdir / "metrics.csv", self.state.history)
                save_if_best(self.trained, self._vit, self._workdir, self.state)
            except OSError as error:
                self._report(f"{error}. Training goes on; the next epoch tries again.")
        if self._request and not self.trained.has_workers:
            self._interrupt()

    def _save(self) -> None:
        self._saved = time.monotonic()
        if self._write:
            self._checkpoints.save(self.state)

    def _stop(self) -> NoReturn:
        self._save()
        self._interrupt()

    def _interrupt(self) -> NoReturn:
        # A worker that only heard of it from another one has no signal of its own.
        raise TrainingInterruptedError(self._request.signal_number or signal.SIGTERM)


class WriteSummaries(keras.callbacks.Callback):
    """The metrics of each epoch for TensorBoard, under the names that Keras gives them.

    Keras' own callback ends the run when the disk is full: the curves are not worth that.

    Args:
        directory: gets `train/` and `validation/`.
        report: called with one line for the user when they cannot be written. Default `print`.
    """

    def __init__(self, directory: Path, report: Callable[[str], None] = print) -> None:
        super().__init__()
        self._directory = directory
        self._report = report
        self._writers: dict[str, Any] = {}
        self._failed = False

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Write what has been measured, or say once that it cannot be written."""
        logs = {**(logs or {}), "learning_rate": float(self.model.optimizer.learning_rate)}
        parts: dict[str, dict[str, float]] = {"train": {}, "validation": {}}
        for name, value in logs.items():
            part = "validation" if name.startswith("val_") else "train"
            parts[part][f"epoch_{name.removeprefix('val_')}"] = value
        try:
            for part, values in parts.items():
                self._write(part, values, epoch)
        except (OSError, tf.errors.OpError) as error:
            if not self._failed:
                self._report(f"{self._directory} cannot be written ({error}). Training goes on.")
            self._failed = True

    def _write(self, part: str, values: dict[str, float], epoch: int) -> None:
        if part not in self._writers:
            self._writers[part] = tf.summary.create_file_writer(str(self._directory / part))
        with self._writers[part].as_default(step=epoch):
            for name, value in values.items():
                tf.summary.scalar(name, value)
        self._writers[part].flush()


def save_if_best(
    trained: TrainedModel, model: VisionTransformer, workdir: Path, state: TrainingState
) -> None:
    """Write `checkpoints/best.keras` if the last epoch is the best, and nothing came after it.

    Args:
        trained: what `fit` runs.
        model: what is saved, with the moving average of its weights where there is one.
        workdir: of the run.
        state: where the run is.
    """
    accuracies = [row["val_top1"] for row in state.history]
    if not accuracies or state.epoch_step or max(accuracies[:-1], default=-1.0) >= accuracies[-1]:
        return
    with trained.averaged_weights():
        save_model(model, workdir / "checkpoints" / "best.keras")


def save_model(model: VisionTransformer, path: Path) -> None:
    """Write a `.keras` file whole or not at all.

    Args:
        model: what to save.
        path: ends in `.keras`.
    """
    with hidden_sibling(path) as temporary:
        model.save(temporary)
        publish(temporary, path)


def write_metrics(path: Path, history: list[dict[str, float]]) -> None:
    """Write the rows as CSV, whole or not at all.

    Args:
        path: of the file.
        history: one row for each epoch; a key that a row has not is left empty in it.
    """
    text = io.StringIO()
    names = dict.fromkeys(name for row in history for name in row)
    writer = csv.DictWriter(text, fieldnames=list(names) or ["epoch"])
    writer.writeheader()
    writer.writerows(history)
    write_text(path, text.getvalue())
