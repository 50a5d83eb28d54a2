"""How the time of an export grows, beside its operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_vit.costs import costs
from keras_vit.variants import get_variant
from keras_vit_cli.benchmarks.contenders import OURS
from keras_vit_cli.benchmarks.runner import Task, race


def measure_growth(
    axes: Mapping[str, Sequence[Task]],
    rounds: int,
    seconds: float,
    report: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Time tasks that differ in one thing.

    Args:
        axes: what grows, and tasks of kind "inference", smallest first.
        rounds: turns of each.
        seconds: about how long a turn is.
        report: told what goes on.

    Returns:
        A row for each task: `axis`, `value`, `median_ms`, `gflops` and `over_operations`, its time
        over that of the first of its axis times the ratio of their operations.

    Raises:
        RuntimeError: if an export could not be timed.
    """
    rows = []
    for axis, tasks in axes.items():
        results = race([(OURS, task) for task in tasks], rounds, seconds, report)
        if failed := [result.error for result in results if not result.seconds]:
            raise RuntimeError(f"Not all of {axis} could be timed: {failed[0]}.")
        first = results[0].median / _operations(tasks[0])
        rows += [
            {
                "axis": axis,
                "value": task.options.get("depth", getattr(task, axis, None)),
                "median_ms": round(1e3 * result.median, 3),
                "gflops": round(_operations(task) / 1e9, 2),
                "peak_megabytes": round(result.peak_megabytes),
                "over_operations": round(result.median / _operations(task) / first, 3),
            }
            for task, result in zip(tasks, results, strict=True)
        ]
    return rows


def _operations(task: Task) -> float:
    """Floating-point operations of a step."""
    arguments = {**get_variant(task.model).arguments, "image_size": task.image_size, **task.options}
    _, multiplications = costs(arguments)
    return 2.0 * multiplications * task.batch_size


def print_growth(rows: Sequence[dict[str, Any]], title: str) -> None:
    """Show what `measure_growth` gives.

    Args:
        rows: its rows.
        title: what was measured.
    """
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=title)
    for name in ("", "", "median ms", "GFLOP", "peak MB", "over operations"):
        shown.add_column(name, justify="right")
    for row in rows:
        shown.add_row(
            row["axis"].replace("_", " "),
            str(row["value"]),
            f"{row['median_ms']:,.1f}",
            f"{row['gflops']:,.1f}",
            f"{row['peak_megabytes']:,}",
            f"{row['over_operations']:.2f}",
        )
    Console(highlight=False).print(shown)
