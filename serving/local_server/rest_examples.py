"""JSON bodies of the REST API to the `tf.Example`s of Classify and Regress."""

from collections.abc import Mapping
from typing import Any

from tensorflow.core.example.example_pb2 import Example
from tensorflow_serving.apis import input_pb2

from serving.local_server.json_values import (
    decode_base64,
    exceeds,
    is_base64,
    kind,
    lossy,
    refused,
)
from serving.local_server.status import invalid

_KINDS = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}


def fill_examples(target: input_pb2.Input, body: Mapping[str, Any]) -> None:
    """Fill a Classify or Regress request's examples from a body.

    Args:
        target: the message to fill.
        body: the parsed body, with `examples` and perhaps `context`.

    Raises:
        StatusError: as TF Serving fails.
    """
    listed: Any = target.example_list
    if "context" in body:
        listed = target.example_list_with_context
        _fill_example(listed.context, body["context"])
    if "examples" not in body:
        raise refused(body, "When method is classify, key 'examples' is expected and was not found")
    examples = body["examples"]
    if not isinstance(examples, list):
        raise refused(body, "Expecting 'examples' value to be an list/array")
    if not examples:
        raise refused(body, "'examples' value is an empty array")
    for features in examples:
        _fill_example(listed.examples.add(), features)


def _fill_example(example: Example, features: Any) -> None:
    if not isinstance(features, dict):
        raise invalid(f"Example must be JSON object but got JSON {kind(features)}")
    for name, value in features.items():
        feature = example.features.feature[name]  # is there even if it stays empty
        for item in value if isinstance(value, list) else [value]:
            field, element = _element(name, item)
            held = feature.WhichOneof("kind")
            if held not in (None, field):
                raise invalid(
                    f"Unexpected element type in feature: {name} expecting type: {_KINDS[held]}"
                )
            getattr(feature, field).value.append(element)


def _element(name: str, item: Any) -> tuple[str, Any]:
    """Which list of a feature a JSON value belongs to, and as what."""
    if isinstance(item, bool):
        return "int64_list", int(item)
    if isinstance(item, str):
        return "bytes_list", item.encode()
    if is_base64(item):
        return "bytes_list", decode_base64(item)
    if isinstance(item, int) and -(2**63) <= item < 2**64:
        if item >= 2**63:
            raise invalid(f"Feature: {name} has uint64 element. Only int64 is supported.")
        return "int64_list", item
    if not isinstance(item, int | float):
        raise invalid(f"Feature: {name} has element with unexpected JSON type: {kind(item)}")
    if exceeds(item, "float32"):
        raise lossy(item, "float")
    return "float_list", float(item)
