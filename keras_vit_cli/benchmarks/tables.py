"""Results of a race as JSON and as a table."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from typing import Any

from keras_vit_cli.benchmarks.contenders import LIMIT, OURS
from keras_vit_cli.benchmarks.runner import Result
from serving.processor import instructions

_WIDTH = 118  # of the table where there is no terminal


def to_json(results: Sequence[Result], operations: float) -> dict[str, Any]:
    """Results as what `--json` writes.

    Args:
        results: of one race with one task.
        operations: floating-point operations of one image, 0 where none are counted.

    Returns:
        Medians, rates and ratios; `ratio` is the images per second of ours over the contender's.
    """
    ours = next((r for r in results if r.name == OURS and r.seconds), None)
    rows = []
    for result in results:
        row: dict[str, Any] = {"contender": result.name, **result.about}
        if not result.seconds:
            rows.append(row | {"error": result.error or "it gave no time"})
            continue
        done = result.about.get("operations", operations * result.task.batch_size)
        row |= {
            "median_ms": round(1e3 * result.median, 3),
            "min_ms": round(1e3 * min(result.seconds), 3),
            "max_ms": round(1e3 * max(result.seconds), 3),
            "steps": len(result.seconds),
            "peak_megabytes": round(result.peak_megabytes),
            "ready_seconds": round(result.ready_seconds, 1),
        }
        if done:
            row["gflops_per_second"] = round(done / result.median / 1e9, 1)
        if result.name != LIMIT:
            row["images_per_second"] = round(result.images_per_second, 2)
            row["megabytes_per_image"] = round(result.megabytes_per_image, 1)
            if ours is not None and result is not ours:
                row["ratio"] = round(ours.images_per_second / result.images_per_second, 3)
        rows.append(row)
    task = dataclasses.asdict(results[0].task)
    task.pop("options")
    return {"task": task, "machine": machine(), "results": rows}


def machine() -> dict[str, Any]:
    """The processor, as far as it says what it is.

    Returns:
        Its name, number of cores and instruction sets that matter.

    Example:
        >>> machine()["cores"] > 0
        True
    """
    import os
    from pathlib import Path

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    fields = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    present = instructions()
    wanted = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")
    return {
        "processor": fields.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "instructions": [flag for flag in wanted if flag in present],
    }


def print_table(report: dict[str, Any]) -> None:
    """Show what `to_json` gives.

    Args:
        report: one task's.
    """
    from rich.console import Console
    from rich.table import Table

    task = report["task"]
    sizes = (
        f"{task['image_size']} px",
        f"batch {task['batch_size']}",
        f"{task['threads']} threads",
    )
    parts = (task["kind"], task["model"], task["dtype"], *sizes)
    title = " · ".join(part for part in parts if part)
    table = Table(title=title, caption=f"{report['machine']['processor']}, ratio: ours to theirs")
    for name in ("contender", "median ms", "images/s", "GFLOP/s", "peak MB", "MB/image", "ratio"):
        table.add_column(name, justify="left" if name == "contender" else "right")
    for row in report["results"]:
        if "error" in row:
            table.add_row(row["contender"], row["error"], *[""] * 5)
            continue
        table.add_row(
            row["contender"],
            f"{row['median_ms']:,.1f}",
            f"{row['images_per_second']:,.1f}" if "images_per_second" in row else "",
            f"{row['gflops_per_second']:,.0f}" if "gflops_per_second" in row else "",
            f"{row['peak_megabytes']:,}",
            f"{row['megabytes_per_image']:,.1f}" if "megabytes_per_image" in row else "",
            f"{row['ratio']:.2f}" if "ratio" in row else "",
        )
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH
    console.print(table)
