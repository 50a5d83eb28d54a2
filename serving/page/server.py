"""The page on a port of its own, in front of a server whose ports are not ours."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from serving.page.site import Site
from serving.startup import ServeError


def announce_page(host: str, port: int) -> None:
    """Tell people where the page is.

    Args:
        host: address that it listens on.
        port: that it listens on.
    """
    named = f"[{host}]" if ":" in host and not host.startswith("[") else host
    print(f"Page to try it: http://{named}:{port}/", flush=True)


def loopback(address: str) -> str:
    """An address to connect to, for one to listen on.

    Args:
        address: HOST:PORT.

    Returns:
        The same, or this machine's where it says every interface.

    Example:
        >>> loopback("0.0.0.0:8500")
        '127.0.0.1:8500'
    """
    host, _, port = address.rpartition(":")
    return f"{ {'0.0.0.0': '127.0.0.1', '[::]': '[::1]'}.get(host, host) }:{port}"


@contextmanager
def page_server(site: Site, host: str, port: int) -> Iterator[int]:
    """Answer requests for the page while the block runs.

    Args:
        site: the page.
        host: address to listen on.
        port: 0 picks a free one.

    Yields:
        The port.

    Raises:
        ServeError: if the port is taken.

    Example:
        `with page_server(Site(backend), "127.0.0.1", 8502): stopped.wait()`
    """

    class Handler(_Handler):
        page = site

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    try:
        server = Server((host.strip("[]"), port), Handler)
    except OSError as error:
        raise ServeError(
            f"cannot listen on {host}:{port}: {error.strerror or error}. Choose another port for "
            "the page with --page-port (0 picks a free one)"
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="page", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    """Answers one request per connection."""

    page: Site
    timeout = 10  # seconds that a silent connection is kept

    def do_GET(self) -> None:
        self.page.respond(self)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Stay silent; errors go to the caller."""
