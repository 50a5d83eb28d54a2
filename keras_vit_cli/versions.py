"""`keras-vit versions`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import tyro

from keras_vit_cli.arguments import call, connection


def versions(
    base: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="BASE")],
    address: str | None = None,
    name: str | None = None,
    ca: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
) -> None:
    """List the versions of a model: size, date, accuracy, labels, and their state on a server.

    Args:
        base: what keras-vit export wrote: BASE/1, BASE/2, …
        address: HOST:PORT of a server to ask for their state.
        name: of the model on the server; the directory's name if left out.
        ca: PEM file of the authority that signed the server's certificate: an encrypted connection.
        certificate: PEM file with a certificate of one's own, for a server that wants one.
        key: PEM file with its key.
    """
    import rich.console
    import rich.table

    from serving.client import Client
    from serving.promotion import read_history
    from serving.version_directory import list_versions

    if not base.is_dir():
        raise NotADirectoryError(f"{base} is not a directory: give what keras-vit export wrote")
    labels: dict[int, list[str]] = {}
    for label, past in read_history(base).items():
        labels.setdefault(past[-1], []).append(label)
    states: dict[int, str] = {}
    if address is not None:
        tls = connection(ca, certificate, key)
        with Client(address, name or base.resolve().name, tls=tls) as client:
            states = {entry.version: entry.state for entry in client.status()}
    table = rich.table.Table("version", "MB", "exported", "dtype", "top1", "labels", box=None)
    if address is not None:
        table.add_column("state")
    for number, path in sorted(list_versions(str(base)).items(), reverse=True):
        card = _card(Path(path))
        size = sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file()) / 1e6
        accuracy = card.get("accuracy", {}).get("top1")
        row = [
            str(number),
            f"{size:.1f}",
            card.get("exported", "?"),
            card.get("dtype", "?"),
            "" if accuracy is None else f"{accuracy:.4f}",
            ", ".join(sorted(labels.get(number, []))),
        ]
        table.add_row(*row, *([states.get(number, "not loaded")] if address is not None else []))
    rich.console.Console().print(table)


def _card(version: Path) -> dict[str, Any]:
    """The model card of a version; nothing for one that has none."""
    try:
        return json.loads((version / "assets.extra" / "model_card.json").read_text())
    except (OSError, ValueError):
        return {}


def run(arguments: list[str]) -> None:
    """Run the command."""
    call(versions, "versions", arguments)
