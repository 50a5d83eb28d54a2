"""Sources that can read any example by its number: every shuffle of them is a complete one."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from training.data.source import DataSource, Report

_SHOWN = 10


class IndexedSource(DataSource):
    """Examples with a number each, of which the labels are known beforehand.

    Args:
        spec: as given to `load_source`.
        labels: class names.
        classes: of each split, the label of each example.

    Raises:
        ValueError: if a label is not the number of a class.
    """

    has_known_labels = True

    def __init__(
        self, spec: str, labels: Sequence[str], classes: Mapping[str, Sequence[int] | np.ndarray]
    ) -> None:
        self.spec = spec
        self.labels = tuple(labels)
        numbers = {split: np.asarray(of_split, np.int64) for split, of_split in classes.items()}
        self.splits = {split: len(of_split) for split, of_split in numbers.items()}
        for split, of_split in numbers.items():
            _check_range(spec, split, of_split, len(self.labels))
        self._counts = {
            split: np.bincount(of_split, minlength=len(self.labels))
            for split, of_split in numbers.items()
        }
        self._classes = constants(numbers)

    def examples(self, split: str) -> tf.data.Dataset:
        """See `DataSource.examples`."""
        return self._read_all(split, tf.data.Dataset.range(self.splits[split]))

    def shuffled(self, split: str, seed: tf.Tensor, start: int | tf.Tensor = 0) -> tf.data.Dataset:
        """See `DataSource.shuffled`; what is left out is not read."""
        order = tf.random.experimental.stateless_shuffle(
            tf.range(self.splits[split], dtype=tf.int64), tf.stack([seed, 0])
        )
        return self._read_all(split, tf.data.Dataset.from_tensor_slices(order[start:]))

    def class_counts(self, split: str) -> np.ndarray:
        """See `DataSource.class_counts`; nothing is read."""
        return self._counts[split]

    @abc.abstractmethod
    def read(self, split: str, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The bytes and the name of one example, in a tf.data graph.

        Args:
            split: one of `splits`.
            index: int64 scalar.

        Returns:
            Two string scalars; the bytes are empty where a record is damaged.
        """

    def _read_all(self, split: str, indices: tf.data.Dataset) -> tf.data.Dataset:
        classes = self._classes[split]

        def example(index: tf.Tensor) -> dict:
            image_bytes, name = self.read(split, index)
            return {"image_bytes": image_bytes, "label": classes[index], "name": name}

        return indices.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def constants(values: Mapping[str, Sequence | np.ndarray]) -> dict[str, tf.Tensor]:
    """Tensors that pipelines refer to.

    Made once, outside any graph: a million paths in the graph of each pipeline would cost
    gigabytes. On the CPU, where tf.data reads them.

    Args:
        values: name -> strings or whole numbers.

    Returns:
        name -> tensor; numbers as int64.

    Example:
        >>> constants({"train": [1, 2]})["train"].dtype
        tf.int64
    """
    with tf.init_scope(), tf.device("CPU:0"):
        arrays = {name: np.asarray(of_name) for name, of_name in values.items()}
        return {
            name: tf.constant(array, tf.int64 if array.dtype.kind in "iu" else tf.string)
            for name, array in arrays.items()
        }


def report_absent_classes(source: IndexedSource, report: Report) -> None:
    """Say which classes have images in one split only.

    Args:
        source: with the splits "train" and "test".
        report: called with lines for the user.
    """
    train, test = (source.class_counts(split) > 0 for split in ("train", "test"))
    for found, other, split, consequence in (
        (test, train, "test", ""),
        (train, test, "training", " Their test images can only be answered wrongly."),
    ):
        if absent := [source.labels[index] for index in np.flatnonzero(~found & other)]:
            report(
                f"No {split} images for {len(absent)} classes: "
                f"{', '.join(absent[:_SHOWN])}.{consequence}"
            )


def stratified_split(
    classes: Sequence[int] | np.ndarray, seed: int, share: float = 0.1
) -> tuple[list[int], list[int]]:
    """A test split drawn from each class alike: of each the same share, at least one example.

    Args:
        classes: the label of each example.
        seed: of the draw.
        share: of the test split. Default 0.1.

    Returns:
        The numbers of the training and of the test examples, ascending. A class with one example
        keeps it for training.

    Example:
        >>> train, test = stratified_split([0] * 20 + [1], seed=0)
        >>> len(train), len(test), 20 in train
        (19, 2, True)
    """
    generator = np.random.default_rng(seed)
    labels = np.asarray(classes)
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order = generator.permutation(len(members))
        count = max(1, round(len(members) * share)) if len(members) > 1 else 0
        chosen[members[order[:count]]] = True
    return np.flatnonzero(~chosen).tolist(), np.flatnonzero(chosen).tolist()


def _check_range(spec: str, split: str, classes: np.ndarray, num_classes: int) -> None:
    outside = np.flatnonzero((classes < 0) | (classes >= num_classes))
    if len(outside):
        raise ValueError(
            f"{len(outside)} examples of the split {split} of {spec} have labels outside 0 … "
            f"{num_classes - 1}, its {num_classes} classes: the first is example {outside[0]} with "
            f"{classes[outside[0]]}. Give every label a name, or mend the labels."
        )
