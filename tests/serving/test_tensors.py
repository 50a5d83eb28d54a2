"""Arrays to and from messages, ours and TensorFlow's."""

import numpy as np
import pytest

from serving.protos import serving_wire_pb2 as wire
from serving.tensors import read_tensor, write_tensor

DTYPES = (
    *("float16", "float32", "float64", "complex64", "complex128", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)


@pytest.mark.parametrize("typed_fields", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 4)])
def test_round_trip_through_tensorflow(dtype, shape, typed_fields):
    import tensorflow as tf
    from tensorflow.core.framework.tensor_pb2 import TensorProto

    array = (np.arange(np.prod(shape, dtype=int)) % 5).reshape(shape).astype(dtype)
    ours = wire.TensorProto()
    write_tensor(ours, array, typed_fields=typed_fields)
    np.testing.assert_array_equal(read_tensor(ours), array, strict=True)
    theirs = TensorProto.FromString(ours.SerializeToString())
    np.testing.assert_array_equal(tf.make_ndarray(theirs), array, strict=True)
    np.testing.assert_array_equal(read_tensor(tf.make_tensor_proto(array)), array, strict=True)


@pytest.mark.parametrize("typed_fields", [False, True])
def test_bfloat16_is_read_as_float32(typed_fields):
    import ml_dtypes

    array = np.array([1.5, -2, 0.125], ml_dtypes.bfloat16)
    proto = wire.TensorProto()
    write_tensor(proto, array, typed_fields=typed_fields)
    assert proto.dtype == wire.DT_BFLOAT16
    np.testing.assert_array_equal(read_tensor(proto), array.astype(np.float32), strict=True)


def test_text_keeps_zero_bytes():
    proto = wire.TensorProto()
    write_tensor(proto, np.array([[b"a\0", b""], ["é", b"\0"]], object))
    assert read_tensor(proto).tolist() == [[b"a\0", b""], ["é".encode(), b"\0"]]


def test_text_in_tensor_content():
    proto = wire.TensorProto(dtype=wire.DT_STRING)
    proto.tensor_shape.dim.add().size = 2
    proto.tensor_content = b"\x80\x01\x02" + b"x" * 128 + b"yz"
    assert read_tensor(proto).tolist() == [b"x" * 128, b"yz"]


def test_a_short_field_repeats_its_last_value():
    proto = wire.TensorProto(dtype=wire.DT_FLOAT, float_val=[1, 2])
    proto.tensor_shape.dim.add().size = 4
    np.testing.assert_array_equal(read_tensor(proto), [1, 2, 2, 2])


@pytest.mark.parametrize(
    ("proto", "words"),
    [
        (wire.TensorProto(), "data type number 0"),
        (wire.TensorProto(dtype=wire.DT_FLOAT, tensor_content=b"abc"), "3 bytes"),
        (
            wire.TensorProto(
                dtype=wire.DT_FLOAT, tensor_shape={"dim": [{"size": -1}]}, float_val=[1]
            ),
            "known shape",
        ),
        (
            wire.TensorProto(dtype=wire.DT_FLOAT, tensor_shape={"dim": [{"size": 2**50}]}),
            "but the message has only",
        ),
        (
            wire.TensorProto(
                dtype=wire.DT_STRING, tensor_shape={"dim": [{"size": 2}]}, tensor_content=b"\x05"
            ),
            "ends inside",
        ),
    ],
)
def test_what_does_not_fit_is_refused(proto, words):
    with pytest.raises(ValueError, match=words):
        read_tensor(proto)


def test_types_that_tensorflow_does_not_know():
    with pytest.raises(TypeError, match="datetime64"):
        write_tensor(wire.TensorProto(), np.array(["2020-01-01"], "datetime64[D]"))


def test_bits_of_half_precision_are_the_low_ones():
    proto = wire.TensorProto(dtype=wire.DT_HALF, half_val=[0x3C00, 0x13C00, -1])
    proto.tensor_shape.dim.add().size = 3
    values = read_tensor(proto)
    assert values[:2].tolist() == [1.0, 1.0]
    assert np.isnan(values[2])
