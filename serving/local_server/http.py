"""HTTP/1.1 for the REST API: connections that stay open, bodies of any form, an orderly end."""

import contextlib
import logging
import sys
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedReader
from socket import AF_INET, AF_INET6, SHUT_WR
from typing import Any, cast

from serving.local_server.status import StatusError, invalid

logger = logging.getLogger(__name__)

MAX_BODY = 512 * 1024 * 1024
_MAX_UNPACKED = 10 * 1024 * 1024  # of a gzip body, as on TF Serving
# What is read at once: memory grows with what came, not with what was announced.
_PART = 1024 * 1024
_MAX_LEFT = 64 * 1024 * 1024  # that is still read of a body that was refused


class HttpServer(ThreadingHTTPServer):
    """Accepts connections, and ends without waiting for those that are silent.

    Args:
        host: address to listen on.
        port: 0 picks a free one.
        handler: of each connection.

    Raises:
        OSError: if the port is taken.
    """

    daemon_threads = True  # a client that never ends its request cannot hold up the end
    request_queue_size = 128

    def __init__(self, host: str, port: int, handler: type["HttpHandler"]):
        self.address_family = AF_INET6 if ":" in host else AF_INET
        self.draining = False
        self._changed = threading.Condition()
        self._answering = 0
        super().__init__((host.strip("[]"), port), handler)

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Have `drain` wait for what runs inside."""
        with self._changed:
            self._answering += 1
        try:
            yield
        finally:
            with self._changed:
                self._answering -= 1
                self._changed.notify_all()

    def drain(self, grace: float) -> None:
        """Refuse new requests and finish the running ones.

        Args:
            grace: seconds that these may take.
        """
        self.draining = True
        self.shutdown()
        with self._changed:
            self._changed.wait_for(lambda: not self._answering, grace)
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say in one line what went wrong; nothing where a client just went away."""
        error = sys.exception()
        if not isinstance(error, OSError):
            logger.error("REST request of %s failed: %r", client_address, error)


class HttpHandler(BaseHTTPRequestHandler):
    """One connection, whose requests are answered one after the other."""

    server: HttpServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or the last part of an answer waits for the client's receipt
    timeout = 50  # seconds that a silent connection is kept, as libevent does for TF Serving
    leaves_body = False  # whether part of a request may not have been read

    def handle_one_request(self) -> None:
        """Wait for the first byte of a request, and answer it."""
        try:
            begins = cast(BufferedReader, self.rfile).peek(1)
        except OSError:
            begins = b""
        if not begins or self.server.draining:
            self.close_connection = True
            return
        with self.server.answering():
            super().handle_one_request()

    def end_headers(self) -> None:
        """Tell the client when this answer is the last one."""
        if self.close_connection or self.server.draining:
            self.send_header("Connection", "close")
        super().end_headers()

    def finish(self) -> None:
        """Take in what a refused body still sends: before that some clients read no answer."""
        if self.leaves_body:
            with contextlib.suppress(OSError):
                self.connection.shutdown(SHUT_WR)
                self.connection.settimeout(1)
                left = _MAX_LEFT
                # A read gives what has come, which may be little.
                while left > 0 and (part := self.rfile.read1(_PART)):
                    left -= len(part)
        super().finish()

    def log_message(self, *_: object) -> None:
        """Stay silent; errors go to the caller."""

    def send(self, status: int, content_type: str, text: str) -> None:
        """Send an answer; to HEAD without the text.

        Args:
            status: of HTTP.
            content_type: of the text.
            text: the body.
        """
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def end_after_answer(self) -> None:
        """Close the connection behind this answer: where the next request begins is not known."""
        self.close_connection = self.leaves_body = True

    def read_body(self) -> bytes:
        """Read the request's body, unpacked if it is gzip.

        Returns:
            Its bytes. As on TF Serving a damaged gzip body, or one above 10 MB, reads as empty.

        Raises:
            StatusError: if it is cut short, too large or not in a form of HTTP; the connection
                then ends with the answer.
        """
        try:
            body = self._read_raw()
        except StatusError:
            self.end_after_answer()
            raise
        if "gzip" not in self.headers.get("Content-Encoding", ""):
            return body
        unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
        try:
            unpacked = unpacker.decompress(body, _MAX_UNPACKED)
        except zlib.error:
            return b""
        return unpacked if unpacker.eof else b""

    def _read_raw(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return self._read_chunks()
        length = self.headers.get("Content-Length", "0")
        if not (length.isascii() and length.isdigit()):
            raise invalid(f"Content-Length is {length!r}; it must be a number")
        body = bytearray()
        self._read_into(body, int(length))
        return bytes(body)

    def _read_chunks(self) -> bytes:
        body = bytearray()
        while size := self._chunk_size():
            self._read_into(body, size)
            self.rfile.readline(3)
        while self.rfile.readline(_PART) not in (b"\r\n", b"\n", b""):
            pass  # what may follow the last chunk: more headers
        return bytes(body)

    def _chunk_size(self) -> int:
        line = self.rfile.readline(_PART).partition(b";")[0].strip()
        try:
            return int(b"0x" + line, 16)
        except ValueError as error:
            raise invalid(f"{line[:20]!r} is not the size of a chunk of the body") from error

    def _read_into(self, body: bytearray, size: int) -> None:
        if len(body) + size > MAX_BODY:
            raise invalid(f"The body has {len(body) + size} bytes; at most {MAX_BODY} are taken")
        end = len(body) + size
        while len(body) < end:
            part = self.rfile.read(min(end - len(body), _PART))
            if not part:
                raise invalid(f"The body ended after {len(body)} of {end} bytes")
            body += part
