"""A bar on standard error for what takes long."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import rich.console
import rich.progress

Item = TypeVar("Item")


def with_progress(batches: Iterable[Item], text: str, total: int, show: bool) -> Iterator[Item]:
    """The same batches, with a bar that moves with each one.

    Args:
        batches: what is gone through.
        text: stands before the bar.
        total: how many batches there are.
        show: whether there is a bar; there is none either where standard error is no terminal.

    Yields:
        The batches.

    Example:
        >>> list(with_progress(["a", "b"], "letters", 2, show=True))
        ['a', 'b']
    """
    console = rich.console.Console(stderr=True)
    if not (show and console.is_terminal):
        yield from batches
        return
    with rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.TaskProgressColumn(),
        rich.progress.TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as bar:
        task = bar.add_task(text, total=total)
        for batch in batches:
            yield batch
            bar.advance(task)
