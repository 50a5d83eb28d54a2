"""Which batching parameters suit a model on this machine: try them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from serving.bench.results import Level
from serving.bench.run import Bench
from serving.configuration.batching import BatchingParameters

_SIZES = (4, 8, 16, 32)
_TIMEOUTS = (0, 2000)  # microseconds


@dataclasses.dataclass(frozen=True)
class Trial:
    """Batching parameters and what they gave.

    Args:
        parameters: None for no batching.
        level: throughput and latency.
    """

    parameters: BatchingParameters | None
    level: Level

    @property
    def name(self) -> str:
        """For a table."""
        if self.parameters is None:
            return "no batching"
        size, wait = self.parameters.max_batch_size, self.parameters.batch_timeout_micros
        return f"up to {size} images, waiting {wait / 1000:g} ms"


def candidates(threads: int | None = None) -> list[BatchingParameters]:
    """What is worth a try on any machine.

    Args:
        threads: batches that run at the same time. Default None: one for each two cores, since one
            batch uses several.

    Returns:
        Parameters, from small batches to large ones.

    Example:
        >>> [(p.max_batch_size, p.batch_timeout_micros) for p in candidates(1)][:2]
        [(4, 0), (4, 2000)]
    """
    count = threads or max(1, (os.cpu_count() or 1) // 2)
    return [
        BatchingParameters(
            max_batch_size=size,
            batch_timeout_micros=timeout,
            max_enqueued_batches=100,
            num_batch_threads=count,
            allowed_batch_sizes=tuple(2**i for i in range(size.bit_length())),
        )
        for size in _SIZES
        for timeout in _TIMEOUTS
    ]


def tune(
    base: Path,
    bench: Bench,
    parameters: Sequence[BatchingParameters],
    report: Callable[[Trial], None] = lambda trial: None,
) -> list[Trial]:
    """Serve a model without batching and with each of the parameters, under the same load.

    Args:
        base: the model's base directory.
        bench: the load, of one level; its address is replaced by that of each server.
        parameters: to try.
        report: called with each trial.

    Returns:
        The trials, the one with the most answers per second first.

    Raises:
        ValueError: if the load has several levels.
        RuntimeError: if a server does not start; with its last words.

    Example:
        `tune(Path("served/digits"), Bench("localhost:1", "digits", loads=(16,)), candidates())`
    """
    if len(bench.loads) != 1:
        raise ValueError(f"Tuning needs one load, such as 16 clients, not {list(bench.loads)}.")
    trials = []
    for tried in (None, *parameters):
        with _served(base, bench.model, tried) as (address, rest_port):
            (level,) = dataclasses.replace(bench, address=address, rest_port=rest_port).run().levels
        trials.append(Trial(tried, level))
        report(trials[-1])
    return sorted(trials, key=lambda trial: -trial.level.images_per_second)


@contextlib.contextmanager
def _served(
    base: Path, name: str, parameters: BatchingParameters | None
) -> Iterator[tuple[str, int]]:
    """A server in a process of its own: its address, and its REST port."""
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"port": 0, "rest_port": 0}
        if parameters is not None:
            file = Path(folder) / "batching.pbtxt"
            file.write_text(parameters.to_text())
            options["batching_parameters_file"] = str(file)
        code = (
            "import json, pathlib, sys\n"
            "from serving.server import serve\n"
            "base, name, options = json.loads(sys.argv[1])\n"
            "if file := options.get('batching_parameters_file'):\n"
            "    options['batching_parameters_file'] = pathlib.Path(file)\n"
            "serve(base, name, **options)"
        )
        log = Path(folder) / "log"
        with log.open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, "-c", code, json.dumps([str(base), name, options])],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        try:
            line = process.stdout.readline() if process.stdout else ""
            found = re.search(r" at (\S+) \(.*REST at \S+:(\d+)\)", line)
            if found is None:
                process.wait()
                raise RuntimeError(f"The server did not start: {log.read_text()[-2000:].strip()}")
            yield found[1], int(found[2])
        finally:
            process.terminate()
            process.wait()
