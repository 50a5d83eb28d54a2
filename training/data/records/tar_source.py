"""Tar shards in the layout of webdataset, as a source."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from training.data.damage import BadImages, leave_out
from training.data.indexed_source import (
    IndexedSource,
    constants,
    report_absent_classes,
    stratified_split,
)
from training.data.records.tar_index import Contents, read_shards
from training.data.source import Report

_TEST_NAMES = ("test", "val", "validation")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_SHOWN = 10


class Entry(NamedTuple):
    """An image in a shard.

    Args:
        shard: the tar file.
        name: of the image in it.
        offset: of its first byte.
        size: in bytes.
        label: the number of its class.
    """

    shard: str
    name: str
    offset: int
    size: int
    label: int


class TarSource(IndexedSource):
    """Images in tar files, each read by itself.

    Args:
        spec: as given to `load_source`.
        labels: class names.
        entries: of each split.
    """

    def __init__(self, spec: str, labels: Sequence[str], entries: dict[str, list[Entry]]) -> None:
        super().__init__(
            spec,
            labels,
            {split: [e.label for e in of_split] for split, of_split in entries.items()},
        )
        shards = sorted({entry.shard for of_split in entries.values() for entry in of_split})
        number = {shard: place for place, shard in enumerate(shards)}
        self._shards = constants({"all": shards})["all"]
        self._places = constants(
            {
                split: np.array([(number[e.shard], e.offset, e.size) for e in of_split], np.int64)
                for split, of_split in entries.items()
            }
        )
        self._names = constants({split: [e.name for e in of] for split, of in entries.items()})

    def read(self, split: str, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See `IndexedSource.read`; the name is SHARD/FILE."""
        shard, offset, size = tf.unstack(self._places[split][index])
        path = self._shards[shard]
        # No operation of TensorFlow reads a piece of a file without all that stands before it.
        image_bytes = tf.numpy_function(
            _read_piece, [path, offset, size], tf.string, stateful=False
        )
        name = tf.strings.join([path, self._names[split][index]], "/")
        return tf.ensure_shape(image_bytes, ()), name


def open_tars(pattern: str, *, seed: int, bad_images: BadImages, report: Report) -> TarSource:
    """Find the shards, the classes and the splits.

    Args:
        pattern: a folder of `train-*.tar` and `test-*.tar` (or `val-*`, `validation-*`), or their
            names with braces and wildcards, such as `{train,test}-{00000..00015}.tar`.
        seed: of the split that is made when there are no shards to test on.
        bad_images: "skip" or "refuse".
        report: called with lines for the user.

    Returns:
        A `TarSource`.

    Raises:
        ValueError: if there are no shards, a label has no name, or, with "refuse" or beyond the
            limit, examples cannot be used.
    """
    spec = f"webdataset:{pattern}"
    shards = _find(pattern)
    contents = dict(zip(shards, read_shards(shards, report), strict=True))
    bad = {name: why for of_shard in contents.values() for name, why in of_shard.bad.items()}
    total = len(bad) + sum(len(of_shard.members) for of_shard in contents.values())
    leave_out(bad, total, bad_images=bad_images, report=report)
    labels = _labels(spec, shards[0].parent, contents)
    number = {name: place for place, name in enumerate(labels)}
    entries: dict[str, list[Entry]] = {"train": [], "test": []}
    for shard, of_shard in contents.items():
        split = "test" if shard.name.startswith(_TEST_NAMES) else "train"
        entries[split] += [
            Entry(
                str(shard),
                member.name,
                member.offset,
                member.size,
                number[member.label] if isinstance(member.label, str) else member.label,
            )
            for member in of_shard.members
        ]
    drawn = not entries["test"]
    if drawn:
        everything = entries["train"]
        parts = stratified_split([entry.label for entry in everything], seed)
        for split, numbers in zip(("train", "test"), parts, strict=True):
            entries[split] = [everything[place] for place in numbers]
        report(
            f"{spec} has no test shards: {len(entries['test'])} of its images, drawn with seed "
            f"{seed}, are kept for testing."
        )
    if empty := [split for split, of_split in entries.items() if not of_split]:
        raise ValueError(f"{spec} has no images for the split {empty[0]}.")
    source = TarSource(spec, labels, entries)
    source.left_out = bad
    if not drawn:
        report_absent_classes(source, report)
    return source


# === Shards ===


def _find(pattern: str) -> list[Path]:
    """The shards of a folder or a pattern, sorted."""
    if "://" in pattern:
        raise ValueError(
            f"webdataset:{pattern} is not on this machine: copy the shards here, or pack them "
            f"where they are (`keras-vit data pack`): records are read from buckets too."
        )
    if pattern.startswith("pipe:"):
        raise ValueError(f"webdataset:{pattern} is a command; give files.")
    place = Path(pattern).expanduser()
    if place.is_dir():
        names = ("train", *_TEST_NAMES)
        shards = sorted(
            file for name in names for file in place.glob(f"{name}*.tar") if file.is_file()
        )
        wanted = f"train-*.tar and test-*.tar in the folder {place}"
    else:
        listed = expand_braces(str(place))
        found = {name: sorted(Path(name).parent.glob(Path(name).name)) for name in listed}
        missing = [name for name, files in found.items() if not files]
        if missing and len(missing) < len(listed):
            raise ValueError(
                f"{len(missing)} of the {len(listed)} shards of webdataset:{pattern} are missing: "
                f"{', '.join(missing[:_SHOWN])}."
            )
        shards = sorted({file for files in found.values() for file in files})
        wanted = "such as PATH/train-{00000..00015}.tar"
    if not shards:
        raise ValueError(f"webdataset:{pattern} names no files: expected are shards, {wanted}.")
    return shards


def expand_braces(pattern: str) -> list[str]:
    """The names that a pattern with braces stands for.

    Args:
        pattern: with `{00000..00015}` or `{train,test}`, any number of them.

    Returns:
        The names, in order.

    Example:
        >>> expand_braces("{train,test}-{08..10}.tar")[1:4]
        ['train-09.tar', 'train-10.tar', 'test-08.tar']
    """
    pieces = _BRACES.split(pattern)  # text, braces, text, braces, …, text
    choices = [_choices(piece) if odd % 2 else [piece] for odd, piece in enumerate(pieces)]
    return ["".join(parts) for parts in itertools.product(*choices)]


def _choices(braces: str) -> list[str]:
    if not (bounds := _RANGE.fullmatch(braces)):
        return braces.split(",")
    first, last = bounds.groups()
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]


# === Labels ===


def _labels(spec: str, folder: Path, contents: dict[Path, Contents]) -> list[str]:
    """The class names: from a file beside the shards, or from the labels themselves."""
    used = {member.label for of_shard in contents.values() for member in of_shard.members}
    words = sorted(label for label in used if isinstance(label, str))
    numbers = sorted(label for label in used if isinstance(label, int))
    if (given := _given_labels(folder)) is not None:
        if unknown := sorted(set(words) - set(given)):
            raise ValueError(
                f"{spec} has labels that the classes beside it have not: "
                f"{', '.join(unknown[:_SHOWN])}. Add them to {folder / 'classes.txt'}."
            )
        return given
    if words and numbers:
        raise ValueError(
            f"{spec} has labels that are names ({', '.join(words[:3])}) and others that are "
            f"numbers ({', '.join(map(str, numbers[:3]))}): put the name of each number into "
            f"{folder / 'classes.txt'}, one a line."
        )
    return words or [str(number) for number in range(numbers[-1] + 1)] if used else []


def _given_labels(folder: Path) -> list[str] | None:
    text, info = folder / "classes.txt", folder / "info.json"
    if text.is_file():
        labels = [line.strip() for line in text.read_text(encoding="utf-8").splitlines()]
        labels = [line for line in labels if line]
        path = text
    elif info.is_file():
        try:
            labels = [
                str(label) for label in json.loads(info.read_text(encoding="utf-8"))["labels"]
            ]
        except (ValueError, KeyError, TypeError):
            return None  # another tool's file
        path = info
    else:
        return None
    if repeated := [label for label, count in Counter(labels).items() if count > 1]:
        raise ValueError(f"{path} names {', '.join(repeated[:_SHOWN])} more than once.")
    return labels


# === Reading ===


def _read_piece(path: bytes, offset: np.int64, size: np.int64) -> bytes:
    """A piece of a file; empty if it is not there any more."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        piece = os.pread(file, int(size), int(offset))  # other threads go on meanwhile
    except OSError:
        return b""
    finally:
        os.close(file)
    return piece if len(piece) == size else b""
