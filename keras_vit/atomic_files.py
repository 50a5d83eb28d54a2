"""Files and directories that appear whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def hidden_sibling(target: Path) -> Iterator[Path]:
    """A path beside `target` to write to, hidden, and gone afterwards unless it was published.

    Args:
        target: what is going to be written; its directory is made if it does not exist.

    Yields:
        A path on the same file system, with the same suffix.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "a.txt"
        >>> with hidden_sibling(target) as temporary:
        ...     _ = temporary.write_text("whole")
        ...     publish(temporary, target)
        >>> target.read_text()
        'whole'
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}{target.suffix}")
    try:
        yield temporary
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(target)  # a full disk is reported without the place
        raise
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def publish(temporary: Path, target: Path, replace: bool = True) -> None:
    """Make a file or a directory durable, then visible under its name, all at once.

    Args:
        temporary: what was written.
        target: its name from now on.
        replace: whether something of that name may go. Default True.

    Raises:
        OSError: if it cannot be moved; without `replace`, if a full directory has that name.
    """
    for path in [*temporary.rglob("*"), temporary] if temporary.is_dir() else [temporary]:
        _fsync(path)
    if replace and target.is_dir():
        shutil.rmtree(target)
    temporary.replace(target)
    _fsync(target.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, in UTF-8 whatever the locale."""
    with hidden_sibling(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        publish(temporary, path)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
