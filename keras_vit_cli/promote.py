"""`keras-vit promote`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from keras_vit_cli.arguments import call, connection


def promote(
    base: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="BASE")],
    version: Annotated[int, tyro.conf.Positional, tyro.conf.arg(metavar="VERSION")],
    label: str = "stable",
    address: str | None = None,
    name: str | None = None,
    model_config_file: Path | None = None,
    timeout: float = 600.0,
    ca: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
) -> None:
    """Give a label to a version: clients that ask for the label get that version from then on.

    The new version is loaded beside the old one, and the label moves when it can answer: no request
    is lost. What has no label is unloaded. keras-vit rollback BASE goes back.

    Args:
        base: what keras-vit export wrote: BASE/1, BASE/2, …
        version: that gets the label.
        label: for example stable or canary.
        address: HOST:PORT of the server to tell.
        name: of the model on the server; the directory's name if left out.
        model_config_file: of the server; the model's entry in it is written anew, others stay. Left
            out, the server is taken to have this model only.
        timeout: seconds that loading may take.
        ca: PEM file of the authority that signed the server's certificate: an encrypted connection.
        certificate: PEM file with a certificate of one's own, for a server that wants one.
        key: PEM file with its key.
    """
    from serving.promotion import Target
    from serving.promotion import promote as move

    target = Target(base, name, model_config_file, address, connection(ca, certificate, key))
    move(target, version, label, timeout=timeout)


def run(arguments: list[str]) -> None:
    """Run the command."""
    call(promote, "promote", arguments)
