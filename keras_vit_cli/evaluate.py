"""`keras-vit evaluate`."""

from __future__ import annotations

from typing import Annotated

import tyro

from keras_vit_cli.arguments import call
from keras_vit_cli.sources import open_model


def evaluate(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    data: Annotated[str, tyro.conf.arg(metavar="SPEC")],
    split: str = "test",
    batch_size: int = 64,
    data_dir: str | None = None,
    image_size: int | None = None,
    architecture: str | None = None,
) -> None:
    """Measure a model on every example of a split; prints one line of JSON.

    The line holds top1, top5, loss, examples and images_per_second.

    Args:
        model: a training workdir, a .keras file, or any checkpoint: .npz, .safetensors, a folder of
            timm or transformers, hf://org/name, https://… or gs://…
        data: digits, folder:PATH or tfds:NAME[/CONFIG].
        split: which part of the data.
        batch_size: images per step.
        data_dir: where TFDS keeps its data; may be a bucket, gs://…
        image_size: another input size than the model's own; positions are resampled.
        architecture: a timm name, for arrays that do not say of which model they are.
    """
    import functools
    import sys

    from training.data import load_source
    from training.evaluation import evaluate as judge

    loaded = open_model(model, architecture, image_size)
    # The one line on standard output is for programs.
    source = load_source(data, data_dir=data_dir, report=functools.partial(print, file=sys.stderr))
    print(judge(loaded, source, split, batch_size).to_json())


def run(arguments: list[str]) -> None:
    """Run the command."""
    call(evaluate, "evaluate", arguments)
