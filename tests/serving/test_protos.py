"""Our copy of the wire format has TF Serving's field numbers and types."""

from importlib import import_module

import pytest

from serving.protos import serving_wire_pb2 as wire

MODULES = [
    *("framework.tensor_pb2", "framework.tensor_shape_pb2", "framework.types_pb2"),
    *("example.example_pb2", "example.feature_pb2", "protobuf.meta_graph_pb2"),
]
APIS = [
    *("model", "predict", "classification", "input", "get_model_metadata", "get_model_status"),
    "status",
]


def find(name):
    """Find TensorFlow's message or enum of this name."""
    modules = [f"tensorflow.core.{module}" for module in MODULES]
    modules += [f"tensorflow_serving.apis.{api}_pb2" for api in APIS]
    for module in map(import_module, modules):
        if hasattr(module, name):
            return getattr(module, name).DESCRIPTOR
    raise AssertionError(f"TensorFlow has no {name}")


def assert_part_of(ours, theirs):
    for field in ours.fields:
        twin = theirs.fields_by_name[field.name]
        assert field.number == twin.number, field.full_name
        assert field.is_repeated == twin.is_repeated, field.full_name
        # An enum of the original may be an int here; both are varints.
        if twin.enum_type is None:
            assert field.type == twin.type, field.full_name
    for nested in ours.nested_types:
        assert_part_of(nested, theirs.nested_types_by_name[nested.name])


@pytest.mark.parametrize("name", sorted(wire.DESCRIPTOR.message_types_by_name))
def test_messages(name):
    assert_part_of(wire.DESCRIPTOR.message_types_by_name[name], find(name))


def test_data_types():
    theirs = find("TensorProto").fields_by_name["dtype"].enum_type.values_by_name
    for name, number in wire.DataType.items():
        assert theirs[name].number == number
