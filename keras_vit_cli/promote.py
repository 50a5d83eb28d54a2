"""`keras-vit promote`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from keras_vit_cli.arguments import call


def promote(
    base: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="BASE")],
    version: Annotated[int, tyro.conf.Positional, tyro.conf.arg(metavar="VERSION")],
    label: str = "stable",
    address: str | None = None,
    name: str | None = None,
    model_config_file: Path | None = None,
    timeout: float = 600.0,
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
    """
    from serving.promotion import Target
    from serving.promotion import promote as move

    move(Target(base, name, model_config_file, address), version, label, timeout=timeout)


def run(arguments: list[str]) -> None:
    """Run the command."""
    call(promote, "promote", arguments)
