"""A model's directory: which versions lie there, and how a new one gets there whole."""

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

logger = logging.getLogger(__name__)

_STAGING = ".tmp-"  # servers overlook what is no number


def list_versions(base_path: str) -> dict[int, str]:
    """Find the versions of a model.

    Args:
        base_path: the directory to look into.

    Returns:
        Paths by version number. Names that are not whole numbers of 64 bits, hidden ones and files
        are left out. Of two names for one number the last counts, as on TF Serving: 1, not 001.

    Raises:
        tensorflow.errors.OpError: if the directory cannot be listed.

    Example:
        `list_versions("models/digits")` gives `{1: "models/digits/1"}`.
    """
    versions: dict[int, str] = {}
    for entry in sorted(tf.io.gfile.listdir(base_path)):
        name = entry.rstrip("/")  # object stores mark directories so
        path = f"{base_path.rstrip('/')}/{name}"
        if not (is_version(name) and tf.io.gfile.isdir(path)):
            continue
        if int(name) in versions:
            logger.warning("ignoring %s: it is version %d too", versions[int(name)], int(name))
        versions[int(name)] = path
    return versions


def is_version(name: str) -> bool:
    """Whether a directory's name is a version: digits of a number of 64 bits.

    Example:
        >>> is_version("0012"), is_version("v2"), is_version("9" * 20)
        (True, False, False)
    """
    return name.isascii() and name.isdigit() and int(name) < 2**63


def snapshot(path: str) -> tuple[tuple[str, int, int], ...]:
    """Describe a directory's files, to notice that they changed.

    Args:
        path: the directory.

    Returns:
        Path, size and time of change of each file.

    Example:
        `snapshot("models/digits/2") != snapshot_before`
    """
    files = []
    for folder, _, names in tf.io.gfile.walk(path):
        for name in names:
            file = f"{folder}/{name}"
            try:
                stat = tf.io.gfile.stat(file)
            except tf.errors.NotFoundError:
                continue  # deleted meanwhile; its absence is the change
            files.append((file, stat.length, stat.mtime_nsec))
    return tuple(sorted(files))


@contextlib.contextmanager
def staging_directory(base: Path) -> Iterator[Path]:
    """A hidden directory to write a version into, gone afterwards unless it was moved.

    It is locked while it is written. What a killed process left behind is locked by nobody, and
    the next one to write a version removes it.

    Args:
        base: the model's directory; made if it does not exist.

    Yields:
        An empty directory on the same file system.

    Example:
        `with staging_directory(base) as directory: publish(directory, base / "3")`
    """
    base.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with _locked(base, wait=True):  # so that nobody removes what is not locked yet
            for leftover in base.glob(f"{_STAGING}*"):
                with _locked(leftover) as is_ours:
                    if is_ours:
                        shutil.rmtree(leftover, ignore_errors=True)
            path = Path(tempfile.mkdtemp(prefix=_STAGING, dir=base))
            path.chmod(0o755)  # servers run as other users
            stack.enter_context(_locked(path))
        stack.callback(shutil.rmtree, path, ignore_errors=True)
        yield path


@contextlib.contextmanager
def _locked(directory: Path, wait: bool = False) -> Iterator[bool]:
    """Hold a directory's lock; it ends with the process. Says whether we have it."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # gone, or a file
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        is_ours = True
    except OSError:  # held by another, or a file system without locks
        is_ours = False
    try:
        yield is_ours
    finally:
        os.close(descriptor)
