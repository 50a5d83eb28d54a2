"""What a person sees while training runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import keras
import rich.console
import rich.progress


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


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"
