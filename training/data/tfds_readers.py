"""Reading the examples that TFDS has prepared, still encoded: in TFRecords or ArrayRecords."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import NoReturn, Protocol

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

# Examples in memory while shuffling; a split that fits is shuffled completely.
_SHUFFLE_BUFFER = 10_000
# Shards that are read at the same time: examples of so many mix before they enter the buffer.
_OPEN_SHARDS = 16
_READ_TOGETHER = 64  # examples of an ArrayRecord that one call of Python asks for
_DECODERS = {"image": tfds.decode.SkipDecoding()}

# A file, its first record to read, and how many.
Shard = tuple[str, int, int]


class Reader(Protocol):
    """Examples {"image_bytes", "label", "name"} of a prepared data set."""

    def examples(self, instruction: str) -> tf.data.Dataset:
        """All examples in order.

        Args:
            instruction: as TFDS knows it, such as "train" or "train[:90%]".
        """

    def shuffled(
        self, instruction: str, seed: tf.Tensor, start: int | tf.Tensor
    ) -> tf.data.Dataset:
        """The examples from `start` on, in an order that the seed decides."""


def reader_for(
    spec: str, builder: tfds.core.DatasetBuilder, stop: Callable[[str], NoReturn]
) -> Reader:
    """The reader for the files of a prepared data set.

    Args:
        spec: as given to `load_source`.
        builder: of the data set.
        stop: called inside a pipeline with the reason why it cannot go on; raises it.

    Returns:
        The reader.

    Raises:
        ValueError: if the files are of another kind, or the package that reads them is missing.
    """
    file_format = builder.info.file_format
    kind = "tfrecord" if file_format is None else file_format.value
    again = "`tfds build --file_format=tfrecord`"
    if kind == "tfrecord":
        return RecordReader(builder, stop)
    if kind != "array_record":
        raise ValueError(
            f"{spec} is prepared as {kind}, which cannot be read here: prepare it as TFRecords, "
            f"{again}, or as ArrayRecords."
        )
    if importlib.util.find_spec("array_record") is None:
        raise ValueError(
            f"{spec} is prepared as ArrayRecords, and the package array_record is not installed: "
            f"pip install array_record, or prepare the set as TFRecords, {again}."
        )
    return ArrayReader(builder)


class RecordReader:
    """TFRecords, which are read from their beginning.

    They are shuffled by drawing the order of the shards, reading several of them in turn, and
    mixing what comes in a buffer.

    Args:
        builder: of the data set.
        stop: as of `reader_for`.
    """

    def __init__(self, builder: tfds.core.DatasetBuilder, stop: Callable[[str], NoReturn]) -> None:
        self._builder = builder
        self._stop = stop

    def examples(self, instruction: str) -> tf.data.Dataset:
        """See `Reader.examples`."""
        shards = self._shards(instruction)
        opener = _opener(shards, self._stop)
        return self._parsed(tf.data.Dataset.range(len(shards)).flat_map(opener))

    def shuffled(
        self, instruction: str, seed: tf.Tensor, start: int | tf.Tensor
    ) -> tf.data.Dataset:
        """See `Reader.shuffled`; what is left out is read, but not parsed or decoded."""
        shards = self._shards(instruction)
        records = tf.data.Dataset.from_tensor_slices(_drawn_order(len(shards), seed)).interleave(
            _opener(shards, self._stop),
            cycle_length=_OPEN_SHARDS,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        size = min(sum(count for _, _, count in shards), _SHUFFLE_BUFFER)
        return self._parsed(_mixed(records, size, seed).skip(tf.cast(start, tf.int64)))

    def _shards(self, instruction: str) -> list[Shard]:
        """The files of a split; of a part of a split, those that it touches."""
        parts = self._builder.info.splits[instruction].file_instructions
        return [
            (
                str(part.filename),
                part.skip,
                part.examples_in_shard - part.skip if part.take < 0 else part.take,
            )
            for part in parts
        ]

    def _parsed(self, records: tf.data.Dataset) -> tf.data.Dataset:
        features = self._builder.info.features

        def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            example = features.deserialize_example(record, decoders=_DECODERS)
            return example["image"], tf.cast(example["label"], tf.int64)

        def example(record: tf.Tensor, name: tf.Tensor) -> dict:
            image_bytes, label = tf.cond(
                tf.strings.length(record) > 0,
                lambda: parse(record),
                lambda: (tf.constant(""), tf.constant(0, tf.int64)),
            )
            return {"image_bytes": image_bytes, "label": label, "name": name}

        return records.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


class ArrayReader:
    """ArrayRecords, which give any example by its number: they are shuffled completely.

    Args:
        builder: of the data set.
    """

    def __init__(self, builder: tfds.core.DatasetBuilder) -> None:
        self._builder = builder

    def examples(self, instruction: str) -> tf.data.Dataset:
        """See `Reader.examples`."""
        count = self._builder.info.splits[instruction].num_examples
        return self._read(instruction, tf.data.Dataset.range(count))

    def shuffled(
        self, instruction: str, seed: tf.Tensor, start: int | tf.Tensor
    ) -> tf.data.Dataset:
        """See `Reader.shuffled`; what is left out is not read."""
        count = self._builder.info.splits[instruction].num_examples
        order = _drawn_order(count, seed)[start:]
        return self._read(instruction, tf.data.Dataset.from_tensor_slices(order))

    def _read(self, instruction: str, numbers: tf.data.Dataset) -> tf.data.Dataset:
        source = self._builder.as_data_source(split=instruction, decoders=_DECODERS)

        def read(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            examples = source.__getitems__(numbers.tolist())
            images = np.array([example["image"] for example in examples], object)
            return images, np.array([example["label"] for example in examples], np.int64)

        def together(numbers: tf.Tensor) -> dict:
            # TensorFlow has no operation for these files; the library's own threads read the
            # examples of one call at the same time.
            images, labels = tf.numpy_function(
                read, [numbers], [tf.string, tf.int64], stateful=False
            )
            return {
                "image_bytes": tf.ensure_shape(images, [None]),
                "label": tf.ensure_shape(labels, [None]),
                "name": tf.strings.join([instruction, tf.strings.as_string(numbers)], "__"),
            }

        return numbers.batch(_READ_TOGETHER).map(together).prefetch(2).unbatch()


def _opener(
    shards: list[Shard], stop: Callable[[str], NoReturn]
) -> Callable[[tf.Tensor], tf.data.Dataset]:
    """A function that reads one of the shards: number -> data set of (record, name)."""
    columns = list(zip(*shards, strict=True))

    def existing(path: bytes) -> bytes:
        # A data set of a missing file would raise the same error for ever.
        if not tf.io.gfile.exists(path.decode()):
            stop(f"{path.decode()} is missing: copy it back, or prepare the data set again.")
        return path

    def read(number: tf.Tensor) -> tf.data.Dataset:
        path = tf.constant(columns[0])[number]
        first, count = (tf.constant(column, tf.int64)[number] for column in columns[1:])
        there = tf.numpy_function(existing, [path], tf.string, stateful=False)
        records = tf.data.TFRecordDataset(tf.ensure_shape(there, ())).skip(first)
        # After a damaged record nothing of its shard can be found: the rest is empty, so that
        # each example is still there, and can be named.
        empty = tf.data.Dataset.from_tensors(tf.constant("")).repeat(count)
        whole = records.ignore_errors().concatenate(empty).take(count)
        file = tf.strings.split(path, "/")[-1]
        return whole.enumerate(first).map(
            lambda place, record: (
                record,
                tf.strings.join([file, tf.strings.as_string(place)], "__"),
            )
        )

    return read


def _drawn_order(count: int, seed: tf.Tensor) -> tf.Tensor:
    return tf.random.experimental.stateless_shuffle(
        tf.range(count, dtype=tf.int64), tf.stack([seed, 0])
    )


def _mixed(dataset: tf.data.Dataset, buffer_size: int, seed: tf.Tensor) -> tf.data.Dataset:
    specs = tf.nest.flatten(dataset.element_spec)
    # `Dataset.shuffle` cannot take a symbolic seed when the global one is 0; its operation can.
    shuffled = tf.raw_ops.ShuffleDataset(
        input_dataset=tf.data.experimental.to_variant(dataset),
        buffer_size=buffer_size,
        seed=seed,
        seed2=1,  # both zero would mean: another order each time
        output_types=[spec.dtype for spec in specs],
        output_shapes=[spec.shape for spec in specs],
        reshuffle_each_iteration=False,
    )
    return tf.data.experimental.from_variant(shuffled, dataset.element_spec)
