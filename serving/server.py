"""`serve`: one model behind TF Serving's API, by the real server or by the local one."""

import logging
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serving.startup import ServeError, check_base, check_port

_BINARY = "tensorflow_model_server"


@dataclass(frozen=True)
class _Plan:
    """What either server has to know."""

    base: str
    name: str
    port: int
    rest_port: int | None
    host: str
    poll_seconds: float


def serve(
    base: str | Path,
    name: str | None = None,
    *,
    port: int = 8500,
    rest_port: int | None = None,
    host: str = "127.0.0.1",
    server: Literal["auto", "tensorflow", "local"] = "auto",
    poll_seconds: float = 1.0,
    grace: float = 30.0,
    wait: bool = False,
) -> None:
    """Serve a model until SIGTERM or Ctrl-C, following the versions in its directory.

    Prints one line, `Serving NAME version N at HOST:PORT (…)`, when requests can be answered.

    Args:
        base: the model's base directory, with one sub-directory per version (BASE/1, BASE/2, …).
        name: what clients call the model; by default the directory's name.
        port: gRPC port, 0 to 65535; 0 picks a free one.
        rest_port: REST port; 0 picks a free one, None is no REST.
        host: address that the local server listens on. `tensorflow_model_server` has no such
            choice: it listens on every interface.
        server: `"tensorflow"` for `tensorflow_model_server`, `"local"` for the embedded server,
            `"auto"` for the first of the two that is there.
        poll_seconds: how often to look for new versions, above 0.
        grace: seconds that running requests get to finish when the local server is stopped.
        wait: wait for the first version to appear instead of failing.

    Raises:
        ServeError: if the server cannot be started; the message says what to do.

    Example:
        `serve("models/digits", port=8500)`
    """
    if not poll_seconds > 0:
        raise ServeError(f"poll_seconds is {poll_seconds}; it must be above 0")
    if server not in ("auto", "tensorflow", "local"):
        raise ServeError(f"server is {server!r}; use 'auto', 'tensorflow' or 'local'")
    path = str(base)
    if "://" not in path:
        path = str(Path(base).resolve())
        if not wait:
            check_base(Path(path))
    name = name or path.rstrip("/").rpartition("/")[2]
    binary = shutil.which(_BINARY) if server != "local" else None
    if binary is None and server == "tensorflow":
        raise ServeError(
            f"{_BINARY} is not on PATH. Install TensorFlow Serving, run its container image, or "
            "use --server local"
        )
    plan = _Plan(path, name, port, rest_port, host, poll_seconds)
    for wanted in (port, rest_port):
        if wanted is not None:
            check_port(host if binary is None else "0.0.0.0", wanted)
    with _stop_signals() as stopped:
        if binary is None:
            _serve_locally(plan, grace, wait, stopped)
        else:
            _serve_with_tensorflow(binary, plan, stopped)


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Turn SIGTERM and Ctrl-C into an event, where Python lets us (in the main thread)."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = {
        number: signal.signal(number, lambda *_: stopped.set())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _serve_locally(plan: _Plan, grace: float, wait: bool, stopped: threading.Event) -> None:
    try:
        from serving.local_server.manager import State
        from serving.local_server.model_config import ModelConfig
        from serving.local_server.server import LocalServer
    except ModuleNotFoundError as error:
        raise ServeError(
            f"the local server needs {error.name}. Install it with "
            "`pip install 'keras-vit[tensorflow]'`"
        ) from error

    # Versions that come, go or fail later are worth a line each.
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("serving").setLevel(logging.INFO)
    local = LocalServer(
        [ModelConfig(plan.name, plan.base)],
        host=plan.host,
        port=plan.port,
        rest_port=plan.rest_port,
        poll_seconds=plan.poll_seconds,
    )
    local.start(wait=wait, cancelled=stopped.is_set)
    versions = local.manager.versions(plan.name).items()
    available = [number for number, entry in versions if entry.state is State.AVAILABLE]
    if available and not stopped.is_set():
        rest = "" if plan.rest_port is None else f", REST at {plan.host}:{local.rest_port}"
        _announce(plan.name, available[0], local.address, f"local server{rest}")
        stopped.wait()
    local.stop(grace)


def _serve_with_tensorflow(binary: str, plan: _Plan, stopped: threading.Event) -> None:
    port = plan.port or _free_port()
    # To the binary, port 0 means no REST.
    rest_port = 0 if plan.rest_port is None else plan.rest_port or _free_port()
    command = [
        binary,
        f"--port={port}",
        f"--rest_api_port={rest_port}",
        f"--model_name={plan.name}",
        f"--model_base_path={plan.base}",
        f"--file_system_poll_wait_seconds={max(1, round(plan.poll_seconds))}",
        "--enable_grpc_healthcheck_service=true",
    ]
    process = subprocess.Popen(command)
    try:
        address = f"127.0.0.1:{port}"
        version = _wait_until_available(address, plan.name, process, stopped.is_set)
        if version is not None:
            rest = f", REST at 127.0.0.1:{rest_port}" if rest_port else ""
            _announce(plan.name, version, address, f"{_BINARY}, on every interface{rest}")
        while process.poll() is None and not stopped.wait(0.2):
            pass
    finally:
        _terminate(process)
    if not stopped.is_set():
        raise ServeError(
            f"{_BINARY} ended with status {process.returncode}; its messages above say why. "
            f"Often port {port} is taken or {plan.base} holds no complete version"
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def _announce(name: str, version: int, address: str, server: str) -> None:
    """Tell scripts that wait for it that requests can be answered now."""
    print(f"Serving {name} version {version} at {address} ({server})", flush=True)


def _wait_until_available(
    address: str, name: str, process: subprocess.Popen, cancelled: Callable[[], bool]
) -> int | None:
    """Ask for the status until a version is available; None if the process ended or was stopped."""
    from serving.client import Client, ServingError

    with Client(address, name, timeout=2.0) as client:
        while process.poll() is None and not cancelled():
            try:
                states = client.status()
            except ServingError:
                states = []  # not listening yet
            for entry in states:
                if entry.state == "AVAILABLE":
                    return entry.version
            threading.Event().wait(0.2)
    return None


def _terminate(process: subprocess.Popen) -> None:
    """Pass the signal on; the real server ends without finishing its requests."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
