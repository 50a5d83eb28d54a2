"""The reassessed labels of "Are we done with ImageNet?" (Beyer et al., 2020)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from keras_vit import VisionTransformer
from training.data import DataSource
from training.evaluation.classes import NUM_IMAGENET, imagenet_numbers, model_outputs, wordnet_ids

_NUM_IMAGES = 50_000
_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG$", re.IGNORECASE)
_WANTED = (
    "give real.json of https://github.com/google-research/reassessed-imagenet, 50,000 lists of "
    "class numbers from 0 to 999."
)


def read_real_labels(path: str | Path) -> list[list[int]]:
    """Read the published `real.json`.

    Args:
        path: of the file, from https://github.com/google-research/reassessed-imagenet.

    Returns:
        The class numbers of each validation image of ILSVRC 2012, the first of
        `ILSVRC2012_val_00000001.JPEG`.

    Raises:
        ValueError: if it is not 50,000 lists of numbers from 0 to 999.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not even text
        raise ValueError(f"{path} is not JSON ({error}): {_WANTED}") from error
    if not isinstance(content, list) or len(content) != _NUM_IMAGES:
        given = f"{len(content):,} entries" if isinstance(content, list) else "no list"
        raise ValueError(f"{path} holds {given}: {_WANTED}")
    for index, labels in enumerate(content):
        if not isinstance(labels, list) or not all(
            type(label) is int and 0 <= label < NUM_IMAGENET for label in labels
        ):
            raise ValueError(f"Entry {index} of {path} is {labels!r}: {_WANTED}")
    return content


def real_outputs(
    model: VisionTransformer,
    source: DataSource,
    split: str,
    path: str | Path,
    report: Callable[[str], None] = print,
) -> list[frozenset[int]]:
    """The model's outputs that ReaL takes for right, for each example of a split.

    Args:
        model: with a head for the 1000 classes of ImageNet.
        source: holds validation images of ILSVRC 2012, by the names of their files.
        split: which part of it.
        path: of `real.json`.
        report: called with a line if some examples are other images. Default `print`.

    Returns:
        One set for each example, in the order of `source.examples(split)`; empty where ReaL has no
        label, and for an image that is not of the validation set.

    Raises:
        ValueError: if the file is not ReaL's, the model's classes are not ImageNet's, or no
            example is an image of the validation set that ReaL has labels for.
    """
    labels = read_real_labels(path)
    if model.num_classes != NUM_IMAGENET or (
        model.labels is not None and imagenet_numbers(model.labels) is None
    ):
        raise ValueError(
            f"ReaL's labels are of the {NUM_IMAGENET} classes of ImageNet, and the model has "
            f"{model.num_classes} outputs of other classes: evaluate it without --real-labels."
        )
    output_of = model_outputs(model, wordnet_ids(), "ReaL").tolist()  # [1000]
    examples = source.examples(split).map(lambda example: example["name"])
    names = [name.decode(errors="replace") for name in examples.as_numpy_iterator()]
    found = [_NAME.search(name) for name in names]
    if not any(found):
        raise ValueError(
            f"None of the {len(names)} examples in the split {split} of {source.spec} is named "
            f"ILSVRC2012_val_NNNNNNNN.JPEG (the first is named {names[0] if names else ''!r}): "
            f"give the validation images of ILSVRC 2012 as files of these names, folder:PATH."
        )
    if others := found.count(None):
        report(f"{others} of {len(names)} examples are no images of ReaL's and left out of it.")
    outputs = [
        frozenset(output_of[label] for label in _labels_of(match, labels)) for match in found
    ]
    if not any(outputs):
        raise ValueError(
            f"ReaL has no label for any of the {len(names)} examples in the split {split} of "
            f"{source.spec}: evaluate without --real-labels."
        )
    return outputs


def _labels_of(match: re.Match[str] | None, labels: list[list[int]]) -> list[int]:
    """The class numbers of the image of that name; none for any other."""
    number = int(match[1]) if match else 0
    return labels[number - 1] if 1 <= number <= _NUM_IMAGES else []
