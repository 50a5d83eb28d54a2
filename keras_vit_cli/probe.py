"""`keras-vit probe`."""

from __future__ import annotations

from typing import Annotated

import tyro

from keras_vit_cli.arguments import call
from keras_vit_cli.sources import open_model


def probe(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    data: Annotated[str, tyro.conf.arg(metavar="SPEC")],
    kinds: str = "fewshot,knn,linear",
    shots: str = "1,5,10,25",
    neighbours: int = 20,
    seed: int = 0,
    split: str = "test",
    train_split: str = "train",
    batch_size: int = 64,
    data_dir: str | None = None,
    image_size: int | None = None,
    architecture: str | None = None,
) -> None:
    """Judge a model's frozen features on any data; prints one line of JSON.

    The weights stay as they are, and the classes need not be the model's: what its head sees of
    each image becomes the input of simple classifiers, trained on one split and judged on another.
    The line holds their accuracies, such as fewshot_5_top1, knn_top1 and linear_top1, and
    train_examples, test_examples and dimensions. The kinds are:

    fewshot: linear regression from a few examples of each class, mean of three draws, with the
    settings of big_vision. Seconds.

    knn: the vote of the nearest training examples by cosine, with the settings of DINO: knn_top1
    weighted with temperature 0.07, knn_plain_top1 unweighted. Seconds to minutes.

    linear: logistic regression, its penalty chosen on a held-out fifth of the training examples.
    Minutes for some ten thousand examples, too long for all of ImageNet.

    Args:
        model: a training workdir, a .keras file, or any checkpoint: .npz, .safetensors, a folder of
            timm or transformers, hf://org/name, https://… or gs://…; with or without a head.
        data: digits, folder:PATH, tfds:NAME[/CONFIG], webdataset:PATTERN or records:PATH.
        kinds: some of fewshot, knn and linear, with commas between them.
        shots: examples of each class for fewshot, with commas between them.
        neighbours: how many training examples vote in knn.
        seed: of the draws of fewshot and of what linear holds out.
        split: the part of the data to judge on.
        train_split: the part of the data to learn from.
        batch_size: images per step.
        data_dir: where TFDS keeps its data; may be a bucket, gs://…
        image_size: another input size than the model's own; positions are resampled.
        architecture: a timm name, for arrays that do not say of which model they are.
    """
    import functools
    import json
    import sys

    from training.data import load_source
    from training.evaluation.accuracy import check_split
    from training.probes import FeatureExtractor, probe_names, run_probes

    names = [name.strip() for name in kinds.split(",") if name.strip()]
    counts = _numbers(shots)
    probe_names(names, counts)  # what is wrong with these shows before the work
    # The one line on standard output is for programs.
    report = functools.partial(print, file=sys.stderr)
    loaded = open_model(model, architecture, image_size)
    source = load_source(data, data_dir=data_dir, report=report)
    for part in (train_split, split):
        check_split(source, part, batch_size)
    extract = FeatureExtractor(loaded)
    train = extract(source, train_split, batch_size, show_progress=True)
    test = extract(source, split, batch_size, show_progress=True)
    accuracies = run_probes(
        train, test, len(source.labels), names, counts, neighbours, seed, report
    )
    size = {
        "train_examples": len(train.labels),
        "test_examples": len(test.labels),
        "dimensions": train.values.shape[1],
    }
    print(json.dumps({**accuracies, **size}))


def _numbers(text: str) -> list[int]:
    """The numbers between the commas."""
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ValueError(
            f"--shots {text} is not a list of numbers: give them as in --shots 1,5,10,25."
        ) from error


def run(arguments: list[str]) -> None:
    """Run the command."""
    call(probe, "probe", arguments)
