"""The transfer of one file: resumed, retried, verified."""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import hashlib
import http.client
import json
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from keras_vit import atomic_files
from keras_vit._version import __version__
from keras_vit.weights.progress import progress_of
from keras_vit.weights.remote import Remote, is_local, why_refused

_RETRIES = 5
_FIRST_DELAY = 1.0  # seconds, doubled with every retry
_LONGEST_DELAY = 60.0  # seconds; what a server asks for with Retry-After is cut to it
_TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 20
_RETRIED_STATUSES = (408, 425, 429)  # and every 5xx


def sidecar_of(target: Path) -> Path:
    """The file beside a whole one that says its address, size and sha256.

    >>> sidecar_of(Path("cache/a.npz")).name
    'a.npz.cached.json'
    """
    return target.with_name(f"{target.name}.cached.json")


def read_json(path: Path) -> dict[str, Any]:
    """What a sidecar holds; empty if it is not there or cut short.

    >>> read_json(Path("/nowhere.json"))
    {}
    """
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):  # absent, cut short by a crash, or not ours
        return {}
    return value if isinstance(value, dict) else {}


class _Interrupted(Exception):  # noqa: N818 - not an error yet: it is tried again
    def __init__(self, reason: str, delay: float = 0.0):
        super().__init__(reason)
        self.delay = delay  # seconds that the server asks to wait


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        # A server on this machine may send us on to this machine, a server outside may not.
        reason = why_refused(newurl, http_allowed=is_local(req.full_url))
        if reason:
            fp.close()
            raise ValueError(f"{req.full_url} redirects to {newurl}, which is refused: {reason}.")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class Transfer:
    """One download, of as many connections as it takes.

    Args:
        remote: what is fetched.
        target: where it appears once it is whole.
        report: gets lines about the progress when stderr is no terminal.
    """

    def __init__(self, remote: Remote, target: Path, report: Callable[[str], None] | None):
        self.remote = remote
        self.target = target
        self.report = report
        self.part = target.with_name(f"{target.name}.part")
        self.state_file = target.with_name(f"{target.name}.part.json")
        self.reached = False  # whether the server has answered at all
        handlers: list[urllib.request.BaseHandler] = [_Redirects()]
        if is_local(remote.url):
            handlers.append(urllib.request.ProxyHandler({}))
        self.opener = urllib.request.build_opener(*handlers)

    def run(self) -> None:
        """Bring the file, or say why it cannot be had.

        Raises:
            ValueError: with what to do.
        """
        failures = 0
        furthest = self._received()
        while True:
            try:
                self._attempt()
                break
            except _Interrupted as interruption:
                received = self._received()
                # Only tries that bring nothing count: a bad line may drop a large file often.
                failures = 1 if received > furthest + _CHUNK else failures + 1
                furthest = max(furthest, received)
                if failures > _RETRIES:
                    raise ValueError(
                        f"{self.remote.address}: given up after {failures} tries, the last one: "
                        f"{interruption}. Run it again later: it goes on where it stopped."
                    ) from interruption
                delay = max(_FIRST_DELAY * 2 ** (failures - 1), interruption.delay)
                if self.report is not None:
                    self.report(f"{self.target.name}: {interruption}; again in {delay:.0f} s")
                time.sleep(delay)
        self._finish()

    def _received(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.state_file.unlink(missing_ok=True)

    def _attempt(self) -> None:
        state = read_json(self.state_file)
        offset = self._received() if state else 0
        if offset and offset == state.get("total"):
            return  # killed between the last byte and the rename
        headers = {"User-Agent": f"keras-vit/{__version__}", "Accept-Encoding": "identity"}
        validator = state.get("validator")
        resuming = bool(offset and validator)
        if resuming:
            headers |= {"Range": f"bytes={offset}-", "If-Range": str(validator)}
        with self._open(urllib.request.Request(self.remote.url, headers=headers)) as response:
            self.reached = True
            if resuming and response.status == 206:
                total = self._check_continues(response, offset, state)
            elif response.status == 200:
                # Emptied before the new state is written: a kill in between must not leave the
                # old bytes under the new version's name.
                self.part.write_bytes(b"")
                offset = 0
                total = _whole_number(response.headers.get("Content-Length"))
                state = {
                    "validator": _validator(response.headers),
                    "total": total,
                    "md5": _google_md5(response.headers),
                }
                atomic_files.write_text(self.state_file, json.dumps(state))
            else:
                raise ValueError(
                    f"{self.remote.address}: the server answered HTTP {response.status} without "
                    f"a file. Check the address in a browser."
                )
            self._receive(response, offset, total)

    def _open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        address = self.remote.address
        try:
            response: http.client.HTTPResponse = self.opener.open(request, timeout=_TIMEOUT)
        except urllib.error.HTTPError as error:
            with error:
                self.reached = True
                raise self._refusal(error) from error
        except http.client.InvalidURL as error:
            raise ValueError(f"{address} is not a valid address ({error}).") from error
        except (OSError, http.client.HTTPException) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise ValueError(
                    f"{address}: the server's certificate is not trusted ({reason}). Behind a "
                    f"proxy with a certificate of its own, set SSL_CERT_FILE to it."
                ) from error
            # No answer to the very first request is no network or a wrong name, not a dropped
            # line: waiting would only delay the message.
            absent = (socket.gaierror, ConnectionRefusedError)
            unreachable = getattr(reason, "errno", None) in (errno.ENETUNREACH, errno.EHOSTUNREACH)
            if not self.reached and (isinstance(reason, absent) or unreachable):
                raise ValueError(
                    f"{address} cannot be reached ({reason}), and it is not in the cache "
                    f"{self.target.parent}. Check the connection and the host's name. Without a "
                    f"network, fetch it elsewhere and copy that folder to the same place, or give "
                    f"the path of a local copy."
                ) from error
            raise _Interrupted(f"no answer ({reason or type(reason).__name__})") from error
        return response

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        """What an answer that is not a file means."""
        if error.code == 416:  # our part is not of this file
            self._discard()
            return _Interrupted("the file on the server has changed (HTTP 416)")
        if error.code in _RETRIED_STATUSES or error.code >= 500:
            asked = _whole_number(error.headers.get("Retry-After")) or 0
            return _Interrupted(f"HTTP {error.code} {error.reason}", min(asked, _LONGEST_DELAY))
        if error.code in {404, 410}:
            advice = "there is no such file: check the name"
        elif error.code in {401, 403}:
            advice = (
                "it is gated, private, or not there, and no login is sent to such addresses. "
                "If it is on the Hugging Face Hub, set HF_TOKEN and use hf://org/name/file; "
                "otherwise download it by hand and give its path"
            )
        elif 300 <= error.code < 400:
            # Of several lines, where urllib has met a loop.
            advice = f"a redirect that is not followed, {error.reason.splitlines()[0].rstrip('.')}"
        else:
            advice = f"{error.reason}: open the address in a browser to see why"
        return ValueError(f"{self.remote.address}: HTTP {error.code}, {advice}.")

    def _check_continues(
        self, response: http.client.HTTPResponse, offset: int, state: dict[str, Any]
    ) -> int | None:
        """The total size, if the answer is the rest of what we have the beginning of."""
        span = re.fullmatch(
            r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", "")
        )
        total = _whole_number(span[3]) if span else None
        known = state.get("total")
        new = response.headers.get("ETag")
        if (
            span is None
            or int(span[1]) != offset
            or (None not in (known, total) and known != total)
            or (new and state["validator"].startswith('"') and new != state["validator"])
        ):
            self._discard()
            raise _Interrupted("the server's answer does not continue the part we have")
        return total if known is None else known

    def _receive(self, response: http.client.HTTPResponse, offset: int, total: int | None) -> None:
        received = offset
        with (
            self.part.open("ab") as file,
            progress_of(self.target.name, offset, total, self.report) as show,
        ):
            while total is None or received < total:
                wanted = _CHUNK if total is None else min(_CHUNK, total - received)
                try:
                    # read1: what has arrived is on disk before the next wait.
                    chunk = response.read1(wanted)
                except (OSError, http.client.HTTPException) as error:
                    raise _Interrupted(f"the connection was lost ({error!r})") from error
                if not chunk:
                    break
                file.write(chunk)
                received += len(chunk)
                show(received)
        if total is not None and received < total:
            raise _Interrupted(f"the connection ended after {received} of {total} bytes")

    def _finish(self) -> None:
        state = read_json(self.state_file)
        size = self._received()
        actual = _digest(self.part, "sha256")
        expected_md5 = state.get("md5")
        if state.get("total") not in (None, size):
            problem = f"{size} bytes arrived instead of {state['total']}"
        elif not size:
            problem = "it is empty"
        elif self.remote.sha256 not in (None, actual):
            problem = f"its sha256 is {actual}, not {self.remote.sha256}"
        elif expected_md5 and _digest(self.part, "md5") != expected_md5:
            problem = f"its md5 is not {expected_md5}, which the server names"
        elif _is_web_page(self.part):  # of a login or a proxy: in the cache it would stay
            problem = "it is a web page; open the address in a browser to see which"
        else:
            # The old file goes first and the new one comes last: at no moment does a sidecar
            # vouch for bytes that it does not describe.
            self.target.unlink(missing_ok=True)
            sidecar = {"address": self.remote.address, "size": size, "sha256": actual}
            atomic_files.write_text(sidecar_of(self.target), json.dumps(sidecar, indent=1))
            atomic_files.publish(self.part, self.target)
            self.state_file.unlink(missing_ok=True)
            return
        self._discard()
        raise ValueError(
            f"{self.remote.address}: what arrived is not the file: {problem}. It has been deleted. "
            f"Run it again; if it happens again, the file on the server is another one."
        )


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _is_web_page(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(1024)
    return start.lstrip().lower().startswith((b"<!doctype", b"<html"))


def _whole_number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None


def _validator(headers: http.client.HTTPMessage) -> str | None:
    """What names this version of the file in If-Range: weak ETags may not."""
    etag = headers.get("ETag", "")
    return etag if etag.startswith('"') else headers.get("Last-Modified")


def _google_md5(headers: http.client.HTTPMessage) -> str | None:
    """The md5 that Google Cloud Storage names, in hexadecimal."""
    if headers.get("x-goog-stored-content-encoding", "identity") != "identity":
        return None  # it is of the compressed object, not of what we receive
    for line in headers.get_all("x-goog-hash", []):
        for item in line.split(","):
            kind, _, value = item.strip().partition("=")
            if kind == "md5":
                with contextlib.suppress(binascii.Error):
                    return base64.b64decode(value, validate=True).hex()
    return None
