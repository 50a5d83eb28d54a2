"""What is in a data set, in numbers."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from keras_vit import Preprocessing
from keras_vit.decoding import decode_image
from training.data.source import DataSource

# Labels of more examples are only counted on request, where they must be read for it.
_COUNTED = 100_000


@dataclasses.dataclass(frozen=True)
class Range:
    """The spread of a number over images.

    Args:
        least: of all.
        median: of all.
        most: of all.
    """

    least: int
    median: int
    most: int


@dataclasses.dataclass(frozen=True)
class SplitSummary:
    """One split.

    Args:
        examples: how many.
        classes: how many of the classes it has examples of; None if they were not counted.
        smallest: the class with the fewest examples, and how many, none left out.
        largest: the class with the most.
        looked_at: how many images were decoded for what follows.
        width: in pixels; None if no image could be decoded.
        height: in pixels.
        bytes: of an encoded image.
    """

    examples: int
    classes: int | None
    smallest: tuple[str, int] | None
    largest: tuple[str, int] | None
    looked_at: int
    width: Range | None
    height: Range | None
    bytes: Range | None


@dataclasses.dataclass(frozen=True)
class Summary:
    """A data set.

    Args:
        spec: as given to `load_source`.
        labels: class names.
        splits: the training split, if there is one, and the test split.
        damaged: name -> reason of the examples that cannot be used, as far as they were met.
    """

    spec: str
    labels: tuple[str, ...]
    splits: dict[str, SplitSummary]
    damaged: dict[str, str]


def summarize(source: DataSource, *, sample: int | None = 1000) -> Summary:
    """Count the classes, and decode some or all images.

    Args:
        source: the data set.
        sample: images to decode in each split; None for all. Default 1000.

    Returns:
        What was found.

    Raises:
        ValueError: if more images are damaged than `source.damage` allows.

    Example:
        >>> from training.data import load_source
        >>> summary = summarize(load_source("digits"), sample=10)
        >>> summary.splits["train"].examples, summary.splits["train"].width.median
        (1437, 8)
    """
    with source.damage.explained():
        splits: dict[str, SplitSummary] = {
            split: _summarize(source, split, sample)
            for split in ("train", "test")
            if split in source.splits
        }
    damaged = {**source.left_out, **source.damage.reasons}
    return Summary(source.spec, source.labels, splits, damaged)


def _summarize(source: DataSource, split: str, sample: int | None) -> SplitSummary:
    total = source.splits[split]
    classes = smallest = largest = None
    if source.has_known_labels or sample is None or total <= _COUNTED:
        counts = source.class_counts(split)
        classes = int(np.count_nonzero(counts))
        smallest, largest = (
            (source.labels[place], int(counts[place]))
            for place in (int(np.argmin(counts)), int(np.argmax(counts)))
        )
    looked_at = total if sample is None else min(sample, total)
    sizes = _sizes(source, split, looked_at)
    ranges = [_range(column) for column in sizes.T]
    return SplitSummary(total, classes, smallest, largest, looked_at, *ranges)


def _sizes(source: DataSource, split: str, count: int) -> np.ndarray:
    """Width, height and bytes of the images that can be decoded, int64 [N, 3]."""

    def size(example: dict) -> tf.Tensor:
        image_bytes = example["image_bytes"]
        shape = tf.shape(decode_image(image_bytes, Preprocessing().max_pixels))
        return tf.stack([shape[1], shape[0], tf.strings.length(image_bytes)])

    examples = source.shuffled(split, tf.constant(0, tf.int64)).take(count)
    sizes = source.damage.guarded(examples, size, lambda example: tf.zeros([3], tf.int32))
    found = np.array(list(sizes.as_numpy_iterator()), np.int64).reshape(-1, 3)
    return found[found.all(axis=1)]


def _range(values: np.ndarray) -> Range | None:
    if not len(values):
        return None
    return Range(int(values.min()), int(np.median(values)), int(values.max()))
