"""NumPy arrays to and from `TensorProto` messages, for the client and for the local server.

Both TensorFlow's own `TensorProto` and the client's copy of it fit: the fields have one name.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from serving.protos import serving_wire_pb2 as wire


class _Kind(NamedTuple):
    """How one data type lies in memory and in a message."""

    dtype: int  # the number of tensorflow.DataType
    stored: np.dtype  # of the raw bytes
    field: str  # the typed field


# bfloat16 is not a NumPy type; it is stored as its 16 bits.
_KINDS = {
    name: _Kind(dtype, np.dtype(stored), field)
    for name, dtype, stored, field in (
        ("float32", wire.DT_FLOAT, "<f4", "float_val"),
        ("float64", wire.DT_DOUBLE, "<f8", "double_val"),
        ("int32", wire.DT_INT32, "<i4", "int_val"),
        ("uint8", wire.DT_UINT8, "u1", "int_val"),
        ("int16", wire.DT_INT16, "<i2", "int_val"),
        ("int8", wire.DT_INT8, "i1", "int_val"),
        ("uint16", wire.DT_UINT16, "<u2", "int_val"),
        ("int64", wire.DT_INT64, "<i8", "int64_val"),
        ("bool", wire.DT_BOOL, "?", "bool_val"),
        ("complex64", wire.DT_COMPLEX64, "<c8", "scomplex_val"),
        ("complex128", wire.DT_COMPLEX128, "<c16", "dcomplex_val"),
        ("float16", wire.DT_HALF, "<f2", "half_val"),
        ("bfloat16", wire.DT_BFLOAT16, "<u2", "half_val"),
        ("uint32", wire.DT_UINT32, "<u4", "uint32_val"),
        ("uint64", wire.DT_UINT64, "<u8", "uint64_val"),
    )
}
_KIND_OF_DTYPE = {kind.dtype: kind for kind in _KINDS.values()}

# Field number and wire type of the two packed fields whose bytes are the array's own bytes.
_RAW_FIELDS = {"float_val": b"\x2a", "double_val": b"\x32"}

# A short message may stand for a large tensor, whose last value is repeated; not for any tensor: a
# few bytes would take all memory.
_MAX_EXPANDED_BYTES = 2**28


def write_tensor(proto: Any, array: Any, *, typed_fields: bool = False) -> None:
    """Fill an empty `TensorProto` from an array.

    Args:
        proto: the message to fill, of either package.
        array: numbers, or `bytes`/`str` in an object, bytes or text array; any shape.
        typed_fields: write `float_val`, `int_val`, … as TF Serving's answers do, instead of the raw
            `tensor_content`, which is smaller and faster. Text always goes to `string_val`.

    Raises:
        TypeError: if the array has a data type that TensorFlow does not know.

    Example:
        >>> proto = wire.TensorProto()
        >>> write_tensor(proto, np.zeros((2, 3), np.float32))
        >>> read_tensor(proto).shape
        (2, 3)
    """
    array = np.asarray(array)
    for size in array.shape:
        proto.tensor_shape.dim.add().size = size
    if array.dtype.kind in "OSU":
        proto.dtype = wire.DT_STRING
        proto.string_val.extend(
            value.encode() if isinstance(value, str) else value for value in array.ravel().tolist()
        )
        return
    kind = _KINDS.get(array.dtype.name)
    if kind is None:
        raise TypeError(
            f"an array of {array.dtype} cannot be sent: TensorFlow has no such type; "
            f"use one of {', '.join(_KINDS)} or bytes"
        )
    proto.dtype = kind.dtype
    raw = array.view(np.uint16) if array.dtype.name == "bfloat16" else array
    raw = np.ascontiguousarray(raw, kind.stored)
    if typed_fields:
        _write_typed(proto, raw, kind)
    else:
        proto.tensor_content = raw.tobytes()


def read_tensor(proto: Any) -> np.ndarray:
    """Read a `TensorProto` as strictly as TF Serving does.

    A typed field shorter than the shape repeats its last value (TensorFlow compresses constants
    that way). bfloat16 comes back as float32, which holds each of its values exactly.

    Args:
        proto: a message of either package.

    Returns:
        The array in the message's shape; text as an object array of `bytes`. It may be a read-only
        view on the message's bytes.

    Raises:
        ValueError: if data type, shape and content do not fit each other.

    Example:
        >>> read_tensor(wire.TensorProto(dtype=wire.DT_INT32, int_val=[7])).item()
        7
    """
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    if proto.tensor_shape.unknown_rank or any(size < 0 for size in shape):
        raise ValueError(f"a tensor needs a known shape, not {list(shape)}")
    count = math.prod(shape)
    if proto.dtype == wire.DT_STRING:
        _check_expansion(shape, 8 * count, proto)
        return _read_text(proto, count).reshape(shape)
    kind = _KIND_OF_DTYPE.get(proto.dtype)
    if kind is None:
        raise ValueError(f"tensors of data type number {proto.dtype} are not supported")
    _check_expansion(shape, kind.stored.itemsize * count, proto)
    content = proto.tensor_content  # once: each access copies it
    if content:
        if len(content) != count * kind.stored.itemsize:
            raise ValueError(
                f"tensor_content has {len(content)} bytes, but shape {list(shape)} "
                f"needs {count * kind.stored.itemsize}"
            )
        values = np.frombuffer(content, kind.stored)
    else:
        values = _fill_up(_read_typed(proto, kind), count)
    if proto.dtype == wire.DT_BFLOAT16:
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.reshape(shape)


def _check_expansion(shape: tuple[int, ...], size: int, proto: Any) -> None:
    """Refuse a shape of `size` bytes that is far larger than the message."""
    if size > _MAX_EXPANDED_BYTES and size > 8 * proto.ByteSize():
        raise ValueError(
            f"a tensor of shape {list(shape)} takes {size} bytes, but the message has only "
            f"{proto.ByteSize()}"
        )


def _write_typed(proto: Any, raw: np.ndarray, kind: _Kind) -> None:
    """Write into the typed field; floats as one block of bytes, 100 times faster than `extend`."""
    if raw.size == 0:
        return
    if raw.dtype.kind == "c":
        raw = raw.view(f"<f{raw.itemsize // 2}")
    tag = _RAW_FIELDS.get(kind.field)
    if tag is not None:
        content = raw.tobytes()
        proto.MergeFromString(tag + _varint(len(content)) + content)
    else:
        bits = raw.view(np.uint16) if kind.field == "half_val" else raw
        getattr(proto, kind.field).extend(bits.ravel().tolist())


def _read_typed(proto: Any, kind: _Kind) -> np.ndarray:
    field = getattr(proto, kind.field)
    if kind.field == "half_val":
        return np.array(field, np.int32).astype(np.uint16).view(kind.stored)  # their low bits
    if kind.field in ("scomplex_val", "dcomplex_val"):
        return np.array(field, f"<f{kind.stored.itemsize // 2}").view(kind.stored)
    # Through the field's own type first: a uint8 tensor's values come as int32.
    return np.array(field).astype(kind.stored) if len(field) else np.zeros(0, kind.stored)


def _read_text(proto: Any, count: int) -> np.ndarray:
    values = np.empty(count, object)
    if proto.tensor_content:
        strings = _split_text(proto.tensor_content, count)
    else:
        strings = list(proto.string_val[:count])
        strings += strings[-1:] * (count - len(strings)) or [b""] * (count - len(strings))
    values[:] = strings
    return values


def _split_text(content: bytes, count: int) -> list[bytes]:
    """Undo TensorFlow's packing of text: all lengths as varints, then all bytes."""
    lengths, position = [], 0
    for _ in range(count):
        length, shift = 0, 0
        while True:
            if position >= len(content):
                raise ValueError("tensor_content ends inside the lengths of its strings")
            byte = content[position]
            position += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        lengths.append(length)
    if len(content) - position != sum(lengths):
        raise ValueError("tensor_content does not have the length that its strings need")
    strings = []
    for length in lengths:
        strings.append(content[position : position + length])
        position += length
    return strings


def _fill_up(values: np.ndarray, count: int) -> np.ndarray:
    if values.size >= count:
        return values[:count]
    last = values[-1] if values.size else values.dtype.type(0)
    return np.concatenate([values, np.full(count - values.size, last, values.dtype)])


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])
