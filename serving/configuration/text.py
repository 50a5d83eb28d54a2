"""TF Serving's configuration messages, in protobuf's text format.

They are described here, in a pool of their own, because `tensorflow-serving-api` has only one of
them and needs all of TensorFlow. In the text format names count, and field numbers do not.
"""

from __future__ import annotations

import functools
from typing import Any

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)

_FIELD = descriptor_pb2.FieldDescriptorProto
_SCALARS = {"string": _FIELD.TYPE_STRING, "int64": _FIELD.TYPE_INT64, "bool": _FIELD.TYPE_BOOL}
_WRAPPERS = ("Int64Value", "StringValue", "BoolValue")
# Fields of each message: type by name, "*" for repeated ones; as in tensorflow_serving/config and
# servables/tensorflow/session_bundle_config.proto.
_MESSAGES = {
    "BatchingParameters": {
        "max_batch_size": "Int64Value",
        "batch_timeout_micros": "Int64Value",
        "max_enqueued_batches": "Int64Value",
        "num_batch_threads": "Int64Value",
        "thread_pool_name": "StringValue",
        "allowed_batch_sizes": "int64*",
        "pad_variable_length_inputs": "bool",
        "enable_large_batch_splitting": "BoolValue",
        "max_execution_batch_size": "Int64Value",
    },
    "SSLConfig": {
        "server_key": "string",
        "server_cert": "string",
        "custom_ca": "string",
        "client_verify": "bool",
    },
    "MonitoringConfig": {"prometheus_config": "PrometheusConfig"},
    "PrometheusConfig": {"enable": "bool", "path": "string"},
    "ModelServerConfig": {"model_config_list": "ModelConfigList"},
    "ModelConfigList": {"config": "ModelConfig*"},
    "ModelConfig": {
        "name": "string",
        "base_path": "string",
        "model_platform": "string",
        "model_version_policy": "VersionPolicy",
        "version_labels": "Label*",
        "logging_config": "LoggingConfig",
    },
    "VersionPolicy": {"latest": "Latest", "all": "All", "specific": "Specific"},
    "Latest": {"num_versions": "int64"},
    "All": {},
    "Specific": {"versions": "int64*"},
    "Label": {"key": "string", "value": "int64"},
    "LoggingConfig": {},
}


def new_message(name: str) -> Any:
    """An empty message of TF Serving's configuration.

    Args:
        name: "BatchingParameters", "SSLConfig", "MonitoringConfig" or "ModelServerConfig".

    Returns:
        The message.

    Example:
        >>> new_message("SSLConfig").client_verify
        False
    """
    return _classes()[name]()


def parse_text(name: str, text: str) -> Any:
    """Read a message from its text.

    Args:
        name: of the message.
        text: as in the file that a flag of TF Serving names.

    Returns:
        The message.

    Raises:
        ValueError: naming the line, if the text is not such a message.

    Example:
        >>> parse_text("SSLConfig", "client_verify: true").client_verify
        True
    """
    try:
        return text_format.Parse(text, new_message(name))
    except text_format.ParseError as error:
        known = ", ".join(_MESSAGES[name])
        raise ValueError(
            f"This is not a {name} in protobuf's text format: {error}. Its fields are {known}."
        ) from error


def write_text(message: Any) -> str:
    """A message as text, one field in a line."""
    return text_format.MessageToString(message)


@functools.cache
def _classes() -> dict[str, Any]:
    package = "keras_vit.configuration"
    wrappers = wrappers_pb2.DESCRIPTOR
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers.serialized_pb)
    file = descriptor_pb2.FileDescriptorProto(
        name="keras_vit/configuration.proto",
        package=package,
        syntax="proto3",
        dependency=[wrappers.name],
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field_name, kind) in enumerate(fields.items(), 1):
            field = message.field.add(name=field_name, number=number)
            field.label = _FIELD.LABEL_REPEATED if kind[-1] == "*" else _FIELD.LABEL_OPTIONAL
            kind = kind.rstrip("*")
            field.type = _SCALARS.get(kind, _FIELD.TYPE_MESSAGE)
            if kind not in _SCALARS:
                origin = "google.protobuf" if kind in _WRAPPERS else package
                field.type_name = f".{origin}.{kind}"
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in _MESSAGES
    }
