"""TensorFlow Datasets as a source."""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import tensorflow as tf
import tensorflow_datasets as tfds

from training.data.source import DataSource

# Examples in memory while shuffling; a split that fits is shuffled completely.
_SHUFFLE_BUFFER = 10_000
_TEST_SPLITS = ("test", "validation")


class TfdsSource(DataSource):
    """An image classification set of TFDS, read without decoding.

    Args:
        spec: as given to `load_source`.
        builder: of a prepared data set with the features `image` and `label`.

    Raises:
        ValueError: if it has not these features, or no split to train or to test on.
    """

    def __init__(self, spec: str, builder: tfds.core.DatasetBuilder) -> None:
        self.spec = spec
        self._builder = builder
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
        self._names = {name: name for name in builder.info.splits}
        test = next((name for name in _TEST_SPLITS if self._is_labelled(name)), None)
        if "train" not in self._names or test is None:
            raise ValueError(
                f"{spec} has the splits {', '.join(self._names)}, but train and test (or "
                f"validation) are needed, with labels."
            )
        self._names["test"] = test
        self.splits = {
            split: builder.info.splits[name].num_examples for split, name in self._names.items()
        }

    def _is_labelled(self, name: str) -> bool:
        """Whether there is such a split and its labels are known: ImageNet's test has only -1."""
        if name not in self._builder.info.splits:
            return False
        first = self._builder.as_dataset(
            split=f"{name}[:1]", decoders={"image": tfds.decode.SkipDecoding()}
        )
        return all(example["label"] >= 0 for example in first.as_numpy_iterator())

    def examples(self, split: str) -> tf.data.Dataset:
        """See `DataSource.examples`."""
        dataset = self._builder.as_dataset(
            split=self._names[split],
            decoders={"image": tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(add_tfds_id=True),
            shuffle_files=False,
        )
        return dataset.map(
            lambda example: {
                "image_bytes": example["image"],
                "label": tf.cast(example["label"], tf.int64),
                "name": example["tfds_id"],
            }
        )

    def shuffled(self, split: str, seed: tf.Tensor) -> tf.data.Dataset:
        """See `DataSource.shuffled`."""
        dataset = self.examples(split)
        specs = tf.nest.flatten(dataset.element_spec)
        # `Dataset.shuffle` cannot take a symbolic seed when the global one is 0; its operation can.
        shuffled = tf.raw_ops.ShuffleDataset(
            input_dataset=tf.data.experimental.to_variant(dataset),
            buffer_size=min(self.splits[split], _SHUFFLE_BUFFER),
            seed=seed,
            seed2=1,  # both zero would mean: another order each time
            output_types=[spec.dtype for spec in specs],
            output_shapes=[spec.shape for spec in specs],
            reshuffle_each_iteration=False,
        )
        return tf.data.experimental.from_variant(shuffled, dataset.element_spec)


def open_digits(data_dir: str | Path | None) -> TfdsSource:
    """The embedded digits, prepared on first use."""
    from training.data.digits import Digits

    make = functools.partial(Digits, data_dir=None if data_dir is None else str(data_dir))
    _prepare(make)
    return TfdsSource("digits", make())


def open_tfds(name: str, data_dir: str | Path | None) -> TfdsSource:
    """A data set of TFDS by name, downloaded and prepared on first use.

    Args:
        name: NAME or NAME/CONFIG.
        data_dir: where TFDS keeps its data. Default None: TFDS's own place.

    Returns:
        A `TfdsSource`.

    Raises:
        ValueError: if there is no such data set, or it cannot be prepared: there is no network, or
            its files must be fetched by hand.
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
    return TfdsSource(f"tfds:{name}", make())


def _prepare(make: Callable[[], tfds.core.DatasetBuilder]) -> None:
    """Write a data set that is not there yet; TFDS moves it into place when it is complete."""
    directory = make().data_path
    if directory.exists():  # nothing is written: it may be someone else's
        return
    # A bucket has no locks; TFDS moves the complete data set into place there too.
    remote = "://" in str(directory)
    with contextlib.nullcontext() if remote else _one_at_a_time(Path(directory)):
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
