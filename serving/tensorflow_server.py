"""The real server: `tensorflow_model_server` as a process of ours."""

import contextlib
import functools
import json
import socket
import subprocess
import tempfile
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving.configuration.models import parse_models
from serving.page.backend import Backend, PageModel, page_models
from serving.page.server import announce_page, page_server
from serving.page.site import Site
from serving.startup import Plan, ServeError, announce
from serving.threads import session_threads, usable_cores, version_paths

BINARY = "tensorflow_model_server"


def run_binary(binary: str, plan: Plan, stopped: threading.Event) -> None:
    """Run it until it is time to stop.

    Args:
        binary: its path.
        plan: what to serve, and how.
        stopped: set when it is time.

    Raises:
        ServeError: if it ends by itself.

    Example:
        `run_binary(shutil.which(BINARY), plan, threading.Event())`
    """
    port = plan.port or _free_port()
    # To the binary, port 0 means no REST.
    rest_port = 0 if plan.rest_port is None else plan.rest_port or _free_port()
    if plan.tls is not None and not rest_port:
        rest_port = _free_port()  # the page that tells the state without a client's certificate
    address = f"127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        flags = _flags(plan, Path(folder))
        process = subprocess.Popen(
            [binary, f"--port={port}", f"--rest_api_port={rest_port}", *flags]
        )
        try:
            rest = f", REST at 127.0.0.1:{rest_port}" if rest_port else ""
            for model in plan.models:
                states = _rest_states if plan.tls else _grpc_states
                where = f"127.0.0.1:{rest_port}" if plan.tls else address
                version = _wait_until_available(
                    functools.partial(states, where, model.name),
                    process,
                    stopped.is_set,
                )
                if version is not None:
                    server = f"{BINARY}, on every interface{rest}"
                    announce(model.name, version, address, server)
            with contextlib.ExitStack() as stack:
                if plan.page_port is not None and process.poll() is None and not stopped.is_set():
                    site = Site(Backend(address, functools.partial(_page_models, plan)))
                    page_port = stack.enter_context(page_server(site, plan.host, plan.page_port))
                    announce_page(plan.host, page_port)
                while process.poll() is None and not stopped.wait(0.2):
                    pass
        finally:
            _terminate(process)
    if not stopped.is_set():
        raise ServeError(
            f"{BINARY} ended with status {process.returncode}; its messages above say why. "
            f"Often port {port} is taken or {plan.models[0].base_path} holds no complete version"
        )


def _page_models(plan: Plan) -> list[PageModel]:
    """The models as the server has them now: it follows the file."""
    models = plan.models
    if plan.model_config_file is not None:
        with contextlib.suppress(OSError, ValueError):  # the server goes on with what it had
            models = parse_models(plan.model_config_file.read_text()) or models
    return page_models(models)


def _flags(plan: Plan, folder: Path) -> list[str]:
    """What the real server is told, with files of ours in a folder."""
    seconds = max(1, round(plan.poll_seconds))
    flags = [
        f"--file_system_poll_wait_seconds={seconds}",
        "--enable_grpc_healthcheck_service=true",
    ]

    bases = [Path(model.base_path) for model in plan.models]
    # A directory without versions stands for itself: nobody knows what will lie there.
    versions = [version for base in bases for version in version_paths(base) or [base]]
    within, between = session_threads(versions, usable_cores())
    if within < between:  # otherwise TensorFlow chooses, and its environment variables hold
        flags += [
            f"--tensorflow_intra_op_parallelism={within}",
            f"--tensorflow_inter_op_parallelism={between}",
        ]

    def file(name: str, text: str) -> str:
        path = folder / name
        path.touch(mode=0o600)  # one of them holds a key
        path.write_text(text)
        return str(path)

    if plan.model_config_file is None:
        (model,) = plan.models
        flags += [f"--model_name={model.name}", f"--model_base_path={model.base_path}"]
    else:
        flags += [
            f"--model_config_file={plan.model_config_file.resolve()}",
            f"--model_config_file_poll_wait_seconds={seconds}",
            # Or a label of a version that is still being loaded keeps the server from starting.
            "--allow_version_labels_for_unavailable_models=true",
        ]
    if plan.rest_port is not None:
        path = file("monitoring.config", plan.monitoring.to_text())
        flags.append(f"--monitoring_config_file={path}")
    if plan.batching == "per_version":
        flags += ["--enable_batching=true", "--enable_per_model_batching_parameters=true"]
    elif plan.batching is not None:
        path = file("batching.pbtxt", plan.batching.to_text())
        flags += ["--enable_batching=true", f"--batching_parameters_file={path}"]
    if plan.tls is not None:
        flags.append(f"--ssl_config_file={file('ssl.config', plan.tls.to_text())}")
    return flags


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def _wait_until_available(
    states: Callable[[], dict[int, str]],
    process: subprocess.Popen,
    cancelled: Callable[[], bool],
) -> int | None:
    """Ask for the states until a version is available; None if the process ended or was stopped."""
    while process.poll() is None and not cancelled():
        for version, state in states().items():
            if state == "AVAILABLE":
                return version
        threading.Event().wait(0.2)
    return None


def _grpc_states(address: str, name: str) -> dict[int, str]:
    """States by version; none while nobody listens."""
    from serving.client import Client, ServingError

    with Client(address, name, timeout=2.0) as client:
        try:
            return {entry.version: entry.state for entry in client.status()}
        except ServingError:
            return {}


def _rest_states(address: str, name: str) -> dict[int, str]:
    """The same from the REST port, which is never encrypted."""
    try:
        with urllib.request.urlopen(f"http://{address}/v1/models/{name}", timeout=2) as answer:
            page: dict[str, Any] = json.load(answer)
    except (OSError, ValueError):
        return {}
    return {int(entry["version"]): entry["state"] for entry in page["model_version_status"]}


def _terminate(process: subprocess.Popen) -> None:
    """Pass the signal on; the real server ends without finishing its requests."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
