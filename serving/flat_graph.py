"""Operations of called functions in the place of the calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tensorflow.core.framework import graph_pb2, node_def_pb2
from tensorflow.python.framework import op_def_registry

_CALLS = ("PartitionedCall", "StatefulPartitionedCall")


class Body(NamedTuple):
    """What a call of a function stands for.

    Args:
        nodes: its operations, each after those that it needs, without those of the inputs.
        inputs: names of the tensors that a call gives.
        outputs: names of the tensors that a call gets.
    """

    nodes: list[Any]
    inputs: list[str]
    outputs: list[str]


def bodies(functions: Iterable[Any]) -> dict[str, Body]:
    """What calls of functions stand for, with operations that repeat others left out.

    Args:
        functions: concrete functions that change no variable.

    Returns:
        A `Body` for each, by the function's name.

    Example:
        >>> import tensorflow as tf
        >>> spec = [tf.TensorSpec([None])]
        >>> twice = tf.function(lambda x: (x + 1) * (x + 1), input_signature=spec)
        >>> (body,) = bodies([twice.get_concrete_function()]).values()
        >>> [node.op for node in body.nodes]
        ['Const', 'AddV2', 'Mul', 'Identity']
    """
    found = {}
    for function in functions:
        graph = function.graph
        inputs = [tensor.name for tensor in graph.inputs]
        nodes = [node for node in graph.as_graph_def().node if f"{node.name}:0" not in inputs]
        nodes, rename = _without_repetitions(nodes)
        outputs = [rename(tensor.name) for tensor in graph.outputs]
        found[function.name.decode()] = Body(nodes, inputs, outputs)
    return found


def flatten(definition: Any, called: Mapping[str, Body]) -> Any:
    """Write out the calls of some functions.

    Args:
        definition: a GraphDef, each node after those that it needs, as a traced function's is.
        called: from `bodies`; calls of other functions stay what they are.

    Returns:
        The same graph without devices and without calls of these functions, whose operations are
        named after the call.

    Raises:
        ValueError: if such a call waits for operations whose tensors it does not take.

    Example:
        >>> import tensorflow as tf
        >>> spec = [tf.TensorSpec([None])]
        >>> double = tf.function(lambda x: 2 * x, input_signature=spec).get_concrete_function()
        >>> outer = tf.function(lambda x: double(x) + 1, input_signature=spec)
        >>> graph = outer.get_concrete_function().graph.as_graph_def()
        >>> [node.op for node in flatten(graph, bodies([double])).node]
        ['Placeholder', 'Const', 'Mul', 'Identity', 'Const', 'AddV2', 'Identity']
    """
    flat = graph_pb2.GraphDef(versions=definition.versions)
    functions = definition.library.function
    flat.library.function.extend(f for f in functions if f.signature.name not in called)
    gotten: dict[str, str] = {}  # the tensors of calls
    # Functions that change nothing need not be waited for.
    waits = {f"^{node.name}" for node in definition.node if _body(node, called)}

    def rename(name: str) -> str:
        return gotten.get(_full(name), name)

    for node in definition.node:
        copy = _copy(node, rename)
        for wait in waits.intersection(copy.input):
            copy.input.remove(wait)
        body = _body(node, called)
        if body is None:
            flat.node.append(copy)
            continue
        if more := copy.input[len(body.inputs) :]:
            raise ValueError(
                f"The call {node.name} waits for {', '.join(more)}, which is not written out: let "
                f"one of its inputs wait instead, or leave its function a function."
            )
        given = dict(zip(body.inputs, copy.input, strict=True))
        flat.node.extend(_inside(inner, f"{node.name}/", given) for inner in body.nodes)
        gotten |= {f"{node.name}:{i}": f"{node.name}/{n}" for i, n in enumerate(body.outputs)}
    return flat


def _body(node: Any, called: Mapping[str, Body]) -> Body | None:
    """What a node stands for, if it is a call that is to be written out."""
    return called.get(node.attr["f"].func.name) if node.op in _CALLS else None


def _inside(node: Any, prefix: str, given: Mapping[str, str]) -> Any:
    """An operation of a function in the graph of a call."""

    def rename(name: str) -> str:
        return f"^{prefix}{name[1:]}" if name[0] == "^" else given.get(_full(name), prefix + name)

    copy = _copy(node, rename)
    copy.name = prefix + node.name
    return copy


def _without_repetitions(nodes: Sequence[Any]) -> tuple[list[Any], Callable[[str], str]]:
    """Operations of which none computes what another does, and what became of tensors' names.

    Two streams and many blocks say the same constants and shapes, and read the same weights.
    """
    kept: list[Any] = []
    first: dict[bytes, str] = {}
    same: dict[str, str] = {}  # operations by their repetitions

    def rename(name: str) -> str:
        operation, colon, output = name.lstrip("^").partition(":")
        return name[: name[0] == "^"] + same.get(operation, operation) + colon + output

    for node in nodes:
        copy = _copy(node, rename)
        definition = op_def_registry.get(node.op)
        if definition is not None and (not definition.is_stateful or node.op == "ReadVariableOp"):
            copy.name = ""
            known = first.setdefault(copy.SerializeToString(deterministic=True), node.name)
            if known != node.name:
                same[node.name] = known
                continue
            copy.name = node.name
        kept.append(copy)
    return kept, rename


def _copy(node: Any, rename: Callable[[str], str]) -> Any:
    """A node with its inputs renamed, for any device."""
    copy = node_def_pb2.NodeDef()
    copy.CopyFrom(node)
    copy.device = ""
    del copy.input[:]
    copy.input.extend(map(rename, node.input))
    return copy


def _full(name: str) -> str:
    """A node's first output is called as the node is, or with its number."""
    return name if ":" in name or name[0] == "^" else f"{name}:0"
