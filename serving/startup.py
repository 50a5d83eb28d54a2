"""What can be wrong before a server runs."""

import socket
from pathlib import Path


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
