"""`keras-vit predict`."""

from __future__ import annotations

import contextlib
import glob
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from keras_vit_cli.arguments import call, connection

_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp")


def predict(
    files: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE …")],
    name: str,
    address: str = "localhost:8500",
    top: int = 5,
    signature: Literal["predict", "probabilities", "embed", "attention"] = "predict",
    version: int | None = None,
    label: str | None = None,
    timeout: float = 30.0,
    batch_size: int = 8,
    in_flight: int = 4,
    require_fingerprint: str | None = None,
    ca: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
    json_lines: Annotated[bool, tyro.conf.arg(name="json")] = False,
    output: Path | None = None,
) -> None:
    """Ask a server what is in image files; --offline predicts without one.

    Exports are applied to whole data sets by `keras-vit predict --offline --help`.

    Exits with 1 if an image could not be read; the others are answered all the same.

    Args:
        files: images (JPEG, PNG, GIF or BMP), patterns in quotes such as 'photos/**/*.jpg', folders
            with all that is below them, or - for paths on standard input, one a line.
        name: the model's name on the server.
        address: HOST:PORT of the server's gRPC.
        top: how many classes to show.
        signature: what to ask: the best classes, all probabilities, the embedding, or the
            attention over the patches.
        version: of the model; the newest if left out.
        label: ask for the version that carries it.
        timeout: seconds that one request may take.
        batch_size: images of one request.
        in_flight: requests under way at the same time.
        require_fingerprint: refuse a model with another preprocessing (see its model_card.json).
        ca: PEM file of the authority that signed the server's certificate: an encrypted connection.
        certificate: PEM file with a certificate of one's own, for a server that wants one.
        key: PEM file with its key.
        json_lines: print one JSON object a line.
        output: write a .csv or .jsonl file instead, with progress; run again, it goes on with what
            is missing.
    """
    from keras_vit_cli.prediction_files import open_output, row_of
    from serving.client import Client

    paths = list(_expand(files))
    if not paths:
        raise ValueError("No image was given: keras-vit predict FILE … --name MODEL")
    tls = connection(ca, certificate, key)
    bad = []
    with contextlib.ExitStack() as stack:
        written = None
        if output is not None:
            written = stack.enter_context(open_output(output, signature, top))
            paths = [path for path in paths if path not in written.finished]
            print(f"{len(written.finished)} images are in {output} already", file=sys.stderr)
        client = stack.enter_context(
            Client(
                address,
                name,
                version=version,
                version_label=label,
                timeout=timeout,
                tls=tls,
                max_batch_size=batch_size,
                require_fingerprint=require_fingerprint,
            )
        )
        results = client.stream(
            _progress(paths, shown=written is not None),
            asked=signature,
            top_k=top,
            in_flight=in_flight,
            on_error="yield",
        )
        for result in results:
            row = row_of(result)
            if row["error"]:
                bad.append((result.source, row["error"]))
            if written is not None:
                written.write(row)
            else:
                _show(row, json_lines)
    if bad:
        source, error = bad[0]
        raise ValueError(
            f"{len(bad)} of {len(paths)} images have no answer; the first is {source}: {error}"
        )


def _expand(files: Sequence[str]) -> Iterator[str]:
    """The paths of files, patterns, folders and standard input, each once, in order."""
    seen = set()
    for path in (path for given in files for path in _paths(given)):
        if path not in seen:
            seen.add(path)
            yield path


def _paths(given: str) -> Iterator[str]:
    if given == "-":
        yield from (line.rstrip("\r\n") for line in sys.stdin if line.strip())
    elif Path(given).is_dir():
        below = sorted(Path(given).rglob("*"))
        yield from (str(path) for path in below if path.suffix.lower() in _SUFFIXES)
    elif any(sign in given for sign in "*?[") and not Path(given).exists():
        # Path.glob takes no absolute patterns.
        found = sorted(glob.glob(given, recursive=True))  # noqa: PTH207
        if not found:
            raise ValueError(f"No file fits the pattern {given}.")
        yield from found
    else:
        yield given


def _progress(paths: list[str], shown: bool) -> Iterator[str]:
    """The paths, with a bar on standard error where a person sees it."""
    import rich.console
    import rich.progress

    console = rich.console.Console(stderr=True)
    with rich.progress.Progress(
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(),
        console=console,
        disable=not (shown and console.is_terminal),
    ) as bar:
        yield from bar.track(paths)


def _show(row: dict[str, Any], json_lines: bool) -> None:
    import json

    if json_lines:
        print(json.dumps(row))
    elif row["error"]:
        print(f"{row['source']}: {row['error']}")
    elif "labels" in row:
        pairs = zip(row["labels"], row["scores"], strict=True)
        print(f"{row['source']}: " + "  ".join(f"{label} {score:.4f}" for label, score in pairs))
    else:
        (values,) = (row[key] for key in ("probabilities", "embedding", "attention") if key in row)
        print(f"{row['source']}: {values}")


def run(arguments: list[str]) -> None:
    """Run the command."""
    if "--offline" in arguments:
        from keras_vit_cli import predict_offline

        arguments.remove("--offline")
        predict_offline.run(arguments)
        return
    call(predict, "predict", arguments)
