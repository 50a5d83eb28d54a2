"""Which models a server has, which of their versions, and which of these carry a label."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from serving.configuration.text import new_message, parse_text, write_text


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """One model to serve.

    Args:
        name: what clients call it.
        base_path: directory with one sub-directory per version; absolute or a URL.
        latest: serve this many of the newest versions; None serves all. Default 1.
        specific: serve exactly these versions, whatever `latest` says.
        labels: version numbers by label.

    Raises:
        ValueError: for what a server would refuse.

    Example:
        >>> sorted(ModelConfig("digits", "/models/digits").aspired([1, 2, 3]))
        [3]
    """

    name: str
    base_path: str
    latest: int | None = 1
    specific: frozenset[int] = frozenset()
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("A model needs a name.")
        if not (PurePosixPath(self.base_path).is_absolute() or "://" in self.base_path):
            raise ValueError(
                f"Expected model {self.name} to have an absolute path or URI; "
                f"got base_path()={self.base_path}"
            )

    def aspired(self, on_disk: Iterable[int]) -> set[int]:
        """Choose the versions to serve.

        Args:
            on_disk: the versions that exist.

        Returns:
            Those that the policy wants.
        """
        versions = sorted(on_disk, reverse=True)
        if self.specific:
            return set(self.specific) & set(versions)
        return set(versions[: self.latest])


def parse_models(text: str) -> list[ModelConfig]:
    """Read the text of a `--model_config_file`.

    Args:
        text: in protobuf's text format.

    Returns:
        One entry for each model.

    Raises:
        ValueError: if it is something else, or a server would refuse it.

    Example:
        >>> entry = 'name: "a" base_path: "/m/a" model_platform: "tensorflow"'
        >>> parse_models(f"model_config_list {{ config {{ {entry} }} }}")[0].name
        'a'
    """
    return read_models(parse_text("ModelServerConfig", text))


def read_models(message: Any) -> list[ModelConfig]:
    """Read a ModelServerConfig message of any package, as in a file or a reload request.

    Args:
        message: with `model_config_list`.

    Returns:
        One entry for each model.

    Raises:
        ValueError: for what a server would refuse.
    """
    models: dict[str, ModelConfig] = {}
    for entry in message.model_config_list.config:
        if entry.name in models:
            raise ValueError(f"Illegal to list model {entry.name} multiple times in config list")
        if not entry.model_platform:
            raise ValueError(
                "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
                "ModelServerConfig::model_platform."
            )
        if entry.model_platform != "tensorflow":
            raise ValueError(
                f"Model {entry.name} requests unsupported platform {entry.model_platform}"
            )
        models[entry.name] = _read(entry)
    return list(models.values())


def write_models(models: Sequence[ModelConfig]) -> str:
    """The text of a `--model_config_file`.

    Args:
        models: to serve.

    Returns:
        Text that TF Serving takes.

    Raises:
        ValueError: if two models have one name.

    Example:
        >>> parse_models(write_models([ModelConfig("a", "/m/a", labels={"stable": 3})]))[0].labels
        {'stable': 3}
    """
    message = new_message("ModelServerConfig")
    message.model_config_list.SetInParent()
    for model in models:
        entry = message.model_config_list.config.add(
            name=model.name, base_path=model.base_path, model_platform="tensorflow"
        )
        policy = entry.model_version_policy
        if model.specific:
            policy.specific.versions.extend(sorted(model.specific))
        elif model.latest is None:
            policy.all.SetInParent()
        else:
            policy.latest.num_versions = model.latest
        for label, version in sorted(model.labels.items()):
            entry.version_labels.add(key=label, value=version)
    if len({model.name for model in models}) < len(models):
        raise ValueError("Two models have one name: give each its own.")
    return write_text(message)


def _read(entry: Any) -> ModelConfig:
    if entry.HasField("logging_config"):
        raise ValueError(
            f"Model {entry.name} has a logging_config, with which TF Serving does not start "
            "(No request-logger-creator provided): log requests in the client or a proxy."
        )
    latest: int | None = 1
    specific: frozenset[int] = frozenset()
    policy = entry.model_version_policy
    if policy.HasField("all"):
        latest = None
    elif policy.HasField("latest"):
        latest = policy.latest.num_versions or 1
    elif policy.HasField("specific"):
        specific = frozenset(policy.specific.versions)
        if not specific:
            raise ValueError(f"Model {entry.name} asks for specific versions but lists none")
    labels = entry.version_labels
    pairs = labels.items() if hasattr(labels, "items") else ((x.key, x.value) for x in labels)
    return ModelConfig(entry.name, entry.base_path, latest, specific, dict(pairs))
