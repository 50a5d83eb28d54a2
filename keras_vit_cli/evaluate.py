"""`keras-vit evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from keras_vit_cli.arguments import call


def evaluate(
    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    data: Annotated[str, tyro.conf.arg(metavar="SPEC")],
    split: str = "test",
    batch_size: int = 64,
    data_dir: str | None = None,
) -> None:
    """Measure a model on every example of a split; prints one line of JSON.

    The line holds top1, top5, loss, examples and images_per_second.

    Args:
        model: a training workdir or a .keras file.
        data: digits, folder:PATH or tfds:NAME[/CONFIG].
        split: which part of the data.
        batch_size: images per step.
        data_dir: where TFDS keeps its data; may be a bucket, gs://…
    """
    import functools
    import sys

    from keras_vit import load_model
    from training.data import load_source
    from training.evaluation import evaluate as judge

    loaded = load_model(model)
    # The one line on standard output is for programs.
    source = load_source(data, data_dir=data_dir, report=functools.partial(print, file=sys.stderr))
    print(judge(loaded, source, split, batch_size).to_json())


def run(arguments: list[str]) -> None:
    """Run the command."""
    call(evaluate, "evaluate", arguments)
