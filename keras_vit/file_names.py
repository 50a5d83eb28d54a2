"""Names of files that are not UTF-8, such as those of archives from before Unicode."""

from __future__ import annotations

import os
from pathlib import Path


def is_utf8(path: str | Path) -> bool:
    r"""Whether a name is UTF-8: TensorFlow opens no other, and no result could hold it.

    Args:
        path: as Python has it from a listing or the command line: bytes that are not UTF-8 have
            become lone surrogates.

    Returns:
        Whether there are none.

    Example:
        >>> is_utf8("café.png"), is_utf8(os.fsdecode(b"caf\xe9.png"))
        (True, False)
    """
    return not any("\ud800" <= sign <= "\udfff" for sign in str(path))


def printable(path: str | Path) -> str:
    r"""A name for people, whatever its bytes are.

    Args:
        path: as for `is_utf8`.

    Returns:
        The name; bytes that are not UTF-8 as escapes.

    Example:
        >>> print(printable("café.png"), printable(os.fsdecode(b"caf\xe9.png")))
        café.png caf\xe9.png
    """
    return os.fsencode(path).decode(errors="backslashreplace")
