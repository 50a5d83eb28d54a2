"""`keras-vit models`."""

from __future__ import annotations

from typing import Annotated

import tyro

from keras_vit_cli.arguments import call


def models(
    pattern: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATTERN")] = "*",
) -> None:
    """List the architectures that can be built, with parameters and work for one image.

    Args:
        pattern: shell-style pattern over timm's names and the paper's, such as "vit_base*" or
            "ViT-B/*" (quote it).
    """
    from rich.console import Console
    from rich.table import Table

    from keras_vit import list_models
    from keras_vit.costs import costs
    from keras_vit.variants import get_variant, paper_names

    names = list_models(pattern)
    if not names:
        raise ValueError(f"No model matches {pattern!r}: `keras-vit models` lists them all.")
    table = Table("model", "paper", "image", "parameters", "GFLOPs", box=None)
    for column in table.columns[2:]:
        column.justify = "right"
    for name in names:
        arguments = get_variant(name).arguments
        parameters, multiply_adds = costs(arguments)
        table.add_row(
            name,
            ", ".join(paper_names(name)),
            str(arguments["image_size"]),
            f"{parameters:,}",
            f"{2 * multiply_adds / 1e9:,.1f}",
        )
    Console().print(table)


def run(arguments: list[str]) -> None:
    """Run the command."""
    call(models, "models", arguments)
