"""Addresses of files on the web: which are taken, and what a file from there is called."""

from __future__ import annotations

import os
import re
import urllib.parse
from dataclasses import dataclass

_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Remote:
    """A file on the web.

    Args:
        address: as the user wrote it, without #sha256.
        url: where it is.
        sha256: what its bytes must have, 64 hexadecimal digits, or None.
    """

    address: str
    url: str
    sha256: str | None


def parse_address(address: str) -> Remote:
    """Read an address of one file.

    Args:
        address: `https://…`, `gs://bucket/path`, or `http://` on this machine, optionally with
            `#sha256=<64 hex digits>` at its end.

    Returns:
        Where the file is.

    Raises:
        ValueError: if it is none, or of a kind that is not taken.

    Example:
        >>> parse_address("gs://vit_models/augreg/Ti_16.npz").url
        'https://storage.googleapis.com/vit_models/augreg/Ti_16.npz'
    """
    bare, _, fragment = address.strip().partition("#")
    sha256 = None
    if fragment:
        match = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
        if not match:
            raise ValueError(
                f"{address}: after # can only stand sha256= and 64 hexadecimal digits, "
                f"not {fragment!r}."
            )
        sha256 = match[1].lower()
    if bare.lower().startswith("gs://"):
        bucket, _, path = bare[len("gs://") :].partition("/")
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]+", bucket) or not path.strip("/"):
            raise ValueError(f"{address} is not an address of a file: it must be gs://bucket/path.")
        base = os.environ.get("KERAS_VIT_GS_ENDPOINT") or "https://storage.googleapis.com"
        # A ? or % in an object's name is part of the name.
        url = f"{base.rstrip('/')}/{bucket}/{urllib.parse.quote(path, safe='/')}"
    else:
        url = urllib.parse.quote(bare, safe="%/:=&?~+!$,;'@()*[]")
    reason = why_refused(url)
    if reason:
        raise ValueError(f"{address} is refused: {reason}.")
    return Remote(bare, url, sha256)


def why_refused(url: str, http_allowed: bool = True) -> str | None:
    """Why nothing is fetched from a URL; None if it may be.

    Args:
        url: of a file.
        http_allowed: whether `http://` on this machine is taken. Default True.

    Example:
        >>> why_refused("ftp://example.com/a.npz")
        'ftp:// is not a way to download a file'
    """
    try:
        parts = urllib.parse.urlsplit(url)
        parts.port  # noqa: B018 - raises if it is no port
        host = (parts.hostname or "").encode("idna").decode()
    except ValueError as error:
        return f"it is not a valid address ({error})"
    if not host:
        return "it names no host"
    if "@" in parts.netloc:
        return "a name or password in an address ends up in logs; download the file by hand"
    if parts.scheme == "https" or (parts.scheme == "http" and http_allowed and is_local(url)):
        return None
    if parts.scheme == "http":
        return (
            "http:// can be tampered with on its way and is taken only from this machine "
            "(localhost); use https://"
        )
    return f"{parts.scheme}:// is not a way to download a file"


def is_local(url: str) -> bool:
    """Whether a URL is `http://` on this machine.

    >>> is_local("http://localhost:8000/a.npz"), is_local("https://localhost/a.npz")
    (True, False)
    """
    parts = urllib.parse.urlsplit(url)
    return parts.scheme == "http" and parts.hostname in _LOCAL_HOSTS


def safe_name(url: str) -> str:
    """A file name for what a URL names, whatever is in it.

    >>> safe_name("https://a.b/c/ViT%20B.npz?key=1"), safe_name("https://a.b/..%2F..%2F.bashrc")
    ('ViT_B.npz', 'bashrc')
    """
    path = urllib.parse.unquote(urllib.parse.urlsplit(url).path, errors="replace")
    name = re.split(r"[/\\]", path.rstrip("/\\"))[-1]
    name = re.sub(r"[^A-Za-z0-9._=+-]", "_", name).strip(".")
    # The tail is kept when it is too long: the suffix says the format.
    return name[-150:].lstrip(".-") or "download"
