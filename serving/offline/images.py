"""Images to predict: files in folders, and what every other kind of input offers too."""

from __future__ import annotations

import glob
import hashlib
import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, Self

import tensorflow as tf

from keras_vit.file_names import is_utf8, printable

logger = logging.getLogger(__name__)

EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif", ".bmp")
# Files that are read at the same time: a disk, and more so a network, answers several at once.
_READERS = 8
_WILDCARDS = "*?["


class Images(Protocol):
    """Images in an order that never changes; pickled, it works on another machine.

    Iterating gives each image's name, which no other has, and its encoded bytes; those are empty
    where it cannot be read.
    """

    def __len__(self) -> int:
        """The number of images."""

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        """Names and encoded images, in order."""

    def part(self, start: int, stop: int) -> Images:
        """The images from `start` up to, not including, `stop`; the others are not carried along.

        Args:
            start: number of the first image.
            stop: number of the image after the last.

        Returns:
            These images.
        """

    def identity(self) -> dict[str, Any]:
        """What tells this input from another one, for JSON: the same input gives the same."""


class FileImages:
    """Image files.

    Args:
        paths: of the files; may be in a bucket. Each is a name.

    Example:
        >>> images = FileImages(["cat.jpg", "dog.jpg", "elk.jpg"])
        >>> len(images.part(1, 3))
        2
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = list(paths)

    def __len__(self) -> int:
        """See `Images`."""
        return len(self._paths)

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        """See `Images`; some files are read ahead."""
        with ThreadPoolExecutor(_READERS, "read") as pool:
            reading: deque[tuple[str, Future[bytes]]] = deque()
            for path in self._paths:
                reading.append((path, pool.submit(_read, path)))
                if len(reading) > 2 * _READERS:
                    name, data = reading.popleft()
                    yield name, data.result()
            for name, data in reading:
                yield name, data.result()

    def part(self, start: int, stop: int) -> Self:
        """See `Images`."""
        return type(self)(self._paths[start:stop])

    def identity(self) -> dict[str, Any]:
        """See `Images`: names, sizes and times of change count."""
        with ThreadPoolExecutor(_READERS) as pool:
            lines = list(pool.map(_described, self._paths))
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        return {"kind": "files", "images": len(self), "names, sizes, times": digest}


def find_files(specs: Sequence[str]) -> FileImages:
    """Find image files.

    Args:
        specs: each is `folder:PATH` or a path of a folder, of which all images are taken, those in
            its folders too; the path of a file; or a pattern with `*`, `?` and `[…]`. May be in a
            bucket.

    Returns:
        Every file once, sorted by path.

    Raises:
        ValueError: if there is no such file or folder, or a folder or pattern holds no images.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("a.jpg", "b.png", "notes.txt"):
        ...     _ = (folder / name).write_bytes(b"...")
        >>> len(find_files([f"folder:{folder}"])), len(find_files([f"{folder}/a.*"]))
        (2, 1)
    """
    found: dict[str, None] = {}
    for spec in specs:
        path = spec.removeprefix("folder:")
        check_name(path)
        if tf.io.gfile.isdir(path):
            paths = _in_folder(path)
        elif spec.startswith("folder:"):
            raise ValueError(f"{spec} is not a directory.")
        elif tf.io.gfile.exists(path):
            paths = [path]
        elif any(wildcard in path for wildcard in _WILDCARDS):
            paths = [path for path in _matching(path) if not tf.io.gfile.isdir(path)]
        else:
            raise ValueError(
                f"There is no file {path!r}: give image files, a pattern in quotes, folder:PATH, "
                f"records:PATH or tfds:NAME[/CONFIG]."
            )
        if not paths:
            raise ValueError(f"{spec} holds no images; expected are {', '.join(EXTENSIONS)}.")
        found |= dict.fromkeys(paths)
    return FileImages(sorted(found))


def check_name(path: str) -> None:
    r"""Make sure that TensorFlow can open what was named.

    Args:
        path: as Python has it from the command line.

    Raises:
        ValueError: if the name is not UTF-8.

    Example:
        >>> check_name("caf\udce9.png")
        Traceback (most recent call last):
        ...
        ValueError: The name caf\xe9.png is not UTF-8: rename it.
    """
    if not is_utf8(path):
        raise ValueError(f"The name {printable(path)} is not UTF-8: rename it.")


def _in_folder(folder: str) -> list[str]:
    """The files that are named as images, hidden ones left out: thumbnails, half-written files."""
    paths = []
    for directory, names in _walk(folder.rstrip("/") or "/"):
        below = directory[len(folder.rstrip("/")) :]
        if any(part.startswith(".") for part in below.split("/")):
            continue
        paths += [
            f"{directory}/{name}"
            for name in names
            if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
        ]
    return _nameable(paths)


# TensorFlow's own listings end with an error at the first name that is not UTF-8; Python's go on.


def _walk(top: str) -> Iterator[tuple[str, list[str]]]:
    """The folder and those below it, behind links too, each with the names of its files."""
    walk = tf.io.gfile.walk(top) if "://" in top else os.walk(top, followlinks=True)
    for directory, _, names in walk:
        yield directory, names


def _matching(pattern: str) -> list[str]:
    if "://" in pattern:
        return list(tf.io.gfile.glob(pattern))
    # As in TensorFlow, a star also stands for the dot of a hidden file.
    return _nameable(glob.glob(pattern, include_hidden=True))  # noqa: PTH207 - absolute patterns


def _nameable(paths: list[str]) -> list[str]:
    for path in paths:
        if not is_utf8(path):
            logger.warning(
                "%s is left out: its name is not UTF-8, so no result could name it. Rename it.",
                printable(path),
            )
    return [path for path in paths if is_utf8(path)]


def _read(path: str) -> bytes:
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read()
    except (OSError, tf.errors.OpError) as error:
        logger.warning("%s cannot be read: %s", path, error)
        return b""


def _described(path: str) -> str:
    try:
        stat = tf.io.gfile.stat(path)
    except tf.errors.OpError:  # a link that leads nowhere: its row will say so
        return f"{path}\t"
    return f"{path}\t{stat.length}\t{stat.mtime_nsec}"
