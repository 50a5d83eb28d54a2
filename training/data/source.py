"""What a data set is to the rest of the project, and the one function that opens it."""

from __future__ import annotations

import abc
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import tensorflow as tf

Report = Callable[[str], None]


class DataSource(abc.ABC):
    """Labelled images in splits, still encoded.

    Attributes:
        spec: what it was opened from, such as "folder:photos".
        labels: the class names; an example's label is an index into them.
        splits: the number of usable examples in each split; "train" and "test" are always there.
    """

    spec: str
    labels: tuple[str, ...]
    splits: dict[str, int]

    @abc.abstractmethod
    def examples(self, split: str) -> tf.data.Dataset:
        """Every example of a split once, always in the same order.

        Args:
            split: one of `splits`.

        Returns:
            A data set of {"image_bytes": string scalar, "label": int64 scalar, "name": string
            scalar}; the name is the file's path or its number in the data set.
        """

    @abc.abstractmethod
    def shuffled(self, split: str, seed: tf.Tensor) -> tf.data.Dataset:
        """Every example of a split once, in an order that the seed decides.

        Args:
            split: one of `splits`.
            seed: int64 scalar, may be symbolic.

        Returns:
            As `examples`.
        """


def load_source(
    spec: str,
    *,
    data_dir: str | Path | None = None,
    seed: int = 0,
    bad_images: Literal["skip", "refuse"] = "skip",
    report: Report = print,
) -> DataSource:
    """Open a data set.

    Args:
        spec: "digits" (scikit-learn's handwritten digits), "folder:PATH" (`train/CLASS/*` and
            `test/CLASS/*`, or `CLASS/*`, of which a seeded tenth becomes the test split), or
            "tfds:NAME[/CONFIG]".
        data_dir: where TFDS keeps its data. Default None: TFDS's own place.
        seed: of the split that is made when a folder has none. Default 0.
        bad_images: files that cannot be decoded are named and left out ("skip"), or named in an
            error ("refuse"). Default "skip".
        report: called with lines for the user. Default `print`.

    Returns:
        A `DataSource`.

    Raises:
        ValueError: if the spec is not one of these, or what it names is not a usable data set.

    Example:
        >>> load_source("digits").splits
        {'train': 1437, 'test': 360}
    """
    kind, _, rest = spec.partition(":")
    if spec == "digits":
        from training.data.tfds_source import open_digits

        return open_digits(data_dir)
    if kind == "folder" and rest:
        from training.data.folder_source import open_folder

        return open_folder(rest, seed=seed, bad_images=bad_images, report=report)
    if kind == "tfds" and rest:
        from training.data.tfds_source import open_tfds

        return open_tfds(rest, data_dir)
    raise ValueError(f"There is no data {spec!r}: give digits, folder:PATH or tfds:NAME[/CONFIG].")
