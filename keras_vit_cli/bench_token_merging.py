"""`keras-vit bench token-merging`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from keras_vit_cli.arguments import call
from keras_vit_cli.sources import open_model


def bench_token_merging(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    data: Annotated[str, tyro.conf.arg(metavar="SPEC")],
    split: str = "test",
    counts: tuple[int, ...] = (4, 8, 12, 16),
    schedule: Literal["constant", "decreasing"] = "constant",
    batch_size: int = 8,
    threads: int = 2,
    rounds: int = 10,
    image_size: int | None = None,
    architecture: str | None = None,
    data_dir: str | None = None,
    json_file: Annotated[Path | None, tyro.conf.arg(name="json", metavar="FILE")] = None,
) -> None:
    """Show what token merging costs in accuracy and gains in speed.

    Exports the model once for each count and without merging; the exports take turns. A line for
    each: images per second, how much faster than without, top1, and on how many images the best
    class is the one that it is without.

    Args:
        model: as of `keras-vit export`.
        data: as of `keras-vit evaluate`.
        split: which part of the data.
        counts: what to give to `--token-merging`.
        schedule: what to give to `--token-merging-schedule`.
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
    from keras_vit_cli.benchmarks.merging import print_merging, table
    from serving.fused import TokenMerging
    from training.data import load_source

    report = partial(print, file=sys.stderr)
    choices: list[Any] = [None, *(TokenMerging(count, schedule) for count in counts)]
    rows = table(
        open_model(model, architecture, image_size),
        load_source(data, data_dir=data_dir, report=report),
        split,
        choices,
        batch_size=batch_size,
        threads=threads,
        rounds=rounds,
    )
    print_merging(rows, f"{model} on {data}, {split} · {schedule} · batch {batch_size}")
    write({"model": model, "data": data, "split": split, "results": rows}, json_file)


def run(arguments: list[str]) -> None:
    """Run the command."""
    call(bench_token_merging, "bench token-merging", arguments)
