"""What happens while `fit` runs: saving, progress, and stopping when the loss is lost."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import rich.console
import rich.progress

from keras_vit import VisionTransformer
from keras_vit.atomic_files import hidden_sibling, publish, write_text
from training.checkpoints import Checkpoints, TrainingState


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
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise TrainingDivergedError(
                f"The loss is {loss} in epoch {self._epoch + 1}, step {batch + 1}. Nothing of this "
                f"epoch was saved; {self._workdir} still holds the epochs before. Try a lower "
                f"--optimizer.learning-rate, a longer --schedule.warmup-epochs, or "
                f"--model.dtype float32."
            )


class SaveProgress(keras.callbacks.Callback):
    """At the end of each epoch: a row of metrics, a checkpoint, and the best model so far.

    The rows live in the checkpoint and `metrics.csv` is written from them, so a run that was killed
    and resumed has each epoch once.

    Args:
        workdir: where to write.
        model: the Vision Transformer that is trained.
        checkpoints: of the run.
        history: the rows of the epochs that are done; extended in place.
        write: whether this process is the one that writes files. Default True.
    """

    def __init__(
        self,
        workdir: Path,
        model: VisionTransformer,
        checkpoints: Checkpoints,
        history: list[dict[str, float]],
        write: bool = True,
    ) -> None:
        super().__init__()
        self._workdir = workdir
        self._vit = model
        self._write = write
        self._checkpoints = checkpoints
        self._history = history
        self._start = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Save, the checkpoint first: it is what counts."""
        row: dict[str, float] = {"epoch": epoch + 1}
        row |= {name: round(float(value), 6) for name, value in (logs or {}).items()}
        row["learning_rate"] = float(self.model.optimizer.learning_rate)
        row["seconds"] = round(time.perf_counter() - self._start, 3)
        best = max((past["val_top1"] for past in self._history), default=-1.0)
        self._history.append(row)
        if not self._write:
            return
        self._checkpoints.save(TrainingState(epoch + 1, self._history))
        write_metrics(self._workdir / "metrics.csv", self._history)
        if row["val_top1"] > best:
            save_model(self._vit, self._workdir / "checkpoints" / "best.keras")


class ShowProgress(keras.callbacks.Callback):
    """A bar with images per second and the time left; one line for each finished epoch.

    Args:
        steps: in an epoch.
        batch_size: images in a step.
        epochs: of the whole run.
        report: called with the line of each epoch. Default `print`.
    """

    def __init__(
        self,
        steps: int,
        batch_size: int,
        epochs: int,
        report: Callable[[str], None] = print,
    ) -> None:
        super().__init__()
        self._steps = steps
        self._batch_size = batch_size
        self._epochs = epochs
        self._report = report
        console = rich.console.Console()
        self._progress = rich.progress.Progress(
            rich.progress.TextColumn("epoch {task.fields[epoch]}/" + str(epochs)),
            rich.progress.BarColumn(),
            rich.progress.TaskProgressColumn(),
            rich.progress.TextColumn("{task.fields[text]}"),
            rich.progress.TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: rich.progress.TaskID | None = None
        self._start = 0.0
        self._rate = 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        """Show the bar."""
        self._progress.start()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the clock of the epoch."""
        if self._task is None:
            total = (self._epochs - epoch) * self._steps
            self._task = self._progress.add_task("", total=total, epoch=epoch + 1, text="")
        else:
            self._progress.update(self._task, epoch=epoch + 1)
        self._start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Move the bar."""
        seconds = time.perf_counter() - self._start
        # Of the training steps alone, without the validation that follows.
        self._rate = (batch + 1) * self._batch_size / seconds
        text = f"loss {(logs or {}).get('loss', 0):.3f}  {self._rate:,.0f} images/s"
        if self._task is not None:
            self._progress.update(self._task, advance=1, text=text)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Leave one line behind."""
        logs = logs or {}
        seconds = time.perf_counter() - self._start
        left = seconds * (self._epochs - epoch - 1)
        self._report(
            f"epoch {epoch + 1:>3}/{self._epochs}  loss {logs['loss']:.4f}  "
            f"top1 {logs['top1']:.4f}  val_loss {logs['val_loss']:.4f}  "
            f"val_top1 {logs['val_top1']:.4f}  {self._rate:,.0f} images/s  "
            f"{_duration(left)} left"
        )

    def on_train_end(self, logs: Any = None) -> None:
        """Take the bar away."""
        self.stop()

    def stop(self) -> None:
        """Take the bar away, also after an interruption."""
        self._progress.stop()


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
        history: one row for each epoch, all with the same keys.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(history[0]) if history else ["epoch"])
    writer.writeheader()
    writer.writerows(history)
    write_text(path, text.getvalue())


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"
