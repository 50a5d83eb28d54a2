"""The page over HTTP: its files, and two questions that its script asks."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, urlsplit

from serving.client import (
    DeadlineExceededError,
    InvalidRequestError,
    ModelNotFoundError,
    ServerOverloadedError,
    ServerUnavailableError,
    ServingError,
)
from serving.page.backend import AT_ONCE, Backend, Choice, NotServedError

MAX_MEGABYTES = 32
MAX_BYTES = MAX_MEGABYTES * 1024 * 1024
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
# The files are looked up in this table and nowhere else, so that no path leads out of it.
_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
_HTTP_STATUS: list[tuple[type[ServingError], int]] = [
    (ServerUnavailableError, 503),
    (DeadlineExceededError, 504),
    (ServerOverloadedError, 429),
    (ModelNotFoundError, 404),
    (InvalidRequestError, 400),
    (ServingError, 502),
]


class _RefusedError(Exception):
    """A request that is answered with a status and a reason."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


class Site:
    """The page and its questions, for any HTTP server of Python's standard library.

    `/` is the page, `/page/…` its files; `GET /page/state?model=M` and
    `POST /page/answer?model=M&version=N` (or `&label=L`) with an image file as the body answer in
    JSON, errors as `{"error": "…"}`.

    Args:
        backend: the server that answers.

    Example:
        `Site(backend).owns("/page/state")` is True
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        folder = resources.files("serving.page") / "static"
        self._files = {
            path: ((folder / name).read_bytes(), kind) for path, (name, kind) in _FILES.items()
        }
        self._slots = threading.BoundedSemaphore(AT_ONCE)  # each holds an image in memory

    def owns(self, path: str) -> bool:
        """Whether a path is the page's, and not an API's.

        Args:
            path: of the request, with its query.

        Returns:
            True for `/` and all below `/page`.
        """
        path = path.partition("?")[0]
        return path == "/" or path == "/page" or path.startswith("/page/")

    def respond(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer a request whose path the site owns.

        Args:
            handler: that has read the request's head.
        """
        try:
            self._route(handler)
        except _RefusedError as refused:
            _send_json(handler, refused.status, {"error": str(refused)})
        except NotServedError as error:
            _send_json(handler, 404, {"error": str(error)})
        except ServingError as error:
            status = next(status for kind, status in _HTTP_STATUS if isinstance(error, kind))
            _send_json(handler, status, {"error": str(error)})

    def _route(self, handler: BaseHTTPRequestHandler) -> None:
        url = urlsplit(handler.path)
        if url.path in self._files:
            _allow(handler, "GET")
            content, kind = self._files[url.path]
            _send(handler, 200, kind, content)
        elif url.path == "/page/state":
            _allow(handler, "GET")
            choice = _choice(url.query)
            state = self._backend.state(choice.model)
            _send_json(handler, 200, {**state, "max_megabytes": MAX_MEGABYTES})
        elif url.path == "/page/answer":
            _allow(handler, "POST")
            # Another site may not use this server through a visitor's browser.
            if handler.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
                raise _RefusedError(403, "only the page itself may ask")
            choice = _choice(url.query)
            with self._slots:
                _send_json(handler, 200, self._backend.answer(_read_image(handler), choice))
        else:
            raise _RefusedError(404, f"there is nothing at {url.path}")


def _allow(handler: BaseHTTPRequestHandler, method: str) -> None:
    if handler.command != method:
        raise _RefusedError(405, f"{handler.path} takes {method}, not {handler.command}")


def _choice(query: str) -> Choice:
    """Which model is asked for."""
    try:
        fields = parse_qs(query, keep_blank_values=True, max_num_fields=10)
    except ValueError as error:
        raise _RefusedError(400, "the query has too many fields") from error
    if unknown := sorted(set(fields) - {"model", "version", "label"}):
        raise _RefusedError(
            400, f"unknown in the query: {unknown}; known are model, version, label"
        )
    if any(len(values) > 1 or not values[0] for values in fields.values()):
        raise _RefusedError(400, "each of model, version and label may be given once, not empty")
    given = {name: values[0] for name, values in fields.items()}
    if "version" in given and "label" in given:
        raise _RefusedError(400, "give a version or a label, not both")
    version = given.get("version")
    if version is not None and not re.fullmatch("[0-9]{1,18}", version):
        raise _RefusedError(400, f"version is {version!r}; it must be a whole number")
    return Choice(given.get("model"), None if version is None else int(version), given.get("label"))


def _read_image(handler: BaseHTTPRequestHandler) -> bytes:
    length = handler.headers.get("Content-Length", "")
    if not re.fullmatch("[0-9]{1,18}", length):
        raise _RefusedError(411, "the request must say its Content-Length")
    size = int(length)
    if size > MAX_BYTES:
        _discard(handler, size)
        raise _RefusedError(
            413,
            f"the file has {size / 1024 / 1024:.0f} MB; the page takes at most {MAX_MEGABYTES} MB",
        )
    if not size:
        raise _RefusedError(400, "the request has no image: send the file as the body")
    content = handler.rfile.read(size)
    if len(content) < size:
        raise _RefusedError(400, f"the body ended after {len(content)} of {size} bytes")
    return content


def _discard(handler: BaseHTTPRequestHandler, size: int) -> None:
    """Take in what is being sent: a browser reads no answer before it has sent all."""
    left = min(size, 8 * MAX_BYTES)
    while left > 0 and (part := handler.rfile.read(min(left, 1 << 20))):
        left -= len(part)


def _send_json(handler: BaseHTTPRequestHandler, status: int, body: dict[str, Any]) -> None:
    _send(handler, status, "application/json", json.dumps(body, allow_nan=False).encode())


def _send(handler: BaseHTTPRequestHandler, status: int, kind: str, content: bytes) -> None:
    # People close a page whenever they like.
    with contextlib.suppress(ConnectionError):
        handler.send_response(status)
        for name, value in {"Content-Type": kind, **_HEADERS}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)
