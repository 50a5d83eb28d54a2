"""`keras-vit page`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from keras_vit_cli.arguments import call, connection


def page(
    address: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ADDRESS")],
    name: Annotated[str, tyro.conf.arg(aliases=["--model"])],
    base: Path | None = None,
    port: int = 8502,
    host: str = "127.0.0.1",
    ca: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
) -> None:
    """Serve a web page to try a model on, until Ctrl-C; any server with TF Serving's gRPC answers.

    `keras-vit serve BASE --page` does the same for a server that it starts.

    Args:
        address: HOST:PORT of the server's gRPC.
        name: of the model on the server.
        base: what `keras-vit export MODEL BASE` wrote, if it is at hand: its versions say on which
            part of an image the attention lies, and BASE/labels.json which labels there are.
        port: of the page; 0 picks a free one and prints it.
        host: address to listen on; 0.0.0.0 opens the page to the network.
        ca: PEM file of the authority that signed the server's certificate: an encrypted connection.
        certificate: PEM file with a certificate of one's own, for a server that wants one.
        key: PEM file with its key.
    """
    import threading

    from serving.client import Client
    from serving.page.backend import Backend, PageModel
    from serving.page.server import announce_page, page_server
    from serving.page.site import Site
    from serving.startup import wait_until

    if base is not None and not base.is_dir():
        raise NotADirectoryError(f"{base} is not a directory: give what keras-vit export wrote")
    tls = connection(ca, certificate, key)
    Client(address, name, tls=tls).close()  # what is wrong with the arguments shows now
    model = PageModel(name, None if base is None else str(base.resolve()))
    with page_server(Site(Backend(address, lambda: [model], tls=tls)), host, port) as taken:
        announce_page(host, taken)
        wait_until(threading.Event())  # Ctrl-C ends it


def run(arguments: list[str]) -> None:
    """Run the command."""
    call(page, "page", arguments)
