"""`keras-vit bench training`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from keras_vit_cli.arguments import call


def bench_training(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[MODEL]")] = (
        "vit_small_patch16_224"
    ),
    dtype: Literal["float32", "bfloat16"] = "float32",
    batch_size: int = 16,
    image_size: int = 224,
    threads: int = 2,
    jit_compile: bool = False,
    remat: bool = False,
    against: Annotated[str, tyro.conf.arg(metavar="NAME,…")] = "",
    rounds: int = 5,
    seconds: float = 5.0,
    json_file: Annotated[Path | None, tyro.conf.arg(name="json", metavar="FILE")] = None,
) -> None:
    """Time the train step, by itself or against other libraries.

    A step is forward and backward pass, clipping and AdamW, on one batch that is in memory.
    Contenders are processes of their own and take turns. The peak memory of each is shown, and for
    each image how much of it came with the steps.

    Args:
        model: a name of `keras-vit models`; weights are random.
        dtype: float32, or bfloat16 for activations with float32 weights.
        batch_size: images of a step.
        image_size: of a side, in pixels.
        threads: for each contender.
        jit_compile: let XLA compile our step, as the option of `keras-vit train` does.
        remat: compute activations again for the gradient instead of keeping them, in our step.
        against: any of timm, keras-hub, with a comma between them; those that are not installed
            are named.
        rounds: turns of each contender.
        seconds: about how long a turn is.
        json_file: write the results here.
    """
    from keras_vit.variants import get_variant
    from keras_vit_cli.benchmarks.command import measure, write
    from keras_vit_cli.benchmarks.runner import Task
    from keras_vit_cli.benchmarks.tables import print_table

    options = {"jit_compile": jit_compile, "remat": remat}
    name = get_variant(model).name
    task = Task("training", name, dtype, batch_size, image_size, threads, options)
    # The gradient takes two products for each of the forward pass.
    report = measure(task, against, rounds, seconds, passes=3, with_limit=False)
    print_table(report)
    write(report, json_file)


def run(arguments: list[str]) -> None:
    """Run the command."""
    call(bench_training, "bench training", arguments)
