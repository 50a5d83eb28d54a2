"""Reading a command's arguments with tyro."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

if TYPE_CHECKING:
    from serving.client import TLS


def call(
    function: Callable[..., Any],
    command: str,
    arguments: list[str],
    description: str | None = None,
) -> Any:
    """Call a function with arguments from the command line; its signature is the interface.

    Args:
        function: typed, with a docstring that explains each argument.
        command: its name on the command line.
        arguments: what stands after the command.
        description: what `--help` says first. Default None: the function's docstring.

    Returns:
        What the function returns.
    """
    return tyro.cli(function, prog=f"keras-vit {command}", args=arguments, description=description)


def connection(ca: Path | None, certificate: Path | None, key: Path | None) -> TLS | Literal[False]:
    """What the options of a command say about the connection to a server.

    Args:
        ca: PEM file of the authority that signed the server's certificate.
        certificate: PEM file with a certificate of one's own.
        key: PEM file with its key.

    Returns:
        What clients take as `tls`; False, a plain connection, where no file is given.
    """
    from serving.client import TLS

    return TLS(ca, certificate, key) if ca or certificate else False
