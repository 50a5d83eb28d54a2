"""JSON bodies of the REST API to and from requests, in TF Serving's two formats.

`{"instances": […]}` lists one entry per example (row format), `{"inputs": …}` gives whole tensors
(column format); `{"b64": "…"}` stands for bytes.
"""

import base64
import binascii
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.example.example_pb2 import Example
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow_serving.apis import input_pb2, predict_pb2

from serving.local_server.status import StatusError, invalid
from serving.tensors import read_tensor, write_tensor

_JSON_TYPES = {str: "String", bool: "Boolean", dict: "Object", list: "Array", type(None): "Null"}


def parse_body(body: bytes) -> dict[str, Any]:
    """Read a request's body.

    Args:
        body: JSON text.

    Returns:
        The object it holds.

    Raises:
        StatusError: if it is not a JSON object.

    Example:
        >>> parse_body(b'{"instances": [1]}')
        {'instances': [1]}
    """
    if not body.strip():
        raise invalid("JSON Parse error: The document is empty")
    try:
        parsed = json.loads(body)
    except ValueError as error:  # of the JSON or of its UTF-8
        raise invalid(f"JSON Parse error: {error}") from error
    if not isinstance(parsed, dict):
        raise invalid(f"JSON Value: {json.dumps(parsed)} Is not object")
    return parsed


def fill_inputs(
    request: predict_pb2.PredictRequest, body: Mapping[str, Any], signature: SignatureDef
) -> bool:
    """Fill a Predict request's tensors from a body.

    Args:
        request: the message to fill.
        body: the parsed body.
        signature: tells the inputs' names and data types.

    Returns:
        Whether the body is in row format, and the answer has to be.

    Raises:
        StatusError: as TF Serving fails.
    """
    if "instances" in body and "inputs" in body:
        raise invalid(
            f"JSON Value: {json.dumps(body)[:500]} Not formatted correctly expecting only one of "
            "'inputs' or 'instances' keys to exist "
        )
    if "instances" in body:
        arrays = _rows(body, signature)
    elif "inputs" in body:
        arrays = _columns(body["inputs"], signature)
    else:
        raise invalid("Missing 'inputs' or 'instances' key")
    for alias, array in arrays.items():
        write_tensor(request.inputs[alias], array)
    return "instances" in body


def render_outputs(response: predict_pb2.PredictResponse, row_format: bool) -> dict[str, Any]:
    """Turn a Predict answer into a body.

    Args:
        response: the message.
        row_format: as the request was.

    Returns:
        An object to write as JSON.

    Raises:
        StatusError: if row format is impossible because the outputs' batches differ.
    """
    columns = {name: _plain(name, read_tensor(proto)) for name, proto in response.outputs.items()}
    single = next(iter(columns.values())) if len(columns) == 1 else None
    if not row_format:
        return {"outputs": columns if single is None else single}
    if not all(isinstance(column, list) for column in columns.values()):
        raise invalid("An output has no batch dimension; use the 'inputs' format")
    if len({len(column) for column in columns.values()}) > 1:
        raise invalid("The outputs have inconsistent batch sizes; use the 'inputs' format")
    if single is not None:
        return {"predictions": single}
    rows = zip(*columns.values(), strict=True)
    return {"predictions": [dict(zip(columns, row, strict=True)) for row in rows]}


def fill_examples(target: input_pb2.Input, body: Mapping[str, Any]) -> None:
    """Fill a Classify or Regress request's examples from a body.

    Args:
        target: the message to fill.
        body: the parsed body, with `examples` and perhaps `context`.

    Raises:
        StatusError: as TF Serving fails.
    """
    examples = body.get("examples")
    if not isinstance(examples, list):
        raise invalid("Missing 'examples' key, or its value is not an array")
    if not examples:
        text = json.dumps(body, indent=4)
        raise invalid(f"JSON Value: {text} 'examples' value is an empty array")
    if "context" in body:
        listed: Any = target.example_list_with_context
        _fill_example(listed.context, body["context"])
    else:
        listed = target.example_list
    for features in examples:
        _fill_example(listed.examples.add(), features)


def _rows(body: Mapping[str, Any], signature: SignatureDef) -> dict[str, np.ndarray]:
    instances = body["instances"]
    if not isinstance(instances, list) or not instances:
        raise invalid(f"JSON Value: {json.dumps(body, indent=4)} No values in 'instances' array")
    named = isinstance(instances[0], dict) and set(instances[0]) != {"b64"}
    if not named and len(signature.inputs) != 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map"
        )
    collected: dict[str, list[np.ndarray]] = {alias: [] for alias in signature.inputs}
    for position, instance in enumerate(instances):
        failed = f"Failed to process element: {position} of 'instances' list. "
        if not named:
            instance = dict.fromkeys(signature.inputs, instance)
        if not isinstance(instance, dict) or set(instance) != set(collected):
            keys = ",".join(sorted(collected))
            raise invalid(
                f"{failed}JSON object: {json.dumps(instance)} keys must be equal to: {keys}"
            )
        for alias, rows in collected.items():
            try:
                row = _array(instance[alias], signature.inputs[alias].dtype)
                if rows and row.size != rows[0].size:
                    raise invalid(f"Expecting tensor size: {rows[0].size} but got: {row.size}")
            except StatusError as error:
                raise invalid(f"{failed}Error: INVALID_ARGUMENT: {error.message}") from error
            rows.append(row.reshape(rows[0].shape) if rows else row)
    return {alias: np.stack(rows) for alias, rows in collected.items()}


def _columns(inputs: Any, signature: SignatureDef) -> dict[str, np.ndarray]:
    named = isinstance(inputs, dict) and set(inputs) != {"b64"}
    if not named:
        if len(signature.inputs) != 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors "
                "required as per tensorinfo_map"
            )
        inputs = dict.fromkeys(signature.inputs, inputs)
    missing = sorted(set(signature.inputs) - set(inputs))
    if missing:
        raise invalid(f"Missing named input: {missing[0]} in 'inputs' object.")
    return {alias: _array(inputs[alias], info.dtype) for alias, info in signature.inputs.items()}


def _array(value: Any, dtype_number: int) -> np.ndarray:
    """Make a tensor of the signature's data type; JSON values of another type are refused."""
    dtype = tf.dtypes.as_dtype(dtype_number)
    leaves: list[Any] = []
    shape = _flatten(value, leaves)
    if dtype == tf.string:
        array = np.empty(len(leaves), object)
        array[:] = [_text(leaf) for leaf in leaves]
        return array.reshape(shape)
    accepted: tuple[type, ...] = (int, float) if dtype.is_floating else (int,)
    accepted = (bool,) if dtype.is_bool else accepted
    for leaf in leaves:
        if type(leaf) not in accepted:
            raise _wrong_type(leaf, types_pb2.DataType.Name(dtype_number)[3:].lower())
    try:
        return np.array(leaves, dtype.as_numpy_dtype).reshape(shape)
    except OverflowError as error:
        raise invalid(f"A value does not fit into {dtype.name}: {error}") from error


def _flatten(value: Any, leaves: list[Any]) -> tuple[int, ...]:
    """Append the leaves of nested lists; give the lists' common shape."""
    if not isinstance(value, list):
        leaves.append(value)
        return ()
    shapes = {_flatten(item, leaves) for item in value}
    if len(shapes) > 1:
        sizes = sorted(math.prod(shape) for shape in shapes)
        raise invalid(f"Expecting tensor size: {sizes[0]} but got: {sizes[-1]}")
    return (len(value), *(shapes.pop() if shapes else ()))


def _text(leaf: Any) -> bytes:
    if isinstance(leaf, str):
        return leaf.encode()
    if isinstance(leaf, dict) and set(leaf) == {"b64"} and isinstance(leaf["b64"], str):
        try:
            return base64.b64decode(leaf["b64"], validate=True)
        except binascii.Error as error:
            raise invalid("Unable to base64 decode") from error
    raise _wrong_type(leaf, "string")


def _wrong_type(leaf: Any, expected: str) -> StatusError:
    kind = _JSON_TYPES.get(type(leaf), "Number")
    return invalid(
        f"JSON Value: {json.dumps(leaf)} Type: {kind} is not of expected type: {expected}"
    )


def _fill_example(example: Example, features: Any) -> None:
    if not isinstance(features, dict):
        raise invalid(f"JSON Value: {json.dumps(features)[:500]} Is not object")
    for name, value in features.items():
        values = value if isinstance(value, list) else [value]
        feature = example.features.feature[name]
        kinds = {type(item) for item in values}
        if kinds <= {int}:
            feature.int64_list.value.extend(values)
        elif kinds <= {int, float}:
            feature.float_list.value.extend(values)
        else:
            feature.bytes_list.value.extend(_text(item) for item in values)


def _plain(name: str, array: np.ndarray) -> Any:
    """Turn an output into what JSON can hold."""
    if array.dtype == object:
        # TF Serving's rule: the name says whether text is text or bytes.
        if name.endswith("_bytes"):
            return _map(array.tolist(), lambda item: {"b64": base64.b64encode(item).decode()})
        return _map(array.tolist(), lambda item: item.decode(errors="replace"))
    if array.dtype == np.float32:
        # Through text: float32 0.1 is 0.1, not 0.10000000149011612.
        return array.astype(str).astype(np.float64).tolist()
    return array.tolist()


def _map(value: Any, function: Any) -> Any:
    return [_map(item, function) for item in value] if isinstance(value, list) else function(value)
