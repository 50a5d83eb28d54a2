"""Finding the files that are no images before a long training run meets them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_vit import Preprocessing
from keras_vit.decoding import decode_image
from keras_vit.file_names import is_utf8
from training.data.as_written import as_written
from training.data.decodable import undecodable_reason
from training.data.source import Report

_SECONDS_BETWEEN_REPORTS = 10.0
_FILES_PER_ROUND = 64  # that Python hears of at once
# A link to nothing, no permission, a broken disk: not remembered, it may be mended.
_CLOSED = "it cannot be opened"
_NO_NAME = "its name is not UTF-8"  # TensorFlow takes no other; nor do JSON, labels, results


def unreadable_images(root: Path, files: list[Path], report: Report) -> dict[Path, str]:
    """Decode every file once, and remember the result for the next start.

    What was found is kept in a small index in the user's cache directory; a file is looked at again
    when its size or its time of change is another.

    Args:
        root: of the data set; files are remembered relative to it.
        files: to look at.
        report: called with progress on a long look.

    Returns:
        The files that cannot be decoded or named, each with the reason.
    """
    index_file = _index_file(root)
    known = _read_index(index_file)
    nameless = {file: _NO_NAME for file in files if not is_utf8(file)}
    files = [file for file in files if file not in nameless]
    keys = {file: _key(root, file) for file in files}
    new = [file for file in files if keys[file] not in known]
    reasons = dict(zip(new, _check_all(new, report), strict=True))
    reasons |= {file: known[keys[file]] for file in files if keys[file] in known}
    if new:
        found = {keys[file]: reasons[file] for file in files if reasons[file] != _CLOSED}
        write_cache(index_file, json.dumps(found))
    return {file: reasons[file] for file in files if reasons[file]} | nameless


def _check_all(files: list[Path], report: Report) -> list[str]:
    """The reason why each file cannot be decoded; empty where it can."""
    good = _decodable(files, report)
    return ["" if ok else _reason(file) for file, ok in zip(files, good, strict=True)]


@as_written
def _decodable(files: list[Path], report: Report) -> np.ndarray:
    """Whether each file can be decoded, bool [N]: one parallel pass in a tf.data graph."""
    paths = tf.constant([str(file) for file in files], tf.string)
    decoded = (
        tf.data.Dataset.range(len(files))
        .map(
            lambda index: (index, _decoded_size(paths[index])),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=False,
        )
        .ignore_errors()  # a bad file takes itself out, and no other
        .batch(_FILES_PER_ROUND)
    )
    good = np.zeros(len(files), bool)
    count = 0
    last = time.monotonic()
    for indices, sizes in decoded.as_numpy_iterator():
        good[indices] = sizes > 0
        count += len(indices)
        if time.monotonic() - last > _SECONDS_BETWEEN_REPORTS:
            last = time.monotonic()
            report(f"Checking the images: {count:,} of {len(files):,}")
    return good


def _reason(file: Path) -> str:
    """One line that a person understands; empty if the file can be decoded after all."""
    try:
        return undecodable_reason(file.read_bytes())
    except OSError:
        return _CLOSED


@tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
def _decoded_size(path: tf.Tensor) -> tf.Tensor:
    return tf.size(decode_image(tf.io.read_file(path), Preprocessing().max_pixels))


def _key(root: Path, file: Path) -> str:
    """What the index knows a file by: its place, size and time of change."""
    status = file.stat() if file.exists() else file.lstat()  # of the link, if it leads nowhere
    return f"{file.relative_to(root)} {status.st_size} {status.st_mtime_ns}"


def _index_file(root: Path) -> Path:
    name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    return cache_folder("checked-images") / f"{name}.json"


def cache_folder(name: str) -> Path:
    """A folder in the user's cache, for what need not be found twice.

    Args:
        name: of what is in it.

    Returns:
        Its path; it need not exist.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "keras-vit" / name


def _read_index(path: Path) -> dict[str, str]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):  # none yet, or damaged: everything is looked at
        return {}


def write_cache(path: Path, text: str) -> None:
    """Write a file of the cache, whole or not at all; one that cannot be written is left out.

    Args:
        path: in a `cache_folder`.
        text: its content.
    """
    temporary = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text)
        temporary.replace(path)
    except OSError:  # a cache that cannot be written costs time at the next start, nothing else
        with contextlib.suppress(OSError):  # nor may it be there to remove
            temporary.unlink()
