"""Several processes on this machine that train together."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from typing import IO

# Set for what this module starts: such a process ends when its starter does.
_SUPERVISED = "KERAS_VIT_SUPERVISED"
_POLL_SECONDS = 0.2
_SECONDS_TO_SAVE = 60.0
_SECONDS_TO_END = 20.0
_LINES_SHOWN = 15


def run_workers(command: list[str], count: int, report: Callable[[str], None] = print) -> int:
    """Run a command as the workers of a `MultiWorkerMirroredStrategy`, until all have ended.

    The first worker, the chief, writes to this process's output; what another one printed is shown
    only when it is the one that failed. When a worker is lost the others are ended. SIGINT and
    SIGTERM go to all workers, which agree on a step to save at.

    Args:
        command: of each worker; they differ in TF_CONFIG.
        count: how many, at least 2.
        report: called with lines for the user. Default `print`.

    Returns:
        The exit status: 0 if all ended well, else that of the first that did not, 128 + the
        signal's number where a signal ended it, as in a shell.

    Raises:
        ValueError: if the count is below 2.
    """
    if count < 2:
        raise ValueError(f"--num-workers must be at least 2, not {count}.")
    ports = _free_ports(count)
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    outputs: list[IO[bytes] | None] = [None]  # the chief's is this process's own
    workers: list[subprocess.Popen] = []
    with contextlib.ExitStack() as files:
        outputs += [files.enter_context(tempfile.TemporaryFile()) for _ in range(1, count)]
        for index, output in enumerate(outputs):
            task = {"cluster": cluster, "task": {"type": "worker", "index": index}}
            worker = subprocess.Popen(
                command,
                env={**os.environ, "TF_CONFIG": json.dumps(task), _SUPERVISED: "1"},
                stdin=subprocess.PIPE,  # closed when this process ends, however it does
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                start_new_session=True,  # Ctrl-C of a terminal comes to this process alone
            )
            workers.append(worker)
        return _supervise(workers, outputs, report)


def _supervise(
    workers: list[subprocess.Popen], outputs: list[IO[bytes] | None], report: Callable[[str], None]
) -> int:
    told = _forward_signals(workers)
    try:
        failed = _wait(workers, told)
        if failed is not None and not told:
            ended = failed.returncode
            how = f"signal {-ended}" if ended < 0 else f"exit status {ended}"
            index = workers.index(failed)
            report(
                f"Worker {index} of {len(workers)} has ended ({how}); the others are stopped too."
            )
            _show(outputs[index], report)
            report("Run the same command to go on from the last checkpoint.")
    finally:
        _end(workers)
    if failed is None:
        return 0
    return 128 - failed.returncode if failed.returncode < 0 else failed.returncode


def end_with_starter() -> None:
    """In a worker of `run_workers`: end at once when the process that started it has ended."""
    if os.environ.get(_SUPERVISED) != "1":
        return

    def watch() -> None:
        os.read(0, 1)  # nothing is ever written: it returns when the other end is closed
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _wait(workers: list[subprocess.Popen], told: list[int]) -> subprocess.Popen | None:
    """The worker that failed first; None when all have ended well."""
    deadline = None
    while True:
        for worker in workers:
            if worker.poll() not in (None, 0):
                if told:  # the others are saving, or about to end
                    _join(workers, _SECONDS_TO_END)
                return worker
        if all(worker.returncode == 0 for worker in workers):
            return None
        if told and deadline is None:
            deadline = time.monotonic() + _SECONDS_TO_SAVE
        if deadline is not None and time.monotonic() > deadline:
            return next(worker for worker in workers if worker.returncode is None)
        time.sleep(_POLL_SECONDS)


def _forward_signals(workers: list[subprocess.Popen]) -> list[int]:
    told: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        return told

    def forward(number: int, _: object) -> None:
        told.append(number)
        for worker in workers:
            if worker.poll() is None:
                worker.send_signal(number)

    signal.signal(signal.SIGINT, forward)
    signal.signal(signal.SIGTERM, forward)
    return told


def _end(workers: list[subprocess.Popen]) -> None:
    for worker in workers:
        if worker.poll() is None:
            worker.kill()  # TensorFlow does not listen to SIGTERM while it waits for another worker
    _join(workers, _SECONDS_TO_END)


def _join(workers: list[subprocess.Popen], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(worker.poll() is None for worker in workers):
        time.sleep(_POLL_SECONDS)


def _show(output: IO[bytes] | None, report: Callable[[str], None]) -> None:
    if output is None:  # the chief's has been seen
        return
    output.seek(0)
    lines = output.read().decode(errors="replace").strip().splitlines()
    for line in lines[-_LINES_SHOWN:]:
        report(f"  {line}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
