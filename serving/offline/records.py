"""TFRecord shards of `tf.Example`s as images to predict."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

# The public readers begin at the first record, and end at the first that is damaged.
from tensorflow.python.lib.io.tf_record import tf_record_random_reader

logger = logging.getLogger(__name__)

_FEATURE = "image/encoded"
# A record: its length (8 bytes) and the checksum of that (4), the data, the checksum of that (4).
_HEADER, _FOOTER = 12, 4
_GZIP = b"\x1f\x8b"


class RecordImages:
    """The examples of TFRecord files, in their order; the n-th record of a file is FILE#n.

    Args:
        files: paths; may be in a bucket.
        offsets: where each record of each file starts, int64 [N] for each.
        firsts: the number of the first of these records in its file, for each file.
        sizes: of each file in bytes.
    """

    def __init__(
        self,
        files: Sequence[str],
        offsets: Sequence[np.ndarray],
        firsts: Sequence[int],
        sizes: Sequence[int],
    ) -> None:
        self._files = list(files)
        self._offsets = list(offsets)
        self._firsts = list(firsts)
        self._sizes = list(sizes)

    def __len__(self) -> int:
        """See `Images`."""
        return sum(map(len, self._offsets))

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        """See `Images`; a damaged record has no bytes, those behind it are read."""
        for file, offsets, first in zip(self._files, self._offsets, self._firsts, strict=True):
            for number, record in enumerate(_records(file, offsets), start=first):
                yield f"{file}#{number}", _image_bytes(record)

    def part(self, start: int, stop: int) -> Self:
        """See `Images`."""
        files, parts, firsts, sizes = [], [], [], []
        before = 0
        for file, offsets, first, size in zip(
            self._files, self._offsets, self._firsts, self._sizes, strict=True
        ):
            begin = min(max(start - before, 0), len(offsets))
            kept = offsets[begin : max(stop - before, 0)]
            before += len(offsets)
            if len(kept):
                files.append(file)
                parts.append(kept)
                firsts.append(first + begin)
                sizes.append(size)
        return type(self)(files, parts, firsts, sizes)

    def identity(self) -> dict[str, Any]:
        """See `Images`: the files, with size and number of records, count."""
        rows = zip(self._files, self._sizes, self._offsets, strict=True)
        return {
            "kind": "records",
            "images": len(self),
            "files": {file: {"bytes": size, "records": len(found)} for file, size, found in rows},
        }


def find_records(path: str, split: str | None = None) -> RecordImages:
    """Find the records of TFRecord files; only their lengths are read.

    Args:
        path: a folder of `*.tfrecord*` files, such as `keras-vit data pack` and TFDS write, one
            file, or a pattern.
        split: take only the files called `SPLIT-*` or `*-SPLIT.*`. Default None: all.

    Returns:
        The records in the order of the files' names.

    Raises:
        ValueError: if there are no such files, or one of them is compressed, no TFRecord file, or
            one of `tf.Example`s without the feature `image/encoded`.

    Example:
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/test-00000-of-00001.tfrecord"
        >>> value = tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"..."]))
        >>> features = tf.train.Features(feature={"image/encoded": value})
        >>> with tf.io.TFRecordWriter(path) as writer:
        ...     writer.write(tf.train.Example(features=features).SerializeToString())
        >>> len(find_records(path))
        1
    """
    pattern = f"{path.rstrip('/')}/*.tfrecord*" if tf.io.gfile.isdir(path) else path
    files = sorted(file for file in tf.io.gfile.glob(pattern) if not tf.io.gfile.isdir(file))
    chosen = [file for file in files if split is None or _is_of_split(file, split)]
    if not chosen:
        names = ", ".join(file.rpartition("/")[2] for file in files[:5]) or "none at all"
        wanted = "" if split is None else f" of the split {split}"
        raise ValueError(
            f"records:{path} has no TFRecord files{wanted} (found: {names}): expected is a folder "
            f"of *.tfrecord files, one file, or a pattern."
        )
    scanned = [_scan(file) for file in chosen]
    images = RecordImages(
        chosen, [found for found, _ in scanned], [0] * len(chosen), [size for _, size in scanned]
    )
    if not len(images):
        raise ValueError(f"records:{path} holds no records.")
    _check_first(chosen[0], scanned[0][0])
    return images


def _is_of_split(file: str, split: str) -> bool:
    name = file.rpartition("/")[2]
    return name.startswith(f"{split}-") or f"-{split}." in name


def _scan(file: str) -> tuple[np.ndarray, int]:
    """Where each record starts, and the file's size; a record that is cut short counts too."""
    offsets: list[int] = []
    size = tf.io.gfile.stat(file).length
    with tf.io.gfile.GFile(file, "rb") as opened:
        if opened.read(2) == _GZIP:
            raise ValueError(f"{file} is compressed: write the records without compression.")
        position = 0
        while position < size:
            opened.seek(position)
            header = opened.read(_HEADER)
            following = position + _HEADER + _FOOTER
            if len(header) == _HEADER:
                following += struct.unpack("<Q", header[:8])[0]
            if not offsets and following > size:
                raise ValueError(f"{file} is no TFRecord file, or its first record is cut short.")
            offsets.append(position)
            position = following
    return np.array(offsets, np.int64), size


def _records(file: str, offsets: np.ndarray) -> Iterator[bytes]:
    """The data of each record, its checksums compared; empty if it is damaged."""
    try:
        reader = tf_record_random_reader(file)
    except (OSError, tf.errors.OpError) as error:
        logger.warning("%s cannot be read: %s", file, error)
        reader = None
    for offset in offsets.tolist():
        try:
            yield reader.read(offset)[0] if reader is not None else b""
        except (IndexError, OSError, tf.errors.OpError):  # cut short, gone, damaged
            yield b""


def _image_bytes(record: bytes) -> bytes:
    try:
        features = tf.train.Example.FromString(record).features.feature
    except DecodeError:
        return b""
    values = features[_FEATURE].bytes_list.value
    return values[0] if values else b""


def _check_first(file: str, offsets: np.ndarray) -> None:
    """Say now, and not with a million rows, that these are records of another kind."""
    record = next(_records(file, offsets[:1]), b"")
    if not record:  # an empty file, or a damaged record: its row will say so
        return
    try:
        names = sorted(tf.train.Example.FromString(record).features.feature)
    except DecodeError:
        names = []
    if _FEATURE not in names:
        raise ValueError(
            f"{file} holds no tf.Examples with the feature {_FEATURE}; its first record has "
            f"{', '.join(names) or 'no features'}. Give a data set of TFDS as tfds:NAME."
        )
