"""JSON bodies of the REST API to and from Predict requests, in TF Serving's two formats.

`{"instances": […]}` lists one entry per example (row format), `{"inputs": …}` gives whole tensors
(column format); `{"b64": "…"}` stands for bytes.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow_serving.apis import predict_pb2

from serving.local_server.json_values import (
    WHOLE,
    decode_base64,
    exceeds,
    is_base64,
    lossy,
    refused,
    wrong_type,
)
from serving.local_server.status import StatusError, invalid
from serving.tensors import read_tensor, write_tensor

_MAX_RANK = 64  # NumPy's
# Whole numbers by data type: what JSON may hold. Smaller ones are cut to their bits, as there.
_RANGES = {
    **dict.fromkeys(("int8", "uint8", "int16", "int32"), (-(2**31), 2**31 - 1)),
    "int64": (-(2**63), 2**63 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, 2**64 - 1),
}


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
    if not signature.inputs:
        name = request.model_spec.signature_name or "DEFAULT"
        raise invalid(f"Failed to get input map for signature: {name}")
    if "instances" in body and "inputs" in body:
        raise refused(
            body,
            "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ",
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
        StatusError: if row format is impossible because the outputs' batches differ, or JSON has
            nothing for their type.
    """
    columns = {name: _plain(name, read_tensor(proto)) for name, proto in response.outputs.items()}
    single = next(iter(columns.values())) if len(columns) == 1 else None
    if not row_format:
        return {"outputs": columns if single is None else single}
    rows = None
    for name, column in columns.items():
        if not isinstance(column, list):
            raise invalid(f"Tensor name: {name} has no shape information ")
        if rows is not None and len(column) != rows:
            raise invalid(
                f"Tensor name: {name} has inconsistent batch size: {len(column)} expecting: {rows}"
            )
        rows = len(column)
    if single is not None:
        return {"predictions": single}
    lines = zip(*columns.values(), strict=True)
    return {"predictions": [dict(zip(columns, line, strict=True)) for line in lines]}


# === Into arrays ===


def _rows(body: Mapping[str, Any], signature: SignatureDef) -> dict[str, np.ndarray]:
    instances = body["instances"]
    if not isinstance(instances, list):
        raise refused(body, "Excepting 'instances' to be an list/array")
    if not instances:
        raise refused(body, "No values in 'instances' array")
    if not isinstance(instances[0], dict) and len(signature.inputs) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map"
        )
    named = _is_named(instances[0])
    collected: dict[str, list[np.ndarray]] = {}
    for position, instance in enumerate(instances):
        if named and not _is_named(instance):
            raise invalid(f"Expecting object but got list at item {position} of input list")
        if not named and _is_named(instance):
            raise invalid(f"Expecting value/list but got object at item {position} of input list")
        values = instance if named else {min(signature.inputs): instance}
        for alias, value in values.items():
            try:
                _add_row(collected, alias, value, signature)
            except StatusError as error:
                key = f" key: {alias}" if named else ""
                raise invalid(
                    f"Failed to process element: {position}{key} of 'instances' list. "
                    f"Error: {error.code.name}: {error.message}"
                ) from error
        if named and set(values) != set(signature.inputs):
            keys = ",".join(sorted(signature.inputs))
            text = refused(instance, f"keys must be equal to: {keys}").message
            raise invalid(
                f"Failed to process element: {position} of 'instances' list. "
                f"{text.replace('JSON Value', 'JSON object', 1)}"
            )
    return {alias: np.stack(rows) for alias, rows in collected.items()}


def _is_named(instance: Any) -> bool:
    """Whether an instance is an object of inputs by name, not a plain value."""
    return isinstance(instance, dict) and not is_base64(instance)


def _add_row(
    collected: dict[str, list[np.ndarray]], alias: str, value: Any, signature: SignatureDef
) -> None:
    if alias not in signature.inputs:
        raise invalid(f"JSON object: does not have named input: {alias}")
    row = _array(value, signature.inputs[alias].dtype)
    rows = collected.setdefault(alias, [row])
    if row is rows[0]:
        return
    if row.size != rows[0].size:
        raise invalid(f"Expecting tensor size: {rows[0].size} but got: {row.size}")
    if row.shape != rows[0].shape:
        raise invalid(f"Expecting shape {_sizes(rows[0])} but got: {_sizes(row)}")
    rows.append(row)


def _sizes(array: np.ndarray) -> str:
    return f"[{','.join(map(str, array.shape))}]"


def _columns(inputs: Any, signature: SignatureDef) -> dict[str, np.ndarray]:
    if not _is_named(inputs):
        if len(signature.inputs) > 1:
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
    """A tensor of the signature's data type, as dense as its first elements say."""
    dtype = tf.dtypes.as_dtype(dtype_number)
    shape: list[int] = []
    first = value
    while isinstance(first, list):
        shape.append(len(first))
        first = first[0] if first else None
    if len(shape) > _MAX_RANK:
        raise invalid(f"A list of {len(shape)} levels: tensors have at most {_MAX_RANK}")
    leaves: list[Any] = []
    _collect(value, 0, shape, dtype, leaves)
    if dtype == tf.string:
        array = np.empty(len(leaves), object)
        array[:] = leaves
    elif dtype.is_integer:
        # Through 64 bits: a small type takes the lowest ones.
        wide = np.uint64 if dtype == tf.uint64 else np.int64
        array = np.array(leaves, wide).astype(dtype.as_numpy_dtype)
    else:
        array = np.array(leaves, dtype.as_numpy_dtype)
    return array.reshape(shape)


def _collect(
    value: Any, level: int, shape: Sequence[int], dtype: tf.DType, leaves: list[Any]
) -> None:
    """Append the leaves of nested lists, each checked, in order."""
    if not isinstance(value, list):
        if level != len(shape):
            raise refused(
                value,
                f"found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}",
            )
        leaves.append(_leaf(value, dtype))
        return
    if level >= len(shape):
        raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} "
            f"expected size: {shape[level]}"
        )
    if value and level == len(shape) - 1 and _are_plain_numbers(value, dtype):
        leaves.extend(value)
        return
    for item in value:
        _collect(item, level + 1, shape, dtype, leaves)


def _are_plain_numbers(values: list[Any], dtype: tf.DType) -> bool:
    """A quick look at a list, most often three channels: it needs no look at each number."""
    kinds = set(map(type, values))
    if dtype.name in _RANGES:
        low, high = _RANGES[dtype.name]
        return kinds == {int} and low <= min(values) and max(values) <= high
    limit = WHOLE.get(dtype.name)
    return (
        limit is not None
        and kinds <= {int, float}
        and -limit <= min(values)
        and max(values) <= limit
    )


def _leaf(value: Any, dtype: tf.DType) -> Any:
    """A JSON value as an element of a tensor; one of another type is refused."""
    name = types_pb2.DataType.Name(dtype.as_datatype_enum)[3:].lower()
    if dtype == tf.string:
        if isinstance(value, dict):
            if not is_base64(value):
                raise refused(value, "not formatted correctly for base64 data")
            return decode_base64(value)
        if not isinstance(value, str):
            raise wrong_type(value, name)
        return value.encode()
    if isinstance(value, dict):
        raise wrong_type(value, name)
    if dtype == tf.bool:
        if not isinstance(value, bool):
            raise wrong_type(value, name)
        return value
    if dtype.name in _RANGES:
        low, high = _RANGES[dtype.name]
        if type(value) is not int or not low <= value <= high:
            raise wrong_type(value, name)
        return value
    if dtype.name not in WHOLE:
        text = refused(value, f"to type: {name}").message
        raise StatusError(grpc.StatusCode.UNIMPLEMENTED, f"Conversion of {text}")
    if type(value) not in (int, float):
        raise wrong_type(value, name)
    if exceeds(value, dtype.name):
        raise lossy(value, name)
    return value


# === Out of arrays ===


def _plain(name: str, array: np.ndarray) -> Any:
    """Turn an output into what JSON can hold."""
    if array.dtype == object:
        # TF Serving's rule: the name says whether text is text or bytes.
        if name.endswith("_bytes"):
            return _map(array.tolist(), lambda item: {"b64": base64.b64encode(item).decode()})
        return _map(array.tolist(), lambda item: item.decode(errors="replace"))
    if array.dtype.kind == "c":
        raise invalid(f"Failed to write JSON value for tensor type: {array.dtype}")
    if array.dtype == np.float32:
        # Through text: float32 0.1 is 0.1, not 0.10000000149011612.
        return array.astype(str).astype(np.float64).tolist()
    return array.tolist()


def _map(value: Any, function: Any) -> Any:
    return [_map(item, function) for item in value] if isinstance(value, list) else function(value)
