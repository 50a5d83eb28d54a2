"""The process of one contender: `python -m keras_vit_cli.benchmarks.worker NAME TASK`.

It says when it is ready, then takes a number of steps from each line of its input, and answers with
a line of JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from typing import Any

from keras_vit_cli.benchmarks.contenders import CONTENDERS
from keras_vit_cli.benchmarks.runner import Task


def main(name: str, task: Task) -> None:
    """Serve the one that started this process until its pipe ends.

    Args:
        name: in `CONTENDERS`.
        task: what a step does.
    """
    # Libraries print what they like; only answers go to the pipe.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")

    _keep_to_cores(task.threads)
    start = time.perf_counter()
    _, module, function = CONTENDERS[name]
    try:
        step, about = getattr(importlib.import_module(module), function)(task)
        built = _peak_megabytes()
        step()
    except Exception as error:  # noqa: BLE001  whatever a peer raises is said, and the others go on
        answer(error=f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300]}")
        return
    answer(ready_seconds=time.perf_counter() - start, built_megabytes=built, about=about)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            begin = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - begin)
        answer(seconds=seconds, peak_megabytes=_peak_megabytes())


def _keep_to_cores(count: int) -> None:
    """Leave this process so many cores, however many threads a library starts."""
    if hasattr(os, "sched_setaffinity"):  # not on every system
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def _peak_megabytes() -> float:
    """The most memory that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 if sys.platform == "linux" else 2**20)


if __name__ == "__main__":
    main(sys.argv[1], Task(**json.loads(sys.argv[2])))
