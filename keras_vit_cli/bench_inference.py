"""`keras-vit bench inference`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from keras_vit_cli.arguments import call

Names = Annotated[str, tyro.conf.arg(metavar="NAME,…")]


def bench_inference(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[MODEL]")] = (
        "vit_small_patch16_224"
    ),
    dtype: Literal["float32", "bfloat16"] = "float32",
    batch_size: int = 8,
    image_size: int = 224,
    threads: int = 2,
    against: Names = "",
    images: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE …")] = (),
    rounds: int = 5,
    seconds: float = 3.0,
    profile: bool = False,
    json_file: Annotated[Path | None, tyro.conf.arg(name="json", metavar="FILE")] = None,
) -> None:
    """Time the exported model, by itself or against other libraries.

    Every contender is a process of its own; they take turns, several times, so that what else the
    machine does falls on all of them. Beside the times stands what the model's matrix products
    alone take on this machine.

    Args:
        model: a name of `keras-vit models`; weights are random.
        dtype: of weights and computation.
        batch_size: images of a step.
        image_size: of a side, in pixels.
        threads: for each contender.
        against: any of timm, onnxruntime, openvino, keras-hub, with commas between them; those
            that are not installed are named.
        images: JPEG files: time from their bytes to labels instead of from pixels.
        rounds: turns of each contender.
        seconds: about how long a turn is.
        profile: show which kernels the time of our export goes into.
        json_file: write the results here.
    """
    import keras_vit
    from keras_vit.costs import costs
    from keras_vit.variants import get_variant
    from keras_vit_cli.benchmarks.contenders import LIMIT, OURS
    from keras_vit_cli.benchmarks.runner import Task, known, race
    from keras_vit_cli.benchmarks.tables import print_table, to_json

    if rounds < 1 or seconds <= 0 or batch_size < 1 or threads < 1:
        raise ValueError("--rounds, --seconds, --batch-size and --threads must be positive.")
    variant = get_variant(model)
    options = {"files": [str(file) for file in images]}
    task = Task(
        "images" if images else "inference",
        variant.name,
        dtype,
        batch_size,
        image_size,
        threads,
        options,
    )
    names = known([name.strip() for name in against.split(",") if name.strip()])
    entries = [(OURS, task), *((name, task) for name in names), (LIMIT, task)]
    results = race(entries, rounds, seconds, lambda line: print(line, file=sys.stderr))
    _, work = costs({**variant.arguments, "image_size": image_size})
    report = to_json(results, 2.0 * work)
    report["keras_vit"] = keras_vit.__version__
    if profile:
        from keras_vit_cli.benchmarks.profile import print_kernels, profile_export

        report["kernels"] = profile_export(task)
    print_table(report)
    if profile:
        print_kernels(report["kernels"])
    if json_file is not None:
        json_file.write_text(json.dumps(report, indent=1) + "\n")


def run(arguments: list[str]) -> None:
    """Run the command."""
    call(bench_inference, "bench inference", arguments)
