"""`keras-vit evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import tyro

from keras_vit_cli.arguments import call
from keras_vit_cli.sources import open_model


def evaluate(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    data: Annotated[str, tyro.conf.arg(metavar="SPEC")],
    split: str = "test",
    batch_size: int = 64,
    output: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
    report: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
    compare: Annotated[str | None, tyro.conf.arg(metavar="OTHER_MODEL")] = None,
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
        report: gets report.html, one file to read offline and to hand on: accuracies, classes,
            confusions, calibration, the most confident mistakes and least confident hits with the
            model's attention, a map of the embeddings, the model card.
        compare: another model for the report, beside the first, with the images on which they
            differ and McNemar's test; the line of JSON gets its numbers under "compared".
            --image-size and --architecture are of the first.
        output: gets evaluation.json, per_class.csv, confusion.csv and confusion.png.
        real_labels: real.json of "Are we done with ImageNet?", for images that are named
            ILSVRC2012_val_NNNNNNNN.JPEG; adds real_top1 and real_examples to the line.
        data_dir: where TFDS keeps its data; may be a bucket, gs://…
        image_size: another input size than the model's own; positions are resampled.
        architecture: a timm name, for arrays that do not say of which model they are.
    """
    import functools
    import json
    import sys

    from training.data import load_source
    from training.evaluation import evaluate as judge
    from training.evaluation import write_evaluation
    from training.evaluation.classes import model_outputs
    from training.report import examine, mcnemar, write_report

    for option, directory in (("--output", output), ("--report", report)):
        if directory is not None and directory.exists() and not directory.is_dir():
            raise ValueError(f"{option} {directory} is a file: give a directory.")
    if compare is not None and report is None:
        raise ValueError("--compare is shown in the report: give --report DIR too.")
    # The one line on standard output is for programs.
    say = functools.partial(print, file=sys.stderr)
    loaded = open_model(model, architecture, image_size)
    other = None if compare is None else open_model(compare)
    source = load_source(data, data_dir=data_dir, report=say)
    if other is not None:
        try:  # before the first model is evaluated for nothing
            model_outputs(other, source.labels, source.spec)
        except ValueError as error:
            raise ValueError(f"--compare {compare}: {error}") from error
    options: dict[str, Any] = {
        "source": source,
        "split": split,
        "batch_size": batch_size,
        "real_labels": real_labels,
        "report": say,
        "show_progress": True,
    }
    compared = {}
    if report is None:
        result = judge(loaded, **options)
    else:
        first, second = examine(loaded, title=model, **options), None
        result = first.evaluation
        if other is not None:
            second = examine(other, title=str(compare), first=first, **options)
            numbers = json.loads(second.evaluation.to_json())
            test = mcnemar(first.correct, second.correct)
            compared = {"compared": {"model": compare, **numbers, **test._asdict()}}
        say(
            write_report(
                first, report, second, data=data, split=split, report=say, show_progress=True
            )
        )
    if output is not None:
        for path in write_evaluation(result, output, f"{model} on {data}, {split}"):
            say(path)
    print(json.dumps(json.loads(result.to_json()) | compared))


def run(arguments: list[str]) -> None:
    """Run the command."""
    call(evaluate, "evaluate", arguments)
