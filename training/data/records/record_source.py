"""The folders that `keras-vit data pack` writes, as a source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

from training.data.damage import BadImages, leave_out
from training.data.indexed_source import IndexedSource, constants, report_absent_classes
from training.data.records.layout import (
    FOOTER_BYTES,
    HEADER_BYTES,
    Index,
    Info,
    Shard,
    join,
    read_index,
    read_info,
)
from training.data.source import Report

_FEATURES = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}


class RecordSource(IndexedSource):
    """Records in shards, each read by itself from where the index says that it starts.

    Args:
        spec: as given to `load_source`.
        folder: of the shards.
        info: what its `info.json` says.
        indices: of each split.
        kept: of each split, the numbers of the records to use.
    """

    was_decoded = True  # by `pack`

    def __init__(
        self,
        spec: str,
        folder: str,
        info: Info,
        indices: dict[str, Index],
        kept: dict[str, np.ndarray],
    ) -> None:
        super().__init__(
            spec, info.labels, {split: indices[split].labels[kept[split]] for split in indices}
        )
        self._files = constants(
            {split: [join(folder, shard.file) for shard in info.shards[split]] for split in indices}
        )
        shards = {split: _shard_numbers(info.shards[split]) for split in indices}
        self._shards = constants({split: shards[split][kept[split]] for split in indices})
        self._offsets = constants({split: indices[split].offsets[kept[split]] for split in indices})
        self._lengths = constants({split: indices[split].lengths[kept[split]] for split in indices})
        # The first record of each shard: a record's name has its number in the shard.
        self._firsts = constants(
            {
                split: np.cumsum([0] + [shard.examples for shard in info.shards[split]])
                for split in indices
            }
        )
        self._numbers = constants(kept)

    def read(self, split: str, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See `IndexedSource.read`; the name is SHARD#NUMBER."""
        shard = self._shards[split][index]
        path = self._files[split][shard]
        number = self._numbers[split][index] - self._firsts[split][shard]
        name = tf.strings.join([path, tf.strings.as_string(number)], "#")
        record = _read_record(path, self._offsets[split][index], self._lengths[split][index])
        image_bytes = tf.cond(
            tf.strings.length(record) > 0,
            lambda: tf.io.parse_single_example(record, _FEATURES)["image/encoded"],
            lambda: tf.constant(""),
        )
        return image_bytes, name


def open_records(path: str, *, bad_images: BadImages, report: Report) -> RecordSource:
    """Open a packed data set: its index is read, its shards are not.

    Args:
        path: the folder; may be in a bucket.
        bad_images: "skip" or "refuse".
        report: called with lines for the user.

    Returns:
        A `RecordSource`.

    Raises:
        ValueError: if the folder is not complete, a shard is missing, a label has no class, or,
            with "refuse" or beyond the limit, shards are cut short.
    """
    folder = path if "://" in path else str(Path(path).expanduser())
    info = read_info(folder)
    indices = {
        split: read_index(folder, split, sum(shard.examples for shard in shards))
        for split, shards in info.shards.items()
    }
    kept, lost = {}, {}
    for split, index in indices.items():
        shards = info.shards[split]
        numbers = _shard_numbers(shards)
        sizes = np.array([_size(folder, shard) for shard in shards], np.int64)
        ends = index.offsets + HEADER_BYTES + index.lengths + FOOTER_BYTES
        whole = ends <= sizes[numbers]
        kept[split] = np.flatnonzero(whole)
        firsts = np.cumsum([0] + [shard.examples for shard in shards])
        for record in np.flatnonzero(~whole):
            shard = numbers[record]
            name = f"{join(folder, shards[shard].file)}#{record - firsts[shard]}"
            lost[name] = "its shard is cut short"
        if not len(kept[split]):
            raise ValueError(f"No readable records in the split {split} of {folder}.")
    total = sum(len(index.labels) for index in indices.values())
    leave_out(lost, total, bad_images=bad_images, report=report)
    source = RecordSource(f"records:{path}", folder, info, indices, kept)
    source.left_out = lost
    report_absent_classes(source, report)
    return source


def _shard_numbers(shards: tuple[Shard, ...]) -> np.ndarray:
    """The shard of each record of a split."""
    return np.repeat(np.arange(len(shards)), [shard.examples for shard in shards])


def _size(folder: str, shard: Shard) -> int:
    path = join(folder, shard.file)
    if not tf.io.gfile.exists(path):
        raise ValueError(f"{path} is missing, but info.json lists it: copy it, or pack again.")
    return tf.io.gfile.stat(path).length


def _read_record(path: tf.Tensor, offset: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    """The data of one record, its checksum compared; empty if it is damaged or missing."""
    options = tf.data.Options()
    options.autotune.enabled = False  # of one record there is nothing to tune

    def record(path: tf.Tensor, offset: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
        # The public class has no argument for where to begin.
        records = tf.raw_ops.TFRecordDatasetV2(
            filenames=path[None],
            compression_type="",
            buffer_size=HEADER_BYTES + length + FOOTER_BYTES,
            byte_offsets=offset[None],
        )
        dataset = tf.data.experimental.from_variant(records, tf.TensorSpec([], tf.string))
        return dataset.take(1).with_options(options).get_single_element()

    # Around a data set of one place, which ends after an error: that of a missing file would
    # raise the same one for ever.
    place = tf.data.Dataset.from_tensors((path, offset, length))
    empty = tf.data.Dataset.from_tensors(tf.constant(""))
    tried = place.map(record).ignore_errors().concatenate(empty).take(1)
    return tried.with_options(options).get_single_element()
