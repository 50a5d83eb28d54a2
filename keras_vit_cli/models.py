"""`keras-vit models`."""

from __future__ import annotations

from typing import Annotated

import tyro

from keras_vit_cli.arguments import call


def models(
    pattern: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATTERN")] = "*",
) -> None:
    """List the architectures that can be built, with their number of parameters.

    Args:
        pattern: shell-style pattern over timm's names and the paper's, such as "vit_base*" or
            "ViT-B/*" (quote it).
    """
    from rich.console import Console
    from rich.table import Table

    from keras_vit import count_parameters, list_models
    from keras_vit.variants import get_variant

    names = list_models(pattern)
    if not names:
        raise ValueError(f"No model matches {pattern!r}: `keras-vit models` lists them all.")
    table = Table("model", "paper", "image", "parameters", box=None)
    for column in table.columns[2:]:
        column.justify = "right"
    for name in names:
        row = get_variant(name)
        table.add_row(name, row.paper_name, str(row.image_size), f"{count_parameters(name):,}")
    Console().print(table)


def run(arguments: list[str]) -> None:
    """Run the command."""
    call(models, "models", arguments)
