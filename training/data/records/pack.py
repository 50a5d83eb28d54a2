"""Writing any data set as record shards."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from keras_vit import Preprocessing
from keras_vit.decoding import decode_image
from training.data.records.layout import (
    FOOTER_BYTES,
    HEADER_BYTES,
    Index,
    Info,
    Shard,
    join,
    shard_name,
    to_record,
    write_index,
    write_info,
)
from training.data.records.new_folder import writing
from training.data.source import DataSource

# Large enough that a bucket reads it at full speed, small enough to be copied anew.
_SHARD_BYTES = 200_000_000
_SAMPLE = 200  # examples, of which the size of all is estimated
_SPLITS = ("train", "test")

# What is in a shard.
Written = tuple[Shard, Index]


@dataclasses.dataclass(frozen=True)
class Part:
    """The examples that go into one shard.

    Args:
        split: of the data set.
        number: of the shard, from 0.
        count: of the shards of the split.
        start: the first example, in the order of the seed.
        examples: how many.
    """

    split: str
    number: int
    count: int
    start: int
    examples: int


def pack(
    source: DataSource,
    out: str,
    *,
    seed: int = 0,
    shards: int | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> Info:
    """Write the training and the test split of a data set as records, shuffled once.

    Encoded images are copied as they are. Each is decoded once; those that cannot be are named and
    left out, as `source.damage` says. What is written appears under its name when it is complete.

    Args:
        source: any data set.
        out: the folder to make; may be in a bucket, where it is complete when `info.json` is there.
        seed: of the order. Default 0.
        shards: of the training split; the test split gets its share. Default None: by size, about
            200 MB each.
        advance: called with numbers of examples that have been dealt with. Default: does nothing.

    Returns:
        What was written.

    Raises:
        ValueError: if the folder exists, another process writes it, too many examples are damaged,
            or what was written cannot be read again.

    Example:
        >>> import tempfile
        >>> from training.data import load_source
        >>> out = tempfile.mkdtemp() + "/digits"
        >>> info = pack(load_source("digits"), out)
        >>> sum(shard.examples for shard in info.shards["train"])
        1437
        >>> load_source(f"records:{out}").splits
        {'train': 1437, 'test': 360}
    """
    parts = plan(source, seed, shards)
    with writing(out) as folder, source.damage.explained():
        written = []
        for split in _SPLITS:
            # One pass over a split: not every source can begin in the middle without reading.
            examples = checked_examples(source, split, seed)
            for part in parts:
                if part.split == split:
                    of_part = itertools.islice(examples, part.examples)
                    written.append(write_shard(of_part, part, source.labels, folder, advance))
        return finish(source, seed, parts, written, folder)


def plan(source: DataSource, seed: int, shards: int | None) -> list[Part]:
    """Which examples go into which shard.

    Args:
        source: the data set.
        seed: of the order.
        shards: of the training split; None for a number by size.

    Returns:
        The parts of the training split, then those of the test split.

    Raises:
        ValueError: if there are fewer training examples than shards, or none.
    """
    train = source.training_examples
    if shards is not None and not 1 <= shards <= train:
        raise ValueError(
            f"shards={shards} is not between 1 and the {train} training examples of {source.spec}."
        )
    parts = []
    for split in _SPLITS:
        total = source.splits[split]
        if shards is None:
            count = max(1, round(total * _mean_size(source, split, seed) / _SHARD_BYTES))
        else:
            count = max(1, round(shards * total / train))
        bounds = [total * number // count for number in range(count + 1)]
        parts += [
            Part(split, number, count, start, end - start)
            for number, (start, end) in enumerate(itertools.pairwise(bounds))
        ]
    return parts


def checked_examples(
    source: DataSource, split: str, seed: int, start: int = 0, count: int = -1
) -> Iterator[tuple[bytes, int, str, bool]]:
    """The examples in the order of a seed: bytes, label, name, and whether they can be decoded.

    Args:
        source: the data set.
        split: of it.
        seed: of the order.
        start: examples to leave out. Default 0.
        count: examples to give, and -1 for all. Default -1.

    Yields:
        One example.
    """

    def result(example: dict, good: bool | tf.Tensor) -> tuple:
        return example["image_bytes"], example["label"], example["name"], good

    def decoded(example: dict) -> tuple:
        pixels = decode_image(example["image_bytes"], Preprocessing().max_pixels)
        has_pixels = tf.debugging.Assert(tf.size(pixels) > 0, ["no pixels"])
        with tf.control_dependencies([has_pixels]):
            return result(example, tf.constant(True))

    examples = source.shuffled(split, tf.constant(seed, tf.int64), start).take(count)
    checked = source.damage.guarded(
        examples, decoded, lambda example: result(example, tf.constant(False))
    )
    for image_bytes, label, name, good in checked.prefetch(tf.data.AUTOTUNE).as_numpy_iterator():
        yield image_bytes, int(label), name.decode(errors="replace"), bool(good)


def write_shard(
    examples: Iterator[tuple[bytes, int, str, bool]],
    part: Part,
    labels: tuple[str, ...],
    folder: str,
    advance: Callable[[int], None] = lambda count: None,
) -> Written:
    """Write one shard and read it again.

    Args:
        examples: as `checked_examples` gives them.
        part: which shard.
        labels: class names.
        folder: where to.
        advance: called with 1 for each example. Default: does nothing.

    Returns:
        What is in it.

    Raises:
        ValueError: if it cannot be read again, or an example has a label without a name.
    """
    file = shard_name(part.split, part.number, part.count)
    path = join(folder, file)
    lengths, classes = [], []
    with tf.io.TFRecordWriter(path) as writer:
        for image_bytes, label, name, good in examples:
            advance(1)
            if not good:
                continue
            if not 0 <= label < len(labels):
                raise ValueError(
                    f"{name} has the label {label}, outside 0 … {len(labels) - 1}: give every "
                    f"label a name, or mend it."
                )
            record = to_record(image_bytes, label, labels[label], name)
            writer.write(record)
            lengths.append(len(record))
            classes.append(label)
    sizes = np.array(lengths, np.int64)
    ends = np.cumsum(sizes + HEADER_BYTES + FOOTER_BYTES, dtype=np.int64)
    starts = ends - sizes - HEADER_BYTES - FOOTER_BYTES
    size, digest = _verified(path, lengths)
    shard = Shard(file, len(lengths), size, digest)
    return shard, Index(starts, sizes, np.array(classes, np.int64))


def finish(
    source: DataSource, seed: int, parts: list[Part], written: list[Written], folder: str
) -> Info:
    """Write the indices, then `info.json`.

    Args:
        source: what was packed.
        seed: of the order.
        parts: as `plan` gave them.
        written: what is in the shard of each.
        folder: where the shards are.

    Returns:
        What `info.json` says.
    """
    shards: dict[str, tuple[Shard, ...]] = {}
    for split in _SPLITS:
        own = [result for part, result in zip(parts, written, strict=True) if part.split == split]
        shards[split] = tuple(shard for shard, _ in own)
        write_index(folder, split, [index for _, index in own])
    info = Info(source.spec, seed, source.labels, shards)
    write_info(folder, info)
    return info


def _mean_size(source: DataSource, split: str, seed: int) -> float:
    sample = source.shuffled(split, tf.constant(seed, tf.int64)).take(_SAMPLE)
    return float(np.mean([len(e["image_bytes"]) for e in sample.as_numpy_iterator()]))


def _verified(path: str, lengths: list[int]) -> tuple[int, str]:
    """Size and sha256 of a shard whose records have been read again, with their checksums."""
    read = [len(record) for record in tf.data.TFRecordDataset(path).as_numpy_iterator()]
    if read != lengths:
        raise ValueError(
            f"{path} was written with {len(lengths)} records and read again with {len(read)}: is "
            f"the disk full or broken?"
        )
    digest, size = hashlib.sha256(), 0
    with tf.io.gfile.GFile(path, "rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()
