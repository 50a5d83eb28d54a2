"""What a data set is to the rest of the project, and the one function that opens it."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import tensorflow as tf

from training.data.as_written import as_written
from training.data.damage import BadImages, DamageLog

Report = Callable[[str], None]


class DataSource(abc.ABC):
    """Labelled images in splits, still encoded.

    Attributes:
        spec: what it was opened from, such as "folder:photos".
        labels: the class names; an example's label is an index into them.
        splits: the number of usable examples in each split; "test" is always there, and "train" but
            for a set to evaluate on, such as ImageNet-V2.
        left_out: name -> reason of the examples that were found to be unusable on opening.
        has_known_labels: whether `class_counts` is free.
        is_checked: whether every image was decoded once on opening, and only good ones are left.
        was_decoded: whether every image was decoded before it was written, with a checksum: what
            can be read can be decoded.
    """

    spec: str
    labels: tuple[str, ...]
    splits: dict[str, int]
    left_out: Mapping[str, str] = MappingProxyType({})
    has_known_labels: bool = False
    is_checked: bool = False
    was_decoded: bool = False

    @abc.abstractmethod
    def examples(self, split: str) -> tf.data.Dataset:
        """Every example of a split once, always in the same order.

        Args:
            split: one of `splits`.

        Returns:
            A data set of {"image_bytes": string scalar, "label": int64 scalar, "name": string
            scalar}; the name is the file's path or its place in the data set. Where a record of
            shards is damaged, its bytes are empty.
        """

    @abc.abstractmethod
    def shuffled(self, split: str, seed: tf.Tensor, start: int | tf.Tensor = 0) -> tf.data.Dataset:
        """Every example of a split once, in an order that the seed decides.

        Args:
            split: one of `splits`.
            seed: int64 scalar, may be symbolic.
            start: int64 scalar, may be symbolic: so many examples of the order are left out, for
                a run that goes on in the middle of an epoch. Default 0.

        Returns:
            As `examples`.
        """

    @as_written
    def class_counts(self, split: str) -> np.ndarray:
        """How many readable examples each class has; may have to read the whole split.

        Args:
            split: one of `splits`.

        Returns:
            int64 [number of classes].
        """
        counts = np.zeros(len(self.labels), np.int64)
        examples = self.examples(split).filter(lambda e: tf.strings.length(e["image_bytes"]) > 0)
        for labels in examples.map(lambda e: e["label"]).batch(1024).as_numpy_iterator():
            counts += np.bincount(labels, minlength=len(self.labels))
        return counts

    @property
    def training_examples(self) -> int:
        """How many examples there are to learn from.

        Raises:
            ValueError: if it is a set to evaluate on.
        """
        if "train" not in self.splits:
            raise ValueError(
                f"{self.spec} has nothing to train on: it has the splits "
                f"{', '.join(sorted(self.splits))}. It can be evaluated on."
            )
        return self.splits["train"]

    @functools.cached_property
    def damage(self) -> DamageLog:
        """Where pipelines note the examples that cannot be used; `load_source` sets it up."""
        return DamageLog(sum(self.splits.values()))


def load_source(
    spec: str,
    *,
    data_dir: str | Path | None = None,
    seed: int = 0,
    bad_images: BadImages = "skip",
    report: Report = print,
) -> DataSource:
    """Open a data set.

    Args:
        spec: "digits" (scikit-learn's handwritten digits), "folder:PATH" (`train/CLASS/*` and
            `test/CLASS/*`, or `CLASS/*`, of which a seeded tenth becomes the test split; a folder
            with `test/CLASS/*` alone is to evaluate on),
            "tfds:NAME[/CONFIG]", "records:PATH" (what `keras-vit data pack` wrote), or
            "webdataset:PATTERN" (`train-{00000..00015}.tar`, or a folder of `train-*.tar` and
            `test-*.tar`).
        data_dir: where TFDS keeps its data. Default None: TFDS's own place.
        seed: of the split that is made when there is none to test on. Default 0.
        bad_images: images that cannot be read or decoded are named and left out ("skip"; at most
            1 % of those in shards), or named in an error ("refuse"). Default "skip".
        report: called with lines for the user. Default `print`.

    Returns:
        A `DataSource`.

    Raises:
        ValueError: if the spec is not one of these, or what it names is not a usable data set.

    Example:
        >>> load_source("digits").splits
        {'train': 1437, 'test': 360}
    """
    source = _open(spec, data_dir, seed, bad_images, report)
    source.damage = DamageLog(
        sum(source.splits.values()),
        bad_images=bad_images,
        report=report,
        was_decoded=source.was_decoded,
    )
    return source


def _open(
    spec: str, data_dir: str | Path | None, seed: int, bad_images: BadImages, report: Report
) -> DataSource:
    kind, _, rest = spec.partition(":")
    if spec == "digits":
        from training.data.tfds_source import open_digits

        return open_digits(data_dir)
    if kind == "tfds" and rest:
        from training.data.tfds_source import open_tfds

        return open_tfds(rest, data_dir, report)
    if kind == "folder" and rest:
        from training.data.folder_source import open_folder

        return open_folder(rest, seed=seed, bad_images=bad_images, report=report)
    if kind == "records" and rest:
        from training.data.records.record_source import open_records

        return open_records(rest, bad_images=bad_images, report=report)
    if kind == "webdataset" and rest:
        from training.data.records.tar_source import open_tars

        return open_tars(rest, seed=seed, bad_images=bad_images, report=report)
    raise ValueError(
        f"There is no data {spec!r}: give digits, folder:PATH or tfds:NAME[/CONFIG], or shards, "
        f"records:PATH or webdataset:PATTERN."
    )
