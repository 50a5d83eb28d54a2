"""Downloading one large file into a cache, once for all processes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from keras_vit.weights.remote import Remote, parse_address, safe_name
from keras_vit.weights.transfer import Transfer, read_json, sidecar_of

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


def download(
    address: str,
    *,
    offline: bool,
    cache_dir: Path,
    report: Callable[[str], None] | None = None,
) -> Path:
    """Download the file behind a web address, or find it in the cache.

    Args:
        address: `https://…`, `gs://bucket/path`, or `http://` on this machine, optionally with
            `#sha256=<64 hex digits>` at its end.
        offline: whether to use the cache only.
        cache_dir: the file is kept in `downloads/<hash of the address>/` below it.
        report: gets lines about the progress when stderr is no terminal.

    Returns:
        The file. It is whole: it has appeared under this name only after it was verified.

    Raises:
        ValueError: if it cannot be had; the message says why and what to do.

    Example:
        >>> download("http://example.com/a.npz", offline=False, cache_dir=Path("/nowhere"))
        Traceback (most recent call last):
          ...
        ValueError: http://example.com/a.npz is refused: http:// can be tampered with ...
    """
    remote = parse_address(address)
    key = hashlib.sha256(remote.address.encode()).hexdigest()[:16]
    target = cache_dir.absolute() / "downloads" / key / safe_name(remote.url)
    if _is_cached(target, remote.sha256):
        return target
    if offline:
        raise ValueError(_offline_message(remote, target))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.parent / ".lock", address, report):
            # Another process may have brought it while this one waited.
            if not _is_cached(target, remote.sha256):
                Transfer(remote, target, report).run()
    except OSError as error:  # the network's errors have become ValueErrors already
        if error.errno in FULL_DISK:
            raise ValueError(
                f"{address}: the disk of {target.parent} is full. Make room, or set "
                f"KERAS_VIT_CACHE to a folder on a larger disk. What has arrived is kept: the next "
                f"run goes on where this one stopped."
            ) from error
        raise ValueError(
            f"{address}: the cache {target.parent} cannot be used ({error}). Set KERAS_VIT_CACHE "
            f"to a folder that can be written."
        ) from error
    return target


def _is_cached(target: Path, sha256: str | None) -> bool:
    known = read_json(sidecar_of(target))
    try:
        size = target.stat().st_size
    except OSError:
        return False
    return known.get("size") == size and sha256 in (None, known.get("sha256"))


def _offline_message(remote: Remote, target: Path) -> str:
    if target.exists():
        held = read_json(sidecar_of(target)).get("sha256", "unknown")
        state = f"the copy at {target} does not match (its sha256 is {held})"
    elif target.with_name(f"{target.name}.part").exists():
        state = f"only a part of it is in the cache ({target}.part)"
    else:
        state = f"it is not in the cache ({target})"
    return (
        f"{remote.address}: {state}, and offline mode is on. Fetch it once where there is a "
        f"network, without KERAS_VIT_OFFLINE and HF_HUB_OFFLINE, and copy the folder "
        f"{target.parent} to the same place; or give the path of a local copy."
    )


@contextlib.contextmanager
def _locked(path: Path, address: str, report: Callable[[str], None] | None) -> Iterator[None]:
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if report is not None:
                report(f"{address}: waiting for another download of it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield  # the lock goes when the file is closed, also by a kill
