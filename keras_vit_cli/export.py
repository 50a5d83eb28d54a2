"""`keras-vit export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from keras_vit_cli.arguments import call
from keras_vit_cli.sources import open_model


def export(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    base: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="BASE")],
    version: int | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    top_k: int = 10,
    image_size: int | None = None,
    architecture: str | None = None,
) -> None:
    """Write BASE/N/, a SavedModel that TF Serving takes as it is.

    Decoding, preprocessing and labels are inside. Before it is published, in one rename, it is
    reloaded the way TF Serving does and must answer as the model does.

    Args:
        model: a training workdir, a .keras file, or any checkpoint: .npz, .safetensors, a folder of
            timm or transformers, hf://org/name, https://… or gs://…
        base: the directory of the served model; its name is the model's name on the server.
        version: the number N; the next free one if left out.
        dtype: of weights and computation; bfloat16 halves the size.
        top_k: how many classes an answer holds, at most.
        image_size: another input size than the model's own; positions are resampled.
        architecture: a timm name, for arrays that do not say of which model they are.
    """
    from serving.export import export_model

    loaded = open_model(model, architecture, image_size)
    result = export_model(loaded, base, version=version, dtype=dtype, top_k=top_k)
    print(
        f"{result.path}\n"
        f"  signatures   {', '.join(result.signatures)}\n"
        f"  size         {result.megabytes:.1f} MB\n"
        f"  time to load {result.load_seconds:.2f} s\n"
        f"  checked      largest difference from the Keras model {result.largest_difference:.1e}\n"
        f"next: keras-vit serve {base}"
    )


def run(arguments: list[str]) -> None:
    """Run the command."""
    call(export, "export", arguments)
