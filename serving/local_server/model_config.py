"""The models of a reload request."""

from tensorflow_serving.config import model_server_config_pb2

from serving.configuration.models import ModelConfig, read_models
from serving.local_server.status import invalid


def parse_model_configs(config: model_server_config_pb2.ModelServerConfig) -> list[ModelConfig]:
    """Read TF Serving's configuration message.

    Args:
        config: as in a reload request.

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
    try:
        return read_models(config)
    except ValueError as error:
        raise invalid(str(error)) from error
