"""`keras-vit bench growth`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from keras_vit_cli.arguments import call


def bench_growth(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[MODEL]")] = (
        "vit_small_patch16_224"
    ),
    dtype: Literal["float32", "bfloat16"] = "float32",
    image_sizes: tuple[int, ...] = (224, 384, 512),
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64),
    depths: tuple[int, ...] = (6, 12, 24),
    batch_size: int = 4,
    threads: int = 2,
    rounds: int = 3,
    seconds: float = 2.0,
    json_file: Annotated[Path | None, tyro.conf.arg(name="json", metavar="FILE")] = None,
) -> None:
    """Show how time grows with the size of images, the batch and the depth of the model.

    A line for each export: its time, its floating-point operations, and its time over what the
    first line of its kind says for so many operations: 1.1 is 10 % slower than operations explain.

    Args:
        model: a name of `keras-vit models`; weights are random.
        dtype: of weights and computation.
        image_sizes: of a side, in pixels.
        batch_sizes: images of a step, at the model's own size and depth.
        depths: numbers of blocks.
        batch_size: images of a step where the size or the depth grows.
        threads: of the operations.
        rounds: turns of each.
        seconds: about how long a turn is.
        json_file: write the results here.
    """
    import sys
    from functools import partial

    from keras_vit.variants import get_variant
    from keras_vit_cli.benchmarks.command import write
    from keras_vit_cli.benchmarks.growth import measure_growth, print_growth
    from keras_vit_cli.benchmarks.runner import Task
    from keras_vit_cli.benchmarks.tables import machine

    numbers = (*image_sizes, *batch_sizes, *depths, batch_size, threads, rounds)
    if min(numbers) < 1 or seconds <= 0:
        raise ValueError("Sizes, depths, --threads, --rounds and --seconds must be positive.")
    name = get_variant(model).name
    base = partial(Task, "inference", name, dtype, threads=threads)
    own_size = get_variant(model).arguments["image_size"]
    axes = {
        "image_size": [base(batch_size=batch_size, image_size=size) for size in image_sizes],
        "batch_size": [base(batch_size=count, image_size=own_size) for count in batch_sizes],
        "depth": [
            base(batch_size=batch_size, image_size=own_size, options={"depth": depth})
            for depth in depths
        ],
    }
    rows = measure_growth(axes, rounds, seconds, partial(print, file=sys.stderr))
    print_growth(rows, f"{name} · {dtype} · {threads} threads")
    write({"model": name, "dtype": dtype, "machine": machine(), "results": rows}, json_file)


def run(arguments: list[str]) -> None:
    """Run the command."""
    call(bench_growth, "bench growth", arguments)
