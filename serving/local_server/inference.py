"""The APIs that take `tf.Example`s: Classify, Regress and MultiInference."""

from collections.abc import Callable, Sequence
from typing import Any

import grpc
import numpy as np
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    input_pb2,
    regression_pb2,
)

from serving.local_server.servable import DEFAULT_SIGNATURE, Servable
from serving.local_server.status import StatusError, invalid

_INPUTS, _CLASSES, _SCORES, _OUTPUTS = "inputs", "classes", "scores", "outputs"


def classify(
    servable: Servable, request: classification_pb2.ClassificationRequest, timeout: float | None
) -> classification_pb2.ClassificationResponse:
    """Answer a Classify request.

    Args:
        servable: the version that answers.
        request: the message.
        timeout: seconds that may be spent; None for no limit.

    Returns:
        Labels and scores of each example.

    Raises:
        StatusError: as TF Serving fails.
    """
    signature = _signature(servable, request.model_spec, "No signature was found with the name: ")
    tensors = _classify_tensors(signature)
    examples, values = _run(servable, [signature], tensors, request.input, timeout)
    response = classification_pb2.ClassificationResponse()
    _fill_spec(response.model_spec, request.model_spec, servable)
    _fill_classes(response.result, signature, len(examples), values)
    return response


def regress(
    servable: Servable, request: regression_pb2.RegressionRequest, timeout: float | None
) -> regression_pb2.RegressionResponse:
    """Answer a Regress request.

    Args:
        servable: the version that answers.
        request: the message.
        timeout: seconds that may be spent; None for no limit.

    Returns:
        One number per example.

    Raises:
        StatusError: as TF Serving fails.
    """
    signature = _signature(servable, request.model_spec, "No signature was found with the name: ")
    tensors = _regress_tensors(signature)
    examples, values = _run(servable, [signature], tensors, request.input, timeout)
    response = regression_pb2.RegressionResponse()
    _fill_spec(response.model_spec, request.model_spec, servable)
    _fill_regressions(response.result, signature, len(examples), values)
    return response


def multi_inference(
    servable: Servable, request: inference_pb2.MultiInferenceRequest, timeout: float | None
) -> inference_pb2.MultiInferenceResponse:
    """Answer a MultiInference request: several signatures over the same examples in one run.

    Args:
        servable: the version that answers.
        request: the message.
        timeout: seconds that may be spent; None for no limit.

    Returns:
        One result per task, in order.

    Raises:
        StatusError: as TF Serving fails.
    """
    jobs: list[tuple[Any, SignatureDef, Callable[..., None], str]] = []
    tensors: list[str] = []
    seen: set[str] = set()
    for task in request.tasks:
        if not task.model_spec.name:
            raise invalid("Found ModelSpec with an empty model name.")
        if task.model_spec.name != request.tasks[0].model_spec.name:
            raise invalid(
                "All ModelSpecs in a MultiInferenceRequest must access the same model name."
            )
        name = task.model_spec.signature_name or DEFAULT_SIGNATURE
        if name in seen:
            raise invalid(f"Duplicate evaluation of signature: {name}")
        seen.add(name)
        unknown = "Requested signature not found in model graph: "
        signature = _signature(servable, task.model_spec, unknown)
        if task.method_name not in _KINDS:
            raise StatusError(
                grpc.StatusCode.UNIMPLEMENTED,
                f"Unsupported signature method_name: {task.method_name}",
            )
        tensors_of, fill, field = _KINDS[task.method_name]
        tensors += tensors_of(signature)
        jobs.append((task, signature, fill, field))

    signatures = [signature for _, signature, _, _ in jobs]
    examples, values = _run(servable, signatures, tensors, request.input, timeout)
    response = inference_pb2.MultiInferenceResponse()
    for task, signature, fill, field in jobs:
        result = response.results.add()
        _fill_spec(result.model_spec, task.model_spec, servable)
        fill(getattr(result, field), signature, len(examples), values)
    return response


def _signature(servable: Servable, spec: Any, unknown: str) -> SignatureDef:
    name = spec.signature_name or DEFAULT_SIGNATURE
    if name not in servable.signatures:
        raise invalid(unknown + name)
    return servable.signatures[name]


def _fill_spec(target: Any, asked: Any, servable: Servable) -> None:
    target.name = asked.name
    target.signature_name = asked.signature_name or DEFAULT_SIGNATURE
    target.version.value = servable.version


def _classify_tensors(signature: SignatureDef) -> list[str]:
    """Check that a signature has the shape of a classifier; give its output tensors' names."""
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if len(signature.outputs) not in (1, 2):
        raise invalid(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    if _INPUTS not in signature.inputs:
        raise invalid(f"No classification inputs found in SignatureDef: {signature}")
    names = [
        signature.outputs[alias].name for alias in (_CLASSES, _SCORES) if alias in signature.outputs
    ]
    if not names:
        raise invalid(
            "Expected classification signature outputs to contain at least one of "
            f'"{_CLASSES}" or "{_SCORES}". Signature was: {signature}'
        )
    return names


def _regress_tensors(signature: SignatureDef) -> list[str]:
    """Check that a signature has the shape of a regressor; give its output tensor's name."""
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if len(signature.outputs) != 1:
        raise invalid("Expected one output Tensor.")
    if _INPUTS not in signature.inputs:
        raise invalid(f"No regression inputs found in SignatureDef: {signature}")
    if _OUTPUTS not in signature.outputs:
        raise invalid(f"No regression outputs found in SignatureDef: {signature}")
    return [signature.outputs[_OUTPUTS].name]


def _run(
    servable: Servable,
    signatures: Sequence[SignatureDef],
    tensors: Sequence[str],
    given: input_pb2.Input,
    timeout: float | None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Feed the serialized examples to every signature's input and compute the tensors."""
    examples = _serialized_examples(given)  # [N]
    if not examples.size:
        raise invalid("Input is empty.")
    feeds = {signature.inputs[_INPUTS].name: examples for signature in signatures}
    return examples, servable.run(feeds, tensors, timeout)


def _serialized_examples(given: input_pb2.Input) -> np.ndarray:
    if given.WhichOneof("kind") == "example_list_with_context":
        listed = given.example_list_with_context
        # Parsing joined messages merges them, and an example's own features come last and win.
        context = listed.context.SerializeToString()
        strings = [context + example.SerializeToString() for example in listed.examples]
    else:
        strings = [example.SerializeToString() for example in given.example_list.examples]
    examples = np.empty(len(strings), object)  # [N]
    examples[:] = strings
    return examples


def _fill_classes(
    result: Any, signature: SignatureDef, count: int, values: dict[str, np.ndarray]
) -> None:
    expected = {_CLASSES: (types_pb2.DT_STRING, object), _SCORES: (types_pb2.DT_FLOAT, np.float32)}
    columns = {}
    for alias, (dtype, stored) in expected.items():
        if alias not in signature.outputs:
            continue
        array = values[signature.outputs[alias].name]  # [N, K]
        if array.ndim != 2:
            raise invalid(
                "Expected Tensor shape: [batch_size num_classes] but got "
                f"[{','.join(map(str, array.shape))}]"
            )
        if array.dtype != stored:
            raise invalid(
                f"Expected {alias} Tensor of {types_pb2.DataType.Name(dtype)}. "
                f"Got: {types_pb2.DataType.Name(signature.outputs[alias].dtype)}"
            )
        if len(array) != count:
            raise invalid(f"Expected {alias} output batch size of {count}. Got: {len(array)}")
        columns[alias] = array.tolist()
    widths = dict.fromkeys(len(rows[0]) for rows in columns.values())
    if len(widths) > 1:
        sizes = " vs. ".join(map(str, widths))
        raise invalid(f"Tensors class and score should match in dim_size(1). Got {sizes}")
    for row in range(count):
        classes = result.classifications.add().classes
        for column in range(*widths):
            entry = classes.add()
            if _CLASSES in columns:
                entry.label = columns[_CLASSES][row][column].decode(errors="replace")
            if _SCORES in columns:
                entry.score = columns[_SCORES][row][column]


def _fill_regressions(
    result: Any, signature: SignatureDef, count: int, values: dict[str, np.ndarray]
) -> None:
    array = values[signature.outputs[_OUTPUTS].name]  # [N] or [N, 1]
    if not (array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)):
        raise invalid(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got "
            f"[{','.join(map(str, array.shape))}]"
        )
    if len(array) != count:
        raise invalid(f"Input batch size did not match output batch size: {count} vs. {len(array)}")
    if array.dtype != np.float32:
        dtype = types_pb2.DataType.Name(signature.outputs[_OUTPUTS].dtype)
        raise invalid(f"Expected output Tensor of DT_FLOAT.  Got: {dtype}")
    for value in array.ravel().tolist():
        result.regressions.add().value = value


_KINDS = {
    "tensorflow/serving/classify": (_classify_tensors, _fill_classes, "classification_result"),
    "tensorflow/serving/regress": (_regress_tensors, _fill_regressions, "regression_result"),
}
