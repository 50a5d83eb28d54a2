"""What the commands have in common: a race between this project and those it is compared with."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from keras_vit.costs import costs
from keras_vit.variants import get_variant
from keras_vit_cli.benchmarks.contenders import LIMIT, OURS
from keras_vit_cli.benchmarks.runner import Task, known, race
from keras_vit_cli.benchmarks.tables import to_json


def measure(
    task: Task, against: str, rounds: int, seconds: float, passes: int, with_limit: bool
) -> dict[str, Any]:
    """Let this project and others do a task in turns.

    Args:
        task: what to do.
        against: names with commas between them, may be empty.
        rounds: turns of each, at least 1.
        seconds: about how long a turn is, above 0.
        passes: forward passes that one step is worth: 1, 3 with the gradient, 0 without a model.
        with_limit: whether the model's bare matrix products have their turns too.

    Returns:
        What `--json` writes.

    Raises:
        ValueError: if a number or a name makes no sense.
    """
    if rounds < 1 or seconds <= 0 or task.batch_size < 1 or task.threads < 1:
        raise ValueError("--rounds, --seconds, --batch-size and --threads must be positive.")
    names = known([name.strip() for name in against.split(",") if name.strip()])
    if task.kind == "input":
        names = [name for name in names if name != "timm-compile"]  # no model to compile
    entries = [OURS, *names, *([LIMIT] if with_limit else [])]
    results = race(
        [(name, task) for name in entries],
        rounds,
        seconds,
        lambda line: print(line, file=sys.stderr),
    )
    if not passes:
        return to_json(results, 0.0)
    _, work = costs({**get_variant(task.model).arguments, "image_size": task.image_size})
    return to_json(results, 2.0 * work * passes)


def write(report: dict[str, Any], file: Path | None) -> None:
    """Write a report, if a file is wanted.

    Args:
        report: of `measure`.
        file: or None.
    """
    if file is not None:
        file.write_text(json.dumps(report, indent=1) + "\n")
