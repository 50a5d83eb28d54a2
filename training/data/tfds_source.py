"""TensorFlow Datasets as a source."""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from training.data.damage import DamageLog
from training.data.source import DataSource, Report
from training.data.tfds_readers import reader_for

_TEST_SPLITS = ("test", "validation")
_TEST_SHARE = 0.1


class TfdsSource(DataSource):
    """An image classification set of TFDS, read without decoding.

    Args:
        spec: as given to `load_source`.
        builder: of a prepared data set with the features `image` and `label`.
        report: called with a line when a test split is made. Default `print`.

    Raises:
        ValueError: if it has not these features, no split to train on, none with labels to test on
            where one cannot be made, or files that cannot be read here.
    """

    def __init__(
        self, spec: str, builder: tfds.core.DatasetBuilder, report: Report = print
    ) -> None:
        self.spec = spec
        features = dict(builder.info.features or {})
        image, label = features.get("image"), features.get("label")
        if not isinstance(image, tfds.features.Image) or not isinstance(
            label, tfds.features.ClassLabel
        ):
            raise ValueError(
                f"{spec} is not an image classification set: it needs the features image and "
                f"label, and has {', '.join(features)}."
            )
        self.labels = tuple(label.names)
        self.damage = DamageLog(0)  # until the splits are known
        self._reader = reader_for(spec, builder, lambda text: self.damage.stop(text))
        self._instructions = self._choose_splits(builder.info, report)
        self.splits = {
            split: builder.info.splits[name].num_examples
            for split, name in self._instructions.items()
        }
        self.damage = DamageLog(sum(self.splits.values()))

    def examples(self, split: str) -> tf.data.Dataset:
        """See `DataSource.examples`."""
        return self._checked(self._reader.examples(self._instructions[split]))

    def shuffled(self, split: str, seed: tf.Tensor, start: int | tf.Tensor = 0) -> tf.data.Dataset:
        """See `DataSource.shuffled`; what is left out is read where it must be, never decoded."""
        return self._checked(self._reader.shuffled(self._instructions[split], seed, start))

    def _choose_splits(self, info: tfds.core.DatasetInfo, report: Report) -> dict[str, str]:
        """The TFDS split, or the part of one, behind each split."""
        names = {name: name for name in info.splits}
        test = next((n for n in _TEST_SPLITS if n in names and self._is_labelled(n)), None)
        if test is not None:  # without "train" it is a set to evaluate on
            return names | {"test": test}
        # TFDS shuffles what it prepares; in the order of its source, the end may be one class.
        if "train" not in names or info.disable_shuffling:
            raise ValueError(
                f"{self.spec} has the splits {', '.join(names)}, but train and test (or "
                f"validation) are needed, with labels: a test split is only made of a train split "
                f"that TFDS has shuffled."
            )
        total = info.splits["train"].num_examples
        kept = total - max(1, round(total * _TEST_SHARE))
        report(
            f"{self.spec} has nothing to test on: the last {total - kept} of its {total} training "
            f"examples are kept for testing."
        )
        return names | {"train": f"train[:{kept}]", "test": f"train[{kept}:]"}

    def _is_labelled(self, name: str) -> bool:
        """Whether the labels of a split are known: ImageNet's test has only -1."""
        first = self._reader.examples(name).take(1)
        with self.damage.explained():
            return all(example["label"] >= 0 for example in first.as_numpy_iterator())

    def _checked(self, examples: tf.data.Dataset) -> tf.data.Dataset:
        """Stop at a label that is no class: training would take it for none of them silently."""
        last = len(self.labels) - 1

        def refuse(name: bytes, label: np.int64) -> NoReturn:
            self.damage.stop(
                f"The example {name.decode(errors='replace')} of {self.spec} has the label "
                f"{label}, which is not in 0 … {last}, its {last + 1} classes: choose a split that "
                f"has labels, or mend them and prepare the set again."
            )

        def check(example: dict) -> dict:
            label = example["label"]
            checked = tf.cond(
                (label >= 0) & (label <= last),
                lambda: label,
                lambda: tf.numpy_function(
                    refuse, [example["name"], label], tf.int64, stateful=False
                ),
            )
            return {**example, "label": tf.ensure_shape(checked, ())}

        return examples.map(check)


def open_digits(data_dir: str | Path | None) -> TfdsSource:
    """The embedded digits, prepared on first use."""
    from training.data.digits import Digits

    make = functools.partial(Digits, data_dir=None if data_dir is None else str(data_dir))
    _prepare(make)
    source = TfdsSource("digits", make())
    source.was_decoded = True  # TFDS has encoded the pixels itself
    return source


def open_tfds(name: str, data_dir: str | Path | None, report: Report = print) -> TfdsSource:
    """A data set of TFDS by name, downloaded and prepared on first use.

    Args:
        name: NAME or NAME/CONFIG.
        data_dir: where TFDS keeps its data. Default None: TFDS's own place.
        report: called with lines for the user. Default `print`.

    Returns:
        A `TfdsSource`; of a set with nothing to test on, the last tenth of the training split is
        kept for it.

    Raises:
        ValueError: if there is no such data set, it cannot be prepared (there is no network, or its
            files must be fetched by hand), or it is none of images and classes.
    """
    make = functools.partial(
        tfds.builder, name, data_dir=None if data_dir is None else str(data_dir)
    )
    try:
        directory = make().data_dir
    except tfds.core.DatasetNotFoundError as error:
        near = difflib.get_close_matches(name.split("/")[0], tfds.list_builders(), n=3)
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"TFDS has no data set {name!r}.{hint}") from error
    try:
        _prepare(make)
    # The last is how TFDS asks for files that only a person may fetch, such as ImageNet's.
    except (OSError, tfds.download.DownloadError, AssertionError) as error:
        raise ValueError(
            f"tfds:{name} is not prepared in {directory}, and preparing it failed ({error}). "
            f"Prepare it where there is a network, `tfds build {name} --data_dir DIR`, and give "
            f"--data-dir DIR."
        ) from error
    return TfdsSource(f"tfds:{name}", make(), report)


def _prepare(make: Callable[[], tfds.core.DatasetBuilder]) -> None:
    """Write a data set that is not there yet; TFDS moves it into place when it is complete."""
    directory = make().data_path
    if directory.exists():  # nothing is written: it may be someone else's
        return
    # A bucket has no locks; TFDS moves the complete data set into place there too.
    remote = "://" in str(directory)
    alone = contextlib.nullcontext() if remote else _one_at_a_time(Path(directory))
    # What TFDS prints is not for programs that read our standard output.
    with alone, contextlib.redirect_stdout(sys.stderr):
        # A new builder each time: one that is older than the data does not know its splits.
        make().download_and_prepare()


@contextlib.contextmanager
def _one_at_a_time(directory: Path) -> Iterator[None]:
    """Two processes that start together must not both write the data set."""
    lock = directory.parent / f".{directory.name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed, also by a kill
        yield
