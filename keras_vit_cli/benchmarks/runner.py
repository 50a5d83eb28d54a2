"""Contenders in processes of their own, which take turns on a machine that all have alone."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from keras_vit_cli.benchmarks.contenders import CONTENDERS, missing


@dataclasses.dataclass(frozen=True)
class Task:
    """What one contender does in each step.

    Args:
        kind: "inference", "images", "training" or "input".
        model: a name of `keras_vit.list_models`; empty for "input".
        dtype: "float32" or "bfloat16".
        batch_size: images of a step.
        image_size: height and width in pixels.
        threads: that the contender may use.
        options: of one kind only, such as the files of "images".
    """

    kind: str
    model: str
    dtype: str = "float32"
    batch_size: int = 8
    image_size: int = 224
    threads: int = 2
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Result:
    """What was seen of a contender.

    Args:
        name: of the contender.
        task: what it did.
        seconds: of each step.
        ready_seconds: from the start of its process until it could begin.
        built_megabytes: most memory that its process had had before its first step.
        peak_megabytes: most memory that its process has had.
        error: why there are no numbers, or None.
        about: what the contender says of itself: versions, sizes, agreement.
    """

    name: str
    task: Task
    seconds: list[float] = dataclasses.field(default_factory=list)
    ready_seconds: float = 0.0
    built_megabytes: float = 0.0
    peak_megabytes: float = 0.0
    error: str | None = None
    about: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def median(self) -> float:
        """Seconds of the median step."""
        return statistics.median(self.seconds)

    @property
    def images_per_second(self) -> float:
        """Of the median step."""
        return self.task.batch_size / self.median

    @property
    def megabytes_per_image(self) -> float:
        """What the steps needed beyond what was there before them, over the images of a step."""
        return (self.peak_megabytes - self.built_megabytes) / self.task.batch_size


class _Worker:
    """One contender's process: it gets a number of steps to do and says how long each took."""

    def __init__(self, name: str, task: Task) -> None:
        self.result = Result(name, task)
        environment = dict(os.environ)
        for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            environment[variable] = str(task.threads)
        environment["TF_CPP_MIN_LOG_LEVEL"] = "3"
        environment["KERAS_BACKEND"] = "tensorflow"
        command = [sys.executable, "-m", "keras_vit_cli.benchmarks.worker", name]
        self._process = subprocess.Popen(
            [*command, json.dumps(dataclasses.asdict(task))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        ready = self._read()
        self.result.ready_seconds = ready.get("ready_seconds", 0.0)
        self.result.built_megabytes = ready.get("built_megabytes", 0.0)
        self.result.about = ready.get("about", {})

    def run(self, steps: int) -> list[float]:
        """Do some steps; none if the contender has failed."""
        if self.result.error is not None:
            return []
        with contextlib.suppress(BrokenPipeError):  # `_read` says that it ended
            print(steps, file=self._process.stdin, flush=True)
        answer = self._read()
        self.result.peak_megabytes = answer.get("peak_megabytes", 0.0)
        return answer.get("seconds", [])

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        answer = json.loads(line) if line else {"error": f"it ended ({self._process.wait()})"}
        self.result.error = answer.get("error", self.result.error)
        return answer


def race(
    entries: Sequence[tuple[str, Task]],
    rounds: int,
    seconds: float,
    report: Callable[[str], None],
) -> list[Result]:
    """Measure contenders in turns, so that what else the machine does falls on all of them.

    Args:
        entries: contenders' names and what each is to do.
        rounds: how often each has its turn, at least 1.
        seconds: about how long a turn is.
        report: told what goes on.

    Returns:
        One `Result` for each entry, in order; with `error` where a contender could not run.

    Example:
        `race([("keras-vit", Task("inference", "vit_tiny_patch16_224"))], 5, 2.0, print)`
    """
    workers: list[_Worker] = []
    failed: dict[int, Result] = {}
    try:
        for index, (name, task) in enumerate(entries):
            lacking = missing(name)
            if lacking is not None:
                failed[index] = Result(name, task, error=lacking)
                continue
            report(f"{name}: getting ready")
            worker = _Worker(name, task)
            workers.append(worker)
            if worker.result.error is not None:
                report(f"{name}: {worker.result.error}")
        steps = dict.fromkeys(workers, 0)
        for worker in workers:  # a first turn: plans are made and caches filled; it does not count
            warm = worker.run(3)
            if warm:
                steps[worker] = max(1, min(200, round(seconds / min(warm))))
        for number in range(rounds):
            for worker in workers:
                worker.result.seconds += worker.run(steps[worker])
            report(f"round {number + 1} of {rounds}")
    finally:
        for worker in workers:
            worker.close()
    done = iter([worker.result for worker in workers])
    return [failed.get(index) or next(done) for index in range(len(entries))]


def known(names: Sequence[str]) -> list[str]:
    """Contenders for names on the command line, such as `timm` for `timm` and `timm-compile`.

    Args:
        names: as given after `--against`.

    Returns:
        Names in `CONTENDERS`.

    Raises:
        ValueError: if one is not known.

    Example:
        >>> known(["onnxruntime"])
        ['onnxruntime']
    """
    found = []
    for name in names:
        matches = [c for c in CONTENDERS if c == name or c.startswith(f"{name}-")]
        if not matches:
            raise ValueError(f"There is no contender {name!r}: give some of {sorted(CONTENDERS)}.")
        found += matches
    return found
