"""Where the examples of tar shards are: found once, remembered in the user's cache."""

from __future__ import annotations

import hashlib
import json
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from training.data.image_check import cache_folder, write_cache
from training.data.source import Report

_IMAGES = ("jpg", "jpeg", "png", "gif", "bmp")
_SECONDS_BETWEEN_REPORTS = 10.0
# A label is a number or a word: what is longer is another file.
_LABEL_BYTES = 1 << 20


class Member(NamedTuple):
    """An image of a shard.

    Args:
        name: of its file in the shard.
        offset: of its first byte in the shard.
        size: in bytes.
        label: a class's number or name.
    """

    name: str
    offset: int
    size: int
    label: int | str


class Contents(NamedTuple):
    """What a shard holds.

    Args:
        members: the images with labels, in the order of the shard.
        bad: the name of each example that cannot be used -> the reason.
    """

    members: list[Member]
    bad: dict[str, str]


def read_shards(shards: Sequence[Path], report: Report) -> list[Contents]:
    """Look through tar files, or remember what was in them.

    A shard is looked through again when its size or its time of change is another.

    Args:
        shards: the tar files.
        report: called with progress on a long look.

    Returns:
        What is in each.

    Raises:
        ValueError: if a file is no tar file.
    """
    found = []
    last = time.monotonic()
    for number, shard in enumerate(shards):
        if time.monotonic() - last > _SECONDS_BETWEEN_REPORTS:
            last = time.monotonic()
            report(f"Looking through the shards: {number:,} of {len(shards):,}")
        found.append(_remembered(shard))
    return found


def _remembered(shard: Path) -> Contents:
    status = shard.stat()
    key = f"{shard.resolve()} {status.st_size} {status.st_mtime_ns}"
    file = cache_folder("tar-shards") / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    try:
        content = json.loads(file.read_text())
        return Contents([Member(*entry) for entry in content["members"]], content["bad"])
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or damaged
        contents = _look_through(shard, status.st_size)
        write_cache(file, json.dumps(contents._asdict()))
        return contents


def _look_through(shard: Path, size: int) -> Contents:
    """The images of a shard with their labels; files of one example share the name up to a dot."""
    images: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, int | str] = {}
    bad: dict[str, str] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            try:
                for info in tar:
                    _take(tar, info, f"{shard}/{info.name}", size, images, labels, bad)
            except tarfile.ReadError:
                bad[f"{shard}/…"] = "the shard is cut short or damaged here"
    except (tarfile.ReadError, EOFError) as error:
        raise ValueError(
            f"{shard} is no uncompressed tar file ({error}): images are compressed already, so "
            f"unpack it (gunzip) or fetch it again."
        ) from error
    members = []
    for key, info in images.items():
        name = f"{shard}/{info.name}"
        if name in bad:
            continue
        if key not in labels:
            bad[name] = "it has no label beside it (.cls, or .json with label)"
        elif not info.size:
            bad[name] = "it is empty"
        else:
            members.append(Member(info.name, info.offset_data, info.size, labels[key]))
    return Contents(members, bad)


def _take(
    tar: tarfile.TarFile,
    info: tarfile.TarInfo,
    name: str,
    size: int,
    images: dict[str, tarfile.TarInfo],
    labels: dict[str, int | str],
    bad: dict[str, str],
) -> None:
    """Note what one member says: an image, a label, or nothing of interest."""
    folder, _, file = info.name.rpartition("/")
    stem, _, extension = file.partition(".")
    if not info.isreg() or not stem:  # a folder, a link, or a hidden file
        return
    key, kind = f"{folder}/{stem}", extension.lower()
    if kind in _IMAGES:
        if info.offset_data + info.size > size:
            bad[name] = "its shard is cut short"
        elif key in images:
            bad[name] = f"{images[key].name} is the same example's image"
            return
        images[key] = info
    elif kind in ("cls", "json"):
        file_object = tar.extractfile(info)
        content = file_object.read(_LABEL_BYTES) if file_object else b""
        label = _json_label(content) if kind == "json" else _word(content.strip())
        if label is not None:
            labels.setdefault(key, label)


def _word(content: bytes) -> int | str | None:
    text = content.decode(errors="replace")
    try:
        return int(text)
    except ValueError:
        return text or None


def _json_label(content: bytes) -> int | str | None:
    try:
        label = json.loads(content)["label"]
    except (ValueError, KeyError, TypeError):
        return None
    return label if isinstance(label, int | str) and not isinstance(label, bool) else None
