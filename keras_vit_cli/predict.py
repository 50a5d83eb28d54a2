"""`keras-vit predict`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import tyro

from keras_vit_cli.arguments import call


def predict(
    files: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE …")],
    name: str,
    address: str = "localhost:8500",
    top: int = 5,
    timeout: float = 30.0,
    json_lines: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Ask a server what is in image files; --offline predicts without one.

    Exports are applied to whole data sets by `keras-vit predict --offline --help`.

    Exits with 1 if an image could not be read; the others are answered all the same.

    Args:
        files: images: JPEG, PNG, GIF or BMP.
        name: the model's name on the server.
        address: HOST:PORT of the server's gRPC.
        top: how many classes to show.
        timeout: seconds that one request may take.
        json_lines: print one JSON object a line.
    """
    from serving import Client

    if not files:
        raise ValueError("No image was given: keras-vit predict FILE … --name MODEL")
    with Client(address, name, timeout=timeout) as client:
        predictions = client.predict(list(files), top_k=top)
    for prediction in predictions:
        if json_lines:
            print(json.dumps(dataclasses.asdict(prediction)))
        elif prediction.valid:
            pairs = zip(prediction.labels, prediction.scores, strict=True)
            text = "  ".join(f"{label} {score:.4f}" for label, score in pairs)
            print(f"{prediction.source}: {text}")
        else:
            print(f"{prediction.source}: not an image that the server can read")
    if bad := [prediction.source for prediction in predictions if not prediction.valid]:
        raise ValueError(
            f"{len(bad)} of {len(predictions)} images could not be read: {', '.join(bad[:5])}. "
            f"They must be complete JPEG, PNG, GIF or BMP files."
        )


def run(arguments: list[str]) -> None:
    """Run the command."""
    if "--offline" in arguments:
        from keras_vit_cli import predict_offline

        arguments.remove("--offline")
        predict_offline.run(arguments)
        return
    call(predict, "predict", arguments)
