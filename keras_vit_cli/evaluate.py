"""`keras-vit evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from keras_vit_cli.arguments import call
from keras_vit_cli.sources import open_model


def evaluate(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    data: Annotated[str, tyro.conf.arg(metavar="SPEC")],
    split: str = "test",
    batch_size: int = 64,
    output: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
    real_labels: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    data_dir: str | None = None,
    image_size: int | None = None,
    architecture: str | None = None,
) -> None:
    """Measure a model on every example of a split; prints one line of JSON.

    The line holds top1, top5, loss, calibration_error (expected calibration error, 15 bins),
    examples and images_per_second. Classes go together by name; where both the model's and the
    data's are ImageNet's, names, WordNet ids and the numbers 0 to 999 mean the same.

    Args:
        model: a training workdir, a .keras file, or any checkpoint: .npz, .safetensors, a folder of
            timm or transformers, hf://org/name, https://… or gs://…
        data: digits, folder:PATH, tfds:NAME[/CONFIG], webdataset:PATTERN or records:PATH.
        split: which part of the data.
        batch_size: images per step.
        output: gets evaluation.json, per_class.csv, confusion.csv and confusion.png.
        real_labels: real.json of "Are we done with ImageNet?", for images that are named
            ILSVRC2012_val_NNNNNNNN.JPEG; adds real_top1 and real_examples to the line.
        data_dir: where TFDS keeps its data; may be a bucket, gs://…
        image_size: another input size than the model's own; positions are resampled.
        architecture: a timm name, for arrays that do not say of which model they are.
    """
    import functools
    import sys

    from training.data import load_source
    from training.evaluation import evaluate as judge
    from training.evaluation import write_evaluation

    if output is not None and output.exists() and not output.is_dir():
        raise ValueError(f"--output {output} is a file: give a directory.")
    # The one line on standard output is for programs.
    report = functools.partial(print, file=sys.stderr)
    loaded = open_model(model, architecture, image_size)
    source = load_source(data, data_dir=data_dir, report=report)
    result = judge(
        loaded,
        source,
        split,
        batch_size,
        real_labels=real_labels,
        report=report,
        show_progress=True,
    )
    if output is not None:
        for path in write_evaluation(result, output, f"{model} on {data}, {split}"):
            report(path)
    print(result.to_json())


def run(arguments: list[str]) -> None:
    """Run the command."""
    call(evaluate, "evaluate", arguments)
