"""Labels of versions: "stable" moves to the next one, and back.

TF Serving refuses to move a label to a version that it has not loaded. So a move takes two steps:
first both versions are loaded; when the new one can answer the label moves, and the old one goes.
What a label stood for before is kept in BASE/labels.json, which servers overlook.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import text_format
from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc
from tensorflow_serving.config import model_server_config_pb2

from keras_vit.atomic_files import write_text
from serving.client import TLS, Client, calls
from serving.client.settings import Settings
from serving.configuration.models import ModelConfig, parse_models, write_models
from serving.label_history import LABELS_FILE, read_history
from serving.version_directory import list_versions


@dataclasses.dataclass(frozen=True)
class Target:
    """Whose labels move, and who has to know.

    Args:
        base: the model's base directory.
        name: the model's name on the server. Default None: that of the directory.
        model_config_file: of the server, which is written anew. Default None: there is none, and
            the server has this model only.
        address: HOST:PORT of the server. Default None: none is told.
        tls: True or a `TLS` for an encrypted connection to it. Default False.
    """

    base: Path
    name: str | None = None
    model_config_file: Path | None = None
    address: str | None = None
    tls: bool | TLS = False

    @property
    def model(self) -> str:
        """The model's name."""
        return self.name or self.base.resolve().name


def promote(
    target: Target,
    version: int,
    label: str,
    *,
    timeout: float = 600.0,
    report: Callable[[str], None] = print,
) -> None:
    """Give a label to a version; the server keeps answering all the while.

    Args:
        target: whose label, and who has to know.
        version: that gets it.
        label: for example "stable" or "canary".
        timeout: seconds that the server may take to load the version. Default 600.
        report: called with each step. Default `print`.

    Raises:
        ValueError: if there is no such version, the label cannot be one, or the server refuses or
            fails to load the version; then the label stays where it was.

    Example:
        `promote(Target(Path("served/digits"), address="localhost:8500"), 3, "stable")`
    """
    if not label or set(label) & set("/:"):
        raise ValueError(f"A label cannot be empty or have '/' or ':' in it, as {label!r} does.")
    versions = list_versions(str(target.base)) if target.base.is_dir() else {}
    if version not in versions:
        raise ValueError(
            f"{target.base} has no version {version}; it has {sorted(versions) or 'none'}."
        )
    history = read_history(target.base)
    labels = {name: past[-1] for name, past in history.items()}
    if labels.get(label) == version:
        report(f"{label} is version {version} already")
    moved = {**labels, label: version}
    others = _others(target)
    loaded = frozenset({*labels.values(), version})
    old_labels = {name: number for name, number in labels.items() if number in versions}
    if target.address is not None:
        before = _config(target, loaded & set(versions), old_labels)
        _apply(target, [*others, before])
        report(f"loading version {version} beside {sorted(set(labels.values()) - {version})}")
        _wait_until_available(target, version, timeout)
    after = _config(target, frozenset(moved.values()), moved)
    _apply(target, [*others, after])
    past = history.get(label, [])
    history[label] = [*past, version] if past[-1:] != [version] else past
    write_text(target.base / LABELS_FILE, json.dumps(history, indent=2) + "\n")
    report(f"{label} is version {version} of {target.model}")
    if target.address is None:
        report("no server was told: give --address, or start it with the model config file")


def rollback(
    target: Target,
    label: str,
    *,
    timeout: float = 600.0,
    report: Callable[[str], None] = print,
) -> int:
    """Give a label back to the version that it had before.

    Args:
        target: whose label, and who has to know.
        label: to move.
        timeout: seconds that the server may take to load the version. Default 600.
        report: called with each step. Default `print`.

    Returns:
        The version.

    Raises:
        ValueError: if the label never had another version, or as `promote`.
    """
    past = read_history(target.base).get(label, [])
    if len(past) < 2:
        raise ValueError(
            f"{label} of {target.base} has no version to go back to: it had {past or 'none'}."
        )
    version = past[-2]
    promote(target, version, label, timeout=timeout, report=report)
    history = read_history(target.base)
    history[label] = past[:-1]  # so that another rollback goes further back
    write_text(target.base / LABELS_FILE, json.dumps(history, indent=2) + "\n")
    return version


def _config(target: Target, versions: frozenset[int], labels: dict[str, int]) -> ModelConfig:
    base = str(target.base.resolve())
    return ModelConfig(target.model, base, specific=versions, labels=labels)


def _others(target: Target) -> list[ModelConfig]:
    """The other models of the server, which stay as they are."""
    file = target.model_config_file
    if file is None or not file.exists():
        return []
    return [model for model in parse_models(file.read_text()) if model.name != target.model]


def _apply(target: Target, models: list[ModelConfig]) -> None:
    """Write the file, and tell the server."""
    text = write_models(models)
    if target.model_config_file is not None:
        write_text(target.model_config_file, text)
    if target.address is None:
        return
    request = model_management_pb2.ReloadConfigRequest(
        config=text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    )
    connection = Settings(target.address, calls.Target(target.model), tls=target.tls)
    with connection.open(grpc) as channel:
        service: Any = model_service_pb2_grpc.ModelServiceStub(channel)
        try:
            # It answers when new models are loaded, which may take its time.
            service.HandleReloadConfigRequest(request, timeout=600)
        except grpc.RpcError as error:
            raise ValueError(
                f"The server at {target.address} refused the configuration: {error.details()}"
            ) from error


def _wait_until_available(target: Target, version: int, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    with Client(target.address or "", target.model, tls=target.tls) as client:
        while True:
            states = {entry.version: entry for entry in client.status()}
            entry = states.get(version)
            if entry is not None and entry.state == "AVAILABLE":
                return
            failed = entry is not None and entry.state == "END" and entry.error
            if failed or time.monotonic() > deadline:
                reason = entry.error if failed and entry else f"not within {timeout:g} s"
                raise ValueError(
                    f"Version {version} could not be loaded: {reason}. The labels are as they were."
                )
            time.sleep(0.2)
