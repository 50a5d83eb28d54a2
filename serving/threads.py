"""How many threads a server gives to one operation, and how many operations run at once."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from serving.card_file import load_card

# Of an export by the dtype that it computes in. In bfloat16 a product rearranges its weights before
# it multiplies, and would do so in each stream.
STREAMS = {"float32": 2, "bfloat16": 1}


def session_threads(versions: Iterable[Path], cores: int) -> tuple[int, int]:
    """Choose the threads for exports of this project.

    An export computes its tokens in streams. With as many cores as streams, one thread for each is
    faster than all threads together on one operation after the other, since these wait for each
    other after every operation.

    Args:
        versions: directories of the versions that are served, `BASE/N`.
        cores: that the server may use, at least 1.

    Returns:
        (threads of one operation, operations at once), as TensorFlow's
        `intra_op_parallelism_threads` and `inter_op_parallelism_threads`: one and `cores`, if every
        version has that many streams; otherwise `cores` twice, TensorFlow's own choice.

    Example:
        >>> session_threads([], cores=4)
        (4, 4)
    """
    streams = [load_card(version).get("streams") for version in versions]
    a_thread_each = bool(streams) and all(number == cores for number in streams)
    return (1 if a_thread_each else cores), cores


def usable_cores() -> int:
    """The cores that this process may use.

    Example:
        >>> usable_cores() >= 1
        True
    """
    if hasattr(os, "sched_getaffinity"):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def version_paths(base: Path) -> list[Path]:
    """The versions that lie in a model's directory.

    Args:
        base: the directory; one that is not on this machine, such as a bucket's address, has none.

    Returns:
        Directories whose names are numbers.

    Example:
        >>> version_paths(Path("/nowhere"))
        []
    """
    if not base.is_dir():
        return []
    return [path for path in base.iterdir() if path.name.isdecimal() and path.is_dir()]
