"""`keras-vit bench inference`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from keras_vit_cli.arguments import call


def bench_inference(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[MODEL]")] = (
        "vit_small_patch16_224"
    ),
    dtype: Literal["float32", "bfloat16"] = "float32",
    batch_size: int = 8,
    image_size: int = 224,
    threads: int = 2,
    against: Annotated[str, tyro.conf.arg(metavar="NAME,…")] = "",
    images: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE …")] = (),
    rounds: int = 5,
    seconds: float = 3.0,
    streams: int | None = None,
    pack_weights: bool | None = None,
    profile: bool = False,
    json_file: Annotated[Path | None, tyro.conf.arg(name="json", metavar="FILE")] = None,
) -> None:
    """Time the exported model, by itself or against other libraries.

    Every contender is a process of its own; they take turns, several times, so that what else the
    machine does falls on all of them. Beside the times stands what the model's matrix products
    alone take on this machine.

    Args:
        model: a name of `keras-vit models`; weights are random.
        dtype: of the weights. In bfloat16 our export computes as `keras-vit export` chooses: in
            float32 on a processor without instructions for bfloat16.
        batch_size: images of a step.
        image_size: of a side, in pixels.
        threads: for each contender.
        against: any of timm, onnxruntime, openvino, keras-hub, with commas between them; those
            that are not installed are named.
        images: JPEG files: time from their bytes to labels instead of from pixels.
        rounds: turns of each contender.
        seconds: about how long a turn is.
        streams: parts of the tokens that our export computes at the same time, as `keras-vit export
            --streams` has them; with as many threads each part has one.
        pack_weights: let our export pack its weights once, as `keras-vit serve --pack-weights`
            does; by default where it computes in bfloat16.
        profile: show which kernels the time of our export goes into.
        json_file: write the results here.
    """
    from keras_vit.variants import get_variant
    from keras_vit_cli.benchmarks.command import measure, write
    from keras_vit_cli.benchmarks.runner import Task
    from keras_vit_cli.benchmarks.tables import print_table
    from serving.processor import compute_dtype_for
    from serving.threads import STREAMS

    compute_dtype = compute_dtype_for(dtype)
    if pack_weights is None:
        pack_weights = compute_dtype == "bfloat16"

    task = Task(
        "images" if images else "inference",
        get_variant(model).name,
        dtype,
        batch_size,
        image_size,
        threads,
        {
            "files": [str(file) for file in images],
            "pack_weights": pack_weights,
            "streams": STREAMS[compute_dtype] if streams is None else streams,
        },
    )
    report = measure(task, against, rounds, seconds, passes=1, with_limit=True)
    if profile:
        from keras_vit_cli.benchmarks.profile import print_kernels, profile_export

        report["kernels"] = profile_export(task)
    print_table(report)
    if profile:
        print_kernels(report["kernels"])
    write(report, json_file)


def run(arguments: list[str]) -> None:
    """Run the command."""
    call(bench_inference, "bench inference", arguments)
