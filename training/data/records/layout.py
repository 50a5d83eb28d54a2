"""How a folder of record shards is laid out: the shards, `info.json`, an index for each split.

```
info.json                       labels; of each split the shards with count, size and sha256
train.index.npz                 where each record starts, its length and its label
train-00000-of-00002.tfrecord   tf.Examples, as TFDS and ImageNet's tools write them
```

`info.json` is written last: a folder without it is not complete.
"""

from __future__ import annotations

import dataclasses
import io
import json
from typing import Any

import numpy as np
import tensorflow as tf

VERSION = 1
_INFO = "info.json"
# A record's length and the checksum of it stand before the data, the checksum of the data behind.
HEADER_BYTES = 12
FOOTER_BYTES = 4


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of records.

    Args:
        file: its name.
        examples: how many records it holds.
        bytes: its size.
        sha256: of its content.
    """

    file: str
    examples: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Info:
    """What `info.json` says.

    Args:
        source: the spec of what was packed.
        seed: of the order in which it was packed.
        labels: class names.
        shards: of each split.
    """

    source: str
    seed: int
    labels: tuple[str, ...]
    shards: dict[str, tuple[Shard, ...]]


@dataclasses.dataclass(frozen=True)
class Index:
    """The records of one shard or, joined, of one split.

    Args:
        offsets: the first byte of each record in its shard, int64 [N].
        lengths: of each record's data, int64 [N].
        labels: int64 [N].
    """

    offsets: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray


def shard_name(split: str, number: int, count: int) -> str:
    """The file of a shard.

    Args:
        split: such as "train".
        number: of the shard, from 0.
        count: of the shards.

    Returns:
        The name, as TFDS gives it.

    Example:
        >>> shard_name("train", 3, 16)
        'train-00003-of-00016.tfrecord'
    """
    return f"{split}-{number:05}-of-{count:05}.tfrecord"


def join(folder: str, name: str) -> str:
    """A path in a folder that may be in a bucket."""
    return f"{folder.rstrip('/')}/{name}"


def to_record(image_bytes: bytes, label: int, text: str, filename: str) -> bytes:
    """One example as the bytes of a tf.Example.

    Args:
        image_bytes: the encoded image.
        label: its class.
        text: the name of the class.
        filename: what the image was called.

    Returns:
        The serialized message.
    """

    def strings(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    features = {
        "image/encoded": strings(image_bytes),
        "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
        "image/class/text": strings(text.encode()),
        "image/filename": strings(filename.encode()),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)


def write_info(folder: str, info: Info) -> None:
    """Write `info.json`: from now on the folder is complete."""
    content = {"version": VERSION, **dataclasses.asdict(info)}
    with tf.io.gfile.GFile(join(folder, _INFO), "w") as file:
        file.write(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def is_complete(folder: str) -> bool:
    """Whether a folder holds a packed data set."""
    return tf.io.gfile.exists(join(folder, _INFO))


def read_info(folder: str) -> Info:
    """Read `info.json`.

    Args:
        folder: of records.

    Returns:
        What it says.

    Raises:
        ValueError: if there is no such folder, it is not complete, or of another version.
    """
    path = join(folder, _INFO)
    if not tf.io.gfile.isdir(folder):
        raise ValueError(f"records:{folder} is not a directory.")
    if not is_complete(folder):
        raise ValueError(
            f"{folder} holds no {_INFO}: expected is a folder that `keras-vit data pack SPEC "
            f"{folder}` wrote to the end. Pack the data, or give TFRecords of TFDS as tfds:NAME."
        )
    try:
        with tf.io.gfile.GFile(path) as file:
            content: dict[str, Any] = json.loads(file.read())
        version = content["version"]
        shards = {
            split: tuple(Shard(**entry) for entry in entries)
            for split, entries in content["shards"].items()
        }
        info = Info(content["source"], content["seed"], tuple(content["labels"]), shards)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}): pack the data again.") from error
    if version != VERSION or not {"train", "test"} <= set(info.shards):
        raise ValueError(
            f"{path} has version {version!r} and the splits {', '.join(info.shards)}; expected are "
            f"version {VERSION}, train and test. Pack the data again."
        )
    return info


def write_index(folder: str, split: str, shards: list[Index]) -> None:
    """Write the index of a split from those of its shards, in order."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        offsets=np.concatenate([shard.offsets for shard in shards]),
        lengths=np.concatenate([shard.lengths for shard in shards]),
        labels=np.concatenate([shard.labels for shard in shards]),
    )
    with tf.io.gfile.GFile(join(folder, f"{split}.index.npz"), "wb") as file:
        file.write(buffer.getvalue())


def read_index(folder: str, split: str, examples: int) -> Index:
    """Read the index of a split.

    Args:
        folder: of records.
        split: such as "train".
        examples: how many `info.json` says there are.

    Returns:
        The index.

    Raises:
        ValueError: if it is missing, damaged or of another length.
    """
    path = join(folder, f"{split}.index.npz")
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            arrays = np.load(io.BytesIO(file.read()), allow_pickle=False)
        index = Index(**{name: np.asarray(arrays[name], np.int64) for name in arrays.files})
    # A damaged zip raises errors of many kinds, none of which is a bug of ours.
    except Exception as error:
        raise ValueError(f"{path} is missing or damaged ({error}): pack the data again.") from error
    lengths = {len(getattr(index, field.name)) for field in dataclasses.fields(Index)}
    if lengths != {examples}:
        raise ValueError(
            f"{path} knows {', '.join(map(str, sorted(lengths)))} records, but info.json says "
            f"{examples}: pack the data again."
        )
    return index
