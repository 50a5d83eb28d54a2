"""What is to be served, and what can be wrong before a server runs."""

import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serving.configuration.batching import BatchingParameters
from serving.configuration.models import ModelConfig
from serving.configuration.monitoring import MonitoringConfig
from serving.configuration.tls import TlsConfig

# "1" lets TensorFlow's oneDNN pack a product's second operand when it first sees it, and keep it:
# right for graphs in which that is always a weight, as in every export of ours.
PACK_WEIGHTS = "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS"


class ServeError(Exception):
    """A server cannot be started; the message says why and what to do.

    Example:
        >>> str(ServeError("port 8500 is taken"))
        'port 8500 is taken'
    """


def check_port(host: str, port: int) -> None:
    """Find out that a port is taken before a model is loaded for nothing.

    Args:
        host: address to listen on.
        port: 0 to 65535; 0 is always free.

    Raises:
        ServeError: if it cannot be listened on.

    Example:
        >>> check_port("127.0.0.1", 0)
    """
    if not 0 <= port <= 65535:
        raise ServeError(f"port is {port}; it must be 0 (picks a free one) to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # A port whose last connections are only cooling down is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except OSError as error:
            reason = error.strerror or str(error)
            raise ServeError(
                f"cannot listen on {host}:{port}: {reason}. Stop the program that uses port "
                f"{port}, or choose another with --port (0 picks a free one)"
            ) from error


def check_base(path: Path) -> None:
    """Find out that a directory holds no version of a model before a server waits for one.

    Args:
        path: the model's base directory.

    Raises:
        ServeError: if it is no directory, one version instead of the base, or without a version.

    Example:
        `check_base(Path("models/digits"))`
    """
    if not path.is_dir():
        raise ServeError(
            f"{path} is not a directory. Give the base directory that `keras-vit export MODEL BASE`"
            " wrote"
        )
    names = (entry.name for entry in path.iterdir() if entry.is_dir())
    if any(name.isascii() and name.isdigit() for name in names):
        return
    if (path / "saved_model.pb").is_file():
        raise ServeError(f"{path} is one version of a model; serve its parent, {path.parent}")
    raise ServeError(
        f"{path} holds no version: no sub-directory with a number as its name (BASE/1). Write one "
        "with `keras-vit export MODEL BASE`, or wait for it with --wait"
    )


@dataclass(frozen=True)
class Plan:
    """What either server has to know.

    Attributes:
        models: what to serve.
        model_config_file: where that is written, if it is a file.
        port: of gRPC; 0 picks a free one.
        rest_port: of REST; 0 picks a free one, None is no REST.
        host: address that the local server listens on.
        poll_seconds: how often to look for new versions.
        batching: sizes and times of batches, those of each version's own file, or None.
        monitoring: where the Prometheus page is on the REST port.
        tls: key and certificates of the gRPC port, or None.
        page: whether there is a page to try the models on. Default False.
        page_port: of that page; 0 picks a free one, None is the local server's REST port, or the
            one after that of the real server. Default None.
    """

    models: list[ModelConfig]
    model_config_file: Path | None
    port: int
    rest_port: int | None
    host: str
    poll_seconds: float
    batching: BatchingParameters | Literal["per_version"] | None
    monitoring: MonitoringConfig
    tls: TlsConfig | None
    page: bool = False
    page_port: int | None = None


def announce(name: str, version: int, address: str, server: str) -> None:
    """Tell scripts that wait for it that requests can be answered now."""
    print(f"Serving {name} version {version} at {address} ({server})", flush=True)


def wait_until(event: threading.Event) -> None:
    """Wait without end, and hear signals meanwhile.

    Python hears a signal that the system gave to another thread of the process when the main thread
    wakes next: so it wakes five times a second.

    Args:
        event: to wait for.

    Example:
        >>> event = threading.Event()
        >>> event.set()
        >>> wait_until(event)
    """
    while not event.wait(0.2):
        pass
