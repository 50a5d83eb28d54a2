"""`keras-vit bench precision`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from keras_vit_cli.arguments import call
from keras_vit_cli.sources import open_model


def bench_precision(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    data: Annotated[str, tyro.conf.arg(metavar="SPEC")],
    split: str = "test",
    batch_size: int = 8,
    threads: int = 2,
    rounds: int = 10,
    image_size: int | None = None,
    architecture: str | None = None,
    data_dir: str | None = None,
    json_file: Annotated[Path | None, tyro.conf.arg(name="json", metavar="FILE")] = None,
) -> None:
    """Show what fewer bits for the weights gain in size and speed, and cost in accuracy.

    A line each for the export in float32, in bfloat16 (`--dtype bfloat16`) and, to see why there is
    no such option, with int8 kernels that become floats again in each step. They take turns: size
    of the weights, images per second, how much faster than float32, top1, and on how many images
    the best class is that of float32.

    Args:
        model: as of `keras-vit export`.
        data: as of `keras-vit evaluate`.
        split: which part of the data.
        batch_size: images of a step.
        threads: of the exports.
        rounds: steps of each export that are timed.
        image_size: another input size than the model's own; positions are resampled.
        architecture: a timm name, for arrays that do not say of which model they are.
        data_dir: where TFDS keeps its data; may be a bucket, gs://…
        json_file: write the results here.
    """
    import sys
    from functools import partial

    if rounds < 1 or threads < 1 or batch_size < 1:
        raise ValueError("--rounds, --threads and --batch-size must be positive.")

    from keras_vit_cli.benchmarks.command import write
    from keras_vit_cli.benchmarks.precision import print_precision, table
    from training.data import load_source

    report = partial(print, file=sys.stderr)
    rows = table(
        open_model(model, architecture, image_size),
        load_source(data, data_dir=data_dir, report=report),
        split,
        batch_size=batch_size,
        threads=threads,
        rounds=rounds,
    )
    print_precision(rows, f"{model} on {data}, {split} · batch {batch_size}")
    write({"model": model, "data": data, "split": split, "results": rows}, json_file)


def run(arguments: list[str]) -> None:
    """Run the command."""
    call(bench_precision, "bench precision", arguments)
