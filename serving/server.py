"""`serve`: models behind TF Serving's API, by the real server or by the local one."""

from __future__ import annotations

import contextlib
import logging
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from serving.configuration.batching import BatchingParameters
from serving.configuration.models import ModelConfig, parse_models
from serving.configuration.monitoring import MonitoringConfig
from serving.configuration.tls import TlsConfig
from serving.page.server import announce_page, page_server
from serving.processor import advice
from serving.startup import Plan, ServeError, announce, check_base, check_port, wait_until
from serving.tensorflow_server import BINARY, run_binary
from serving.threads import version_paths

if TYPE_CHECKING:
    from serving.local_server.manager import ModelManager


_REST_PORT = 8501  # TF Serving's


def serve(
    base: str | Path | None = None,
    name: str | None = None,
    *,
    port: int = 8500,
    rest_port: int | None = None,
    host: str = "127.0.0.1",
    server: Literal["auto", "tensorflow", "local"] = "auto",
    poll_seconds: float = 1.0,
    grace: float = 30.0,
    wait: bool = False,
    model_config_file: Path | None = None,
    batching_parameters_file: Path | None = None,
    per_model_batching: bool = False,
    monitoring_config_file: Path | None = None,
    ssl_config_file: Path | None = None,
    page: bool = False,
    page_port: int | None = None,
) -> None:
    """Serve models until SIGTERM or Ctrl-C, following the versions in their directories.

    Prints a line for each, `Serving NAME version N at HOST:PORT (…)`, when requests can be
    answered. The files are those that flags of `tensorflow_model_server` name.

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
        model_config_file: several models, their versions and labels, instead of `base`; read again
            when it changes.
        batching_parameters_file: run the requests of many callers together.
        per_model_batching: the same, by the file `batching_params.pbtxt` that an export holds.
        monitoring_config_file: where the Prometheus page is on the REST port. Default: at
            /monitoring/prometheus/metrics.
        ssl_config_file: key and certificates of the gRPC port. Default: plain text.
        page: serve a web page to try the models on, at `/` of the local server's REST port (8501 if
            there is none), or on a port of its own in front of `tensorflow_model_server`. Default
            False.
        page_port: serve the page on this port; 0 picks a free one. Default: the port after REST,
            where the page needs one of its own.

    Raises:
        ServeError: if the server cannot be started; the message says what to do.

    Example:
        `serve("models/digits", port=8500)`
    """
    if not poll_seconds > 0:
        raise ServeError(f"poll_seconds is {poll_seconds}; it must be above 0")
    if server not in ("auto", "tensorflow", "local"):
        raise ServeError(f"server is {server!r}; use 'auto', 'tensorflow' or 'local'")
    models = _models(base, name, model_config_file)
    for model in models:
        if "://" not in model.base_path:
            if not wait:
                check_base(Path(model.base_path))
            for line in advice(version_paths(Path(model.base_path))):
                print(line, file=sys.stderr)  # scripts read what is served from the output
    if batching_parameters_file is not None and per_model_batching:
        raise ServeError(
            "a batching parameters file and batching per model exclude each other: give one"
        )
    page = page or page_port is not None
    if page and ssl_config_file is not None:
        raise ServeError(
            "the page does not have the certificates of an encrypted server. Start the server "
            "without it, and the page with `keras-vit page ADDRESS --name NAME --ca CA`"
        )
    binary = shutil.which(BINARY) if server != "local" else None
    if binary is None and server == "tensorflow":
        raise ServeError(
            f"{BINARY} is not on PATH. Install TensorFlow Serving, run its container image, or "
            "use --server local"
        )
    if page and page_port is None:
        if binary is None:
            rest_port = _REST_PORT if rest_port is None else rest_port
        else:
            page_port = 0 if rest_port == 0 else (rest_port or _REST_PORT) + 1
    batching = _read(batching_parameters_file, BatchingParameters.parse)
    plan = Plan(
        models,
        model_config_file,
        port,
        rest_port,
        host,
        poll_seconds,
        "per_version" if per_model_batching else batching,
        _read(monitoring_config_file, MonitoringConfig.parse) or MonitoringConfig(),
        _read(ssl_config_file, TlsConfig.parse),
        page,
        page_port,
    )
    for wanted in (port, rest_port):
        if wanted is not None:
            check_port(host if binary is None else "0.0.0.0", wanted)
    if page_port is not None:
        check_port(host, page_port)
    with _stop_signals() as stopped:
        if binary is None:
            _serve_locally(plan, grace, wait, stopped)
        else:
            run_binary(binary, plan, stopped)


_Parsed = TypeVar("_Parsed")


def _read(file: Path | None, parse: Callable[[str], _Parsed]) -> _Parsed | None:
    """What a configuration file says; None for no file."""
    if file is None:
        return None
    try:
        return parse(file.read_text())
    except (OSError, ValueError) as error:
        raise ServeError(f"{file} cannot be used: {error}") from error


def _models(
    base: str | Path | None, name: str | None, model_config_file: Path | None
) -> list[ModelConfig]:
    if (base is None) == (model_config_file is None):
        raise ServeError("give either the base directory of a model or a model config file")
    if base is None:
        if name is not None:
            raise ServeError("a name goes with a base directory; the model config file has its own")
        models = _read(model_config_file, parse_models)
        if not models:
            raise ServeError(f"{model_config_file} lists no model")
        return models
    path = str(base) if "://" in str(base) else str(Path(base).resolve())
    return [ModelConfig(name or path.rstrip("/").rpartition("/")[2], path)]


@contextlib.contextmanager
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


def _serve_locally(plan: Plan, grace: float, wait: bool, stopped: threading.Event) -> None:
    try:
        from serving.local_server.manager import State
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
        plan.models,
        host=plan.host,
        port=plan.port,
        rest_port=plan.rest_port,
        poll_seconds=plan.poll_seconds,
        batching=plan.batching,
        tls=plan.tls,
        monitoring=plan.monitoring,
        page=plan.page and plan.page_port is None,
    )
    local.start(wait=wait, cancelled=stopped.is_set)
    rest = "" if plan.rest_port is None else f", REST at {plan.host}:{local.rest_port}"
    for model in plan.models if not stopped.is_set() else []:
        versions = local.manager.versions(model.name).items()
        available = [number for number, entry in versions if entry.state is State.AVAILABLE]
        announce(model.name, available[0], local.address, f"local server{rest}")
    with contextlib.ExitStack() as stack:
        if plan.page and not stopped.is_set():
            port = local.rest_port
            if plan.page_port is not None:
                site = local.site()
                port = stack.enter_context(page_server(site, plan.host, plan.page_port))
            announce_page(plan.host, port or 0)
        if plan.model_config_file is None:
            wait_until(stopped)
        else:
            _follow(plan.model_config_file, plan.poll_seconds, local.manager, stopped)
    local.stop(grace)


def _follow(
    file: Path, poll_seconds: float, manager: ModelManager, stopped: threading.Event
) -> None:
    """Take over what the model config file says whenever it changes, until it is time to stop."""
    from serving.local_server.status import StatusError

    text, failure = file.read_text(), ""
    while not stopped.wait(poll_seconds):
        try:
            new = file.read_text()
            # A file that is being written is empty for a moment: as on TF Serving, an empty one
            # unloads nothing. What failed is tried again: its versions may be there by now.
            if not new.strip() or (new == text and not failure):
                continue
            text = new
            manager.reload(parse_models(text))
            failure = ""
            logging.getLogger(__name__).info("took over %s", file)
        except (OSError, ValueError, StatusError) as error:
            if str(error) != failure:
                failure = str(error)
                logging.getLogger(__name__).error("%s stays without effect: %s", file, failure)
