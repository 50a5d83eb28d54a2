"""How far a download is: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator


def readable_size(size: float) -> str:
    """A number of bytes for people.

    >>> readable_size(346_293_852)
    '346.3 MB'
    """
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


@contextlib.contextmanager
def progress_of(
    name: str, start: int, total: int | None, report: Callable[[str], None] | None
) -> Iterator[Callable[[int], None]]:
    """A function that shows how many bytes have arrived: a bar, lines, or nothing.

    Args:
        name: of the file.
        start: bytes that were there before.
        total: bytes in all; None if unknown.
        report: gets lines when stderr is no terminal; None for nothing.

    Yields:
        To be called with the number of bytes so far.

    Example:
        >>> with progress_of("a.npz", 0, 4_000_000, lambda line: print(line[:22])) as show:
        ...     show(1_000_000)
        a.npz: 1.0 MB of 4.0 M
    """
    if sys.stderr is not None and sys.stderr.isatty():
        from rich import console, progress

        with progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
            console=console.Console(stderr=True),
        ) as bar:
            task = bar.add_task(name, total=total, completed=start)
            yield lambda received: bar.update(task, completed=received)
    else:
        yield _Lines(name, start, total, report or (lambda line: None))


class _Lines:
    def __init__(self, name: str, start: int, total: int | None, report: Callable[[str], None]):
        self.name, self.start, self.total, self.report = name, start, total, report
        self.began = time.monotonic()
        # Without a size there are no percents: a line every 100 MB then.
        self.step = total / 10 if total else 100e6
        self.shown = int(start / self.step)

    def __call__(self, received: int) -> None:
        if int(received / self.step) <= self.shown:
            return
        self.shown = int(received / self.step)
        speed = (received - self.start) / max(time.monotonic() - self.began, 1e-3)
        line = f"{self.name}: {readable_size(received)}"
        if self.total:
            line += f" of {readable_size(self.total)} ({received / self.total:.0%})"
        line += f", {readable_size(speed)}/s"
        if self.total and received < self.total:
            line += f", {(self.total - received) / max(speed, 1):.0f} s left"
        self.report(line)
