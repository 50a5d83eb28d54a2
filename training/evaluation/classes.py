"""Which output of a model is which class of a data set, also when the names differ."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_vit import VisionTransformer
from keras_vit.labels import imagenet_labels

NUM_IMAGENET = 1000
_NUMBERS = {str(number) for number in range(NUM_IMAGENET)}
_WORDNET_ID = re.compile(r"n\d{8}")
# Published lists of ImageNet's class names differ in a few spellings, never in the order.
_ALIKE = 0.9
_SHOWN = 5


def class_indices(
    model_labels: Sequence[str], data_labels: Sequence[str], data: str = "the data"
) -> np.ndarray:
    """The model's output for each class of the data.

    Classes go together by their names. Where both sides are ImageNet's (ILSVRC 2012), its names,
    WordNet ids ("n01440764") and numbers ("0" to "999", all of them) mean the same.

    Args:
        model_labels: the class names in the order of the model's outputs, K of them.
        data_labels: the class names of the data, C of them.
        data: what the data is called in messages. Default "the data".

    Returns:
        int64 [C]: for each class of the data, the index of the output.

    Raises:
        ValueError: if the model does not know a class, or has two outputs of its name.

    Example:
        >>> class_indices(["ape", "bee", "cat"], ["cat", "ape"])
        array([2, 0])
    """
    model_labels, data_labels = tuple(model_labels), tuple(data_labels)
    if model_labels == data_labels:  # also where a name occurs twice, as ImageNet's crane does
        return np.arange(len(data_labels), dtype=np.int64)
    positions = {label: index for index, label in enumerate(model_labels)}
    unknown = [label for label in data_labels if label not in positions]
    if not unknown:
        _refuse_ambiguous(model_labels, data_labels, data)
        return np.array([positions[label] for label in data_labels], np.int64)
    model_numbers = imagenet_numbers(model_labels)
    data_numbers = imagenet_numbers(data_labels)
    if model_numbers is not None and data_numbers is not None:
        # One more than the classes: the number -1 is of what ImageNet does not have.
        output_of = np.full(NUM_IMAGENET + 1, -1, np.int64)
        output_of[model_numbers] = np.arange(len(model_labels))
        output_of[-1] = -1
        outputs = output_of[data_numbers]
        if (outputs >= 0).all():
            return outputs
        unknown = [label for label, output in zip(data_labels, outputs, strict=True) if output < 0]
    raise ValueError(
        f"The model does not know {len(unknown)} of the {len(data_labels)} classes of {data}: "
        f"{', '.join(unknown[:_SHOWN])}. It knows {', '.join(model_labels[:_SHOWN])}, …: "
        f"evaluate on the data that it was trained for."
    )


def model_outputs(model: VisionTransformer, data_labels: Sequence[str], data: str) -> np.ndarray:
    """The output of a model for each class of the data, also of a model without labels.

    Args:
        model: with a head.
        data_labels: the class names of the data, C of them.
        data: what the data is called in messages.

    Returns:
        int64 [C]. The outputs of a model without labels are the data's classes in their order, or,
        if there are 1000 and the data's classes are ImageNet's, ImageNet's in theirs.

    Raises:
        ValueError: if the model has no head, or does not know a class.

    Example:
        >>> model = VisionTransformer(8, 4, hidden_dim=16, depth=1, num_heads=2, num_classes=1000)
        >>> model_outputs(model, ["n01440764", "n15075141"], "two classes")
        array([  0, 999])
    """
    if model.num_classes == 0:
        raise ValueError("The model has no head (num_classes=0): there is no accuracy to measure.")
    if model.labels is not None:
        return class_indices(model.labels, data_labels, data)
    if model.num_classes == NUM_IMAGENET and imagenet_numbers(data_labels) is not None:
        return class_indices(imagenet_labels(NUM_IMAGENET) or (), data_labels, data)
    if len(data_labels) > model.num_classes:
        raise ValueError(
            f"{data} has {len(data_labels)} classes, the model {model.num_classes}: evaluate on "
            f"the data that it was trained for."
        )
    return np.arange(len(data_labels), dtype=np.int64)


def imagenet_numbers(labels: Sequence[str]) -> np.ndarray | None:
    """The number in ImageNet (ILSVRC 2012) of each class name.

    Args:
        labels: the 1000 names, the numbers 0 to 999 in any order, or WordNet ids.

    Returns:
        int64, one for each label, -1 for a WordNet id that is not in ImageNet; None if the labels
        are none of these.

    Example:
        >>> imagenet_numbers(["n01443537", "n01440764"])
        array([1, 0])
    """
    # Some of the numbers only, such as the digits 0 to 9, are other data's.
    if set(labels) == _NUMBERS and len(labels) == NUM_IMAGENET:
        return np.array([int(label) for label in labels], np.int64)
    if labels and all(_WORDNET_ID.fullmatch(label) for label in labels):
        number_of = {identity: number for number, identity in enumerate(wordnet_ids())}
        return np.array([number_of.get(label, -1) for label in labels], np.int64)
    if len(labels) == NUM_IMAGENET:
        pairs = zip(labels, imagenet_labels(NUM_IMAGENET) or (), strict=True)
        alike = sum(_first_word(given) == _first_word(ours) for given, ours in pairs)
        return np.arange(NUM_IMAGENET) if alike >= _ALIKE * NUM_IMAGENET else None
    return None


@functools.cache
def wordnet_ids() -> tuple[str, ...]:
    """The WordNet ids of ImageNet's 1000 classes, in the order of published checkpoints.

    Returns:
        "n01440764" and so on, from the list that comes with TensorFlow Datasets.

    Raises:
        ValueError: if that list is not there.

    Example:
        >>> wordnet_ids()[:2]
        ('n01440764', 'n01443537')
    """
    package = importlib.util.find_spec("tensorflow_datasets")  # importing it would take seconds
    folders = (package.submodule_search_locations if package else None) or ["tensorflow_datasets"]
    path = Path(folders[0], "datasets", "imagenet2012", "labels.txt")
    if not path.is_file():
        raise ValueError(
            f"{path}, the list of ImageNet's WordNet ids, is missing: install "
            f"tensorflow-datasets 4.9.10, which brings it."
        )
    return tuple(path.read_text(encoding="utf-8").split())


def _first_word(label: str) -> str:
    """Without synonyms: "tench, Tinca tinca" is "tench"."""
    return label.split(",")[0].strip().casefold()


def _refuse_ambiguous(
    model_labels: tuple[str, ...], data_labels: tuple[str, ...], data: str
) -> None:
    counts = Counter(model_labels)
    if twice := [label for label in data_labels if counts[label] > 1]:
        raise ValueError(
            f"The model has more than one output named {', '.join(twice[:_SHOWN])}, a class of "
            f"{data}: name the classes otherwise, those of ImageNet by their WordNet ids."
        )
