"""Which models to serve, and which of their versions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from tensorflow_serving.config import model_server_config_pb2

from serving.local_server.status import invalid


@dataclass(frozen=True)
class ModelConfig:
    """One model to serve.

    Attributes:
        name: what clients call it.
        base_path: directory with one sub-directory per version; absolute or a URL.
        latest: serve this many of the newest versions; None serves all, or `specific`.
        specific: serve exactly these versions, whatever `latest` says.
        labels: version numbers by label.

    Example:
        >>> sorted(ModelConfig("digits", "/models/digits").aspired([1, 2, 3]))
        [3]
    """

    name: str
    base_path: str
    latest: int | None = 1
    specific: frozenset[int] = frozenset()
    labels: Mapping[str, int] = field(default_factory=dict)

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


def parse_model_configs(config: model_server_config_pb2.ModelServerConfig) -> list[ModelConfig]:
    """Read TF Serving's configuration message.

    Args:
        config: as in a `--model_config_file` or a reload request.

    Returns:
        One entry per model.

    Raises:
        StatusError: if the message asks for something that cannot be.

    Example:
        `parse_model_configs(text_format.Parse(Path("models.config").read_text(),
        ModelServerConfig()))`
    """
    if config.WhichOneof("config") != "model_config_list":
        raise invalid(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. "
            "Only ModelConfigList is currently supported"
        )
    models: dict[str, ModelConfig] = {}
    for entry in config.model_config_list.config:
        if entry.name in models:
            raise invalid(f"Illegal to list model {entry.name} multiple times in config list")
        if not (PurePosixPath(entry.base_path).is_absolute() or "://" in entry.base_path):
            raise invalid(
                f"Expected model {entry.name} to have an absolute path or URI; "
                f"got base_path()={entry.base_path}"
            )
        if entry.model_platform != "tensorflow":
            raise invalid(
                f"Model {entry.name} has platform '{entry.model_platform}'; "
                "only 'tensorflow' is served"
            )
        models[entry.name] = _parse(entry)
    return list(models.values())


def _parse(entry: model_server_config_pb2.ModelConfig) -> ModelConfig:
    latest: int | None = 1
    specific: frozenset[int] = frozenset()
    policy = entry.model_version_policy
    match policy.WhichOneof("policy_choice"):
        case "all":
            latest = None
        case "latest":
            latest = policy.latest.num_versions or 1
        case "specific":
            specific = frozenset(policy.specific.versions)
            if not specific:
                raise invalid(f"Model {entry.name} asks for specific versions but lists none")
    return ModelConfig(entry.name, entry.base_path, latest, specific, dict(entry.version_labels))
