"""`keras-vit bench start`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from keras_vit_cli.arguments import call


def bench_start(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[MODEL]")] = "ViT-B/16",
    rounds: int = 3,
    json_file: Annotated[Path | None, tyro.conf.arg(name="json", metavar="FILE")] = None,
) -> None:
    """Time how long things take to start, each in new processes.

    The help text, the imports, building a model, loading its weights from a file, the export with
    its check, and the server until it serves, with the warm-up.

    Args:
        model: a name of `keras-vit models`; weights are random.
        rounds: how often each is done.
        json_file: write the results here.
    """
    import tempfile

    if rounds < 1:
        raise ValueError(f"--rounds must be at least 1, not {rounds}.")

    from keras_vit_cli.benchmarks.command import write
    from keras_vit_cli.benchmarks.start import measure_start, print_start
    from keras_vit_cli.benchmarks.tables import machine

    with tempfile.TemporaryDirectory() as folder:
        rows = measure_start(model, Path(folder), rounds)
    print_start(rows)
    write({"model": model, "machine": machine(), "results": rows}, json_file)


def run(arguments: list[str]) -> None:
    """Run the command."""
    call(bench_start, "bench start", arguments)
