"""`keras-vit serve`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import tyro

from keras_vit_cli.arguments import call


def serve(
    base: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="BASE")] = None,
    name: str | None = None,
    port: int = 8500,
    rest_port: int | None = None,
    host: str = "127.0.0.1",
    server: Literal["auto", "tensorflow", "local"] = "auto",
    wait: bool = False,
    model_config_file: Path | None = None,
    batching_parameters_file: Path | None = None,
    per_model_batching: bool = False,
    monitoring_config_file: Path | None = None,
    ssl_config_file: Path | None = None,
    pack_weights: bool = False,
    page: bool = False,
    page_port: int | None = None,
) -> None:
    """Serve the versions in a directory, or several models, over gRPC until Ctrl-C or SIGTERM.

    New versions are picked up while it runs; the old one answers until the new one is loaded.

    Args:
        base: what `keras-vit export MODEL BASE` wrote: BASE/1, BASE/2, …
        name: what clients call the model; the directory's name if left out.
        port: of gRPC; 0 picks a free one and prints it.
        rest_port: of REST; 0 picks a free one, left out there is no REST.
        host: address to listen on; 0.0.0.0 opens it to the network.
        server: tensorflow is tensorflow_model_server, local the server that comes with keras-vit;
            auto takes the first if it is on the PATH.
        wait: wait for the first version instead of failing without one.
        model_config_file: several models with their versions and labels, instead of BASE; it may
            change while the server runs (keras-vit promote writes it).
        batching_parameters_file: gather the requests of many callers into batches.
        per_model_batching: the same, by the parameters that keras-vit export put into the version.
        monitoring_config_file: where on the REST port the Prometheus page is; left out it is
            /monitoring/prometheus/metrics.
        ssl_config_file: key and certificates that encrypt the gRPC port.
        pack_weights: keep packed copies of the weights, one for each signature in use. In bfloat16
            on processors with AMX 1.4 times as fast; in float32 not worth the memory. Only for
            models that keras-vit exported: others may answer wrongly.
        page: a web page to try the models on, at / of the local server's REST port (8501 if none is
            given), or on a port of its own in front of tensorflow_model_server.
        page_port: serve the page on this port; 0 picks a free one; left out it is the one after
            that of REST where the page needs one of its own.
    """
    from serving.server import serve as run_server
    from serving.startup import PACK_WEIGHTS

    if pack_weights:
        os.environ[PACK_WEIGHTS] = "1"  # read once, when TensorFlow starts

    run_server(
        base,
        name,
        port=port,
        rest_port=rest_port,
        host=host,
        server=server,
        wait=wait,
        model_config_file=model_config_file,
        batching_parameters_file=batching_parameters_file,
        per_model_batching=per_model_batching,
        monitoring_config_file=monitoring_config_file,
        ssl_config_file=ssl_config_file,
        page=page,
        page_port=page_port,
    )


def run(arguments: list[str]) -> None:
    """Run the command."""
    call(serve, "serve", arguments)
