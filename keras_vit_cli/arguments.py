"""Reading a command's arguments with tyro."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tyro


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
