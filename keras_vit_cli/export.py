"""`keras-vit export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from keras_vit_cli.arguments import call
from keras_vit_cli.sources import accuracy_of, open_model


def export(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    base: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="BASE")],
    version: int | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    top_k: int = 10,
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8),
    image_size: int | tuple[int, int] | None = None,
    token_merging: int = 0,
    token_merging_schedule: Literal["constant", "decreasing"] = "constant",
    streams: int | None = None,
    recover_truncated: bool = False,
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
        dtype: of the weights; bfloat16 halves the size.
        compute_dtype: that the weights are loaded as and the model computes in. auto is that of the
            weights, but float32 where this machine has no instructions for bfloat16: say bfloat16
            if the server has them.
        top_k: how many classes an answer holds, at most.
        batch_sizes: that a server with batching runs the model at; each is warmed up before the
            version answers. Fewer start faster.
        image_size: another input size than the model's own, one side or height and width; positions
            are resampled.
        token_merging: how many similar tokens each block merges: faster, and answers differ a
            little. `keras-vit bench token-merging` shows by how much.
        token_merging_schedule: decreasing: twice as many in the first block, none in the last.
        streams: in how many parts the tokens are computed at the same time: the number of the
            server's cores where these are few, 1 for a GPU; if left out 2 where it computes in
            float32 and 1 in bfloat16.
        recover_truncated: decode a JPEG that is cut short as far as it goes, instead of answering
            valid=False.
        architecture: a timm name, for arrays that do not say of which model they are.
    """
    from serving.export import export_model
    from serving.fused import TokenMerging
    from serving.model_card import Origin

    loaded = open_model(model, architecture, image_size)
    loaded.preprocessing = loaded.preprocessing.replace(recover_truncated=recover_truncated)
    merging = TokenMerging(token_merging, token_merging_schedule) if token_merging else None
    result = export_model(
        loaded,
        base,
        version=version,
        dtype=dtype,
        compute_dtype=None if compute_dtype == "auto" else compute_dtype,
        top_k=top_k,
        batch_sizes=batch_sizes,
        token_merging=merging,
        streams=streams,
        origin=Origin(model, accuracy_of(model)),
    )
    reference = (
        "its own graph before it was written (token merging):" if merging else "the Keras model"
    )
    print(
        f"{result.path}\n"
        f"  signatures   {', '.join(result.signatures)}\n"
        f"  weights      {dtype}, computes in {result.compute_dtype}\n"
        f"  size         {result.megabytes:.1f} MB\n"
        f"  time to load {result.load_seconds:.2f} s\n"
        f"  checked      largest difference from {reference} {result.largest_difference:.1e}\n"
        f"next: keras-vit serve {base}"
    )


def run(arguments: list[str]) -> None:
    """Run the command."""
    call(export, "export", arguments)
