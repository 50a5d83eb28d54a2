"""`keras-vit bench input`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from keras_vit_cli.arguments import call


def bench_input(
    data: Annotated[str, tyro.conf.arg(metavar="SPEC")],
    image_size: int = 224,
    randaugment_layers: int = 0,
    randaugment_magnitude: float = 10.0,
    batch_size: int = 64,
    threads: int = 2,
    against: Annotated[str, tyro.conf.arg(metavar="NAME,…")] = "",
    rounds: int = 5,
    seconds: float = 5.0,
    json_file: Annotated[Path | None, tyro.conf.arg(name="json", metavar="FILE")] = None,
) -> None:
    """Time the input of training, by itself or against timm's loader.

    Decoding, inception crop, flip and, if wanted, RandAugment, from files to batches. A training
    that takes more images per second than this waits for its data.

    Args:
        data: as of `keras-vit train`; for timm a folder with train/CLASS/*.
        image_size: of a side, in pixels.
        randaugment_layers: operations of RandAugment; 0 for none, 2 as in big_vision's recipes.
        randaugment_magnitude: their strength, 0 to 10 for timm.
        batch_size: images of a batch.
        threads: of our pipeline, and processes of timm's loader.
        against: timm, or nothing.
        rounds: turns of each contender.
        seconds: about how long a turn is.
        json_file: write the results here.
    """
    from keras_vit_cli.benchmarks.command import measure, write
    from keras_vit_cli.benchmarks.runner import Task
    from keras_vit_cli.benchmarks.tables import print_table

    options = {"data": data, "layers": randaugment_layers, "magnitude": randaugment_magnitude}
    task = Task("input", "", "uint8", batch_size, image_size, threads, options)
    report = measure(task, against, rounds, seconds, passes=0, with_limit=False)
    print_table(report)
    write(report, json_file)


def run(arguments: list[str]) -> None:
    """Run the command."""
    call(bench_input, "bench input", arguments)
