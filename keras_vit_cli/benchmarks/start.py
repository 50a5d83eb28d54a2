"""How long it takes until something works: each stage in processes of its own."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# What a process is asked to do, and which of its seconds count: those that it prints last.
_BUILD = """
import sys, time
import keras_vit
start = time.perf_counter()
keras_vit.create_model(sys.argv[1])
print(time.perf_counter() - start)
"""
_LOAD = """
import sys, time
import keras_vit
start = time.perf_counter()
keras_vit.from_pretrained(sys.argv[1])
print(time.perf_counter() - start)
"""
_CLIENT = "import serving.client"
_PATIENCE = 600  # seconds until a server that says nothing is given up


def stages(model: str, folder: Path) -> list[tuple[str, Callable[[], float]]]:
    """What is timed, in an order in which each finds what it needs.

    Args:
        model: a name of `keras-vit models`.
        folder: an empty one, for the files.

    Returns:
        Names, and functions that do the stage once and give its seconds.
    """
    import keras_vit

    checkpoint, served = folder / "checkpoint", folder / "served"
    made = keras_vit.create_model(model)
    keras_vit.save_checkpoint(made, checkpoint, format="timm")
    command = [sys.executable, "-m", "keras_vit_cli"]
    python = [sys.executable, "-c"]

    def export() -> float:
        return _wall([*command, "export", str(checkpoint), str(served)])

    return [
        ("keras-vit --help", lambda: _wall([*command, "--help"])),
        ("import serving.client", lambda: _wall([*python, _CLIENT])),
        ("import keras_vit", lambda: _wall([*python, "import keras_vit"])),
        (f"build {model}", lambda: _printed([*python, _BUILD, model])),
        ("load its weights", lambda: _printed([*python, _LOAD, str(checkpoint)])),
        ("keras-vit export", export),
        ("keras-vit serve, until it serves", lambda: _until_served(command, served)),
    ]


def measure_start(model: str, folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Time every stage several times.

    Args:
        model: a name of `keras-vit models`.
        folder: an empty one.
        rounds: how often, at least 1.

    Returns:
        A row for each stage: `stage`, `median_seconds`, `min_seconds`, `max_seconds`.
    """
    rows = []
    for name, once in stages(model, folder):
        seconds = [once() for _ in range(rounds)]
        row = {
            "stage": name,
            "median_seconds": round(statistics.median(seconds), 3),
            "min_seconds": round(min(seconds), 3),
            "max_seconds": round(max(seconds), 3),
        }
        print(json.dumps(row), file=sys.stderr)
        rows.append(row)
    return rows


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")
    return done.stdout


def _wall(command: Sequence[str]) -> float:
    start = time.perf_counter()
    _run(command)
    return time.perf_counter() - start


def _printed(command: Sequence[str]) -> float:
    return float(_run(command).split()[-1])


def _until_served(command: Sequence[str], base: Path) -> float:
    """Seconds until a server says that it serves, the warm-up included."""
    start = time.perf_counter()
    options = ["--port", "0", "--rest-port", "0"]
    server = subprocess.Popen(
        [*command, "serve", str(base), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=_environment(),
    )
    try:
        for line in server.stdout or ():
            if line.startswith("Serving"):
                return time.perf_counter() - start
            if time.perf_counter() - start > _PATIENCE:
                break
    finally:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.communicate(timeout=60)
        server.kill()
    raise RuntimeError(f"The server of {base} did not say that it serves.")


def _environment() -> dict[str, str]:
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1"}


def print_start(rows: Sequence[dict[str, Any]]) -> None:
    """Show what `measure_start` gives.

    Args:
        rows: its rows.
    """
    from rich.console import Console
    from rich.table import Table

    shown = Table(title="time to start")
    shown.add_column("stage")
    for name in ("median s", "min s", "max s"):
        shown.add_column(name, justify="right")
    for row in rows:
        numbers = (row[f"{kind}_seconds"] for kind in ("median", "min", "max"))
        shown.add_row(row["stage"], *(f"{number:.2f}" for number in numbers))
    Console(highlight=False).print(shown)
