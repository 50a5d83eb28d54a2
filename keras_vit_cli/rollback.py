"""`keras-vit rollback`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from keras_vit_cli.arguments import call, connection


def rollback(
    base: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="BASE")],
    label: str = "stable",
    address: str | None = None,
    name: str | None = None,
    model_config_file: Path | None = None,
    timeout: float = 600.0,
    ca: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
) -> None:
    """Give a label back to the version that had it before the last keras-vit promote.

    Args:
        base: what keras-vit export wrote: BASE/1, BASE/2, …
        label: to move.
        address: HOST:PORT of the server to tell.
        name: of the model on the server; the directory's name if left out.
        model_config_file: of the server, as for keras-vit promote.
        timeout: seconds that loading may take.
        ca: PEM file of the authority that signed the server's certificate: an encrypted connection.
        certificate: PEM file with a certificate of one's own, for a server that wants one.
        key: PEM file with its key.
    """
    from serving.promotion import Target
    from serving.promotion import rollback as move

    target = Target(base, name, model_config_file, address, connection(ca, certificate, key))
    move(target, label, timeout=timeout)


def run(arguments: list[str]) -> None:
    """Run the command."""
    call(rollback, "rollback", arguments)
