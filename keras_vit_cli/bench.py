"""`keras-vit bench`: a command for each thing that can be measured."""

from __future__ import annotations

import importlib

# What is measured -> module and what it does; the module is imported only when it is asked for.
BENCHES = {
    "inference": ("keras_vit_cli.bench_inference", "time an export, also against other libraries"),
    "training": ("keras_vit_cli.bench_training", "time the train step, also against others"),
    "token-merging": (
        "keras_vit_cli.bench_token_merging",
        "what `export --token-merging` gains in speed and costs in accuracy",
    ),
    "precision": (
        "keras_vit_cli.bench_precision",
        "what bfloat16 and int8 weights gain in size and speed and cost in accuracy",
    ),
    "input": ("keras_vit_cli.bench_input", "time reading and augmenting images, also against timm"),
    "growth": ("keras_vit_cli.bench_growth", "how time grows with image size, batch and depth"),
    "start": ("keras_vit_cli.bench_start", "time imports, building, loading, export and server"),
    "serving": ("keras_vit_cli.bench_serving", "put load on a server and measure how it copes"),
}


def run(arguments: list[str]) -> None:
    """Run the command.

    Args:
        arguments: what stands after `bench`.

    Raises:
        ValueError: if there is no such benchmark.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return
    name, *rest = arguments
    if name not in BENCHES:
        raise ValueError(f"There is no benchmark {name!r}: give one of {', '.join(BENCHES)}.")
    importlib.import_module(BENCHES[name][0]).run(rest)


def usage() -> str:
    """The text of `keras-vit bench --help`.

    Returns:
        The lines.

    Example:
        >>> "serving" in usage()
        True
    """
    commands = "\n".join(f"  {name:<14} {text}" for name, (_, text) in BENCHES.items())
    return (
        f"usage: keras-vit bench WHAT …\n\n{commands}\n\nkeras-vit bench WHAT --help explains it."
    )
