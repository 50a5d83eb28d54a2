"""A folder that appears when it is complete."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from training.data.records.layout import is_complete


@contextlib.contextmanager
def writing(out: str) -> Iterator[str]:
    """A hidden folder that gets its name when the block ends without an error.

    Args:
        out: the folder to make; one in a bucket is written in its place.

    Yields:
        Where to write.

    Raises:
        ValueError: if the folder exists, or another process writes it.
    """
    if "://" in out:
        if is_complete(out):
            raise ValueError(f"{out} holds records already: give another folder.")
        tf.io.gfile.makedirs(out)
        yield out
        return
    final = Path(out).expanduser()
    if final.exists():
        raise ValueError(f"{final} exists: give another folder, or remove it.")
    hidden = final.parent / f".{final.name}.partial"
    hidden.mkdir(parents=True, exist_ok=True)
    lock = os.open(hidden, os.O_RDONLY)  # a folder can be locked too; a kill lets go of it
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"Another process is writing {final}: wait until it ends.") from error
        try:
            for file in hidden.iterdir():  # of one that was interrupted
                file.unlink()
            yield str(hidden)
            hidden.rename(final)
        except BaseException:  # Ctrl-C too
            shutil.rmtree(hidden, ignore_errors=True)
            raise
    finally:
        os.close(lock)
