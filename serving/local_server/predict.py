"""The Predict API: any signature, any tensors."""

from collections.abc import Iterable

import grpc
import ml_dtypes
import numpy as np
from tensorflow.core.framework import types_pb2
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow_serving.apis import predict_pb2

from serving.local_server.servable import DEFAULT_SIGNATURE, Servable
from serving.local_server.status import StatusError, invalid
from serving.tensors import read_tensor, write_tensor


def predict(
    servable: Servable, request: predict_pb2.PredictRequest, timeout: float | None
) -> predict_pb2.PredictResponse:
    """Answer a Predict request.

    Args:
        servable: the version that answers.
        request: the message.
        timeout: seconds that may be spent; None for no limit.

    Returns:
        The outputs, all or those of `output_filter`.

    Raises:
        StatusError: as TF Serving fails.
    """
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise StatusError(
            grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.'
        )
    feeds = input_feeds(signature, request)
    outputs = _outputs(signature, list(request.output_filter))
    values = servable.run(feeds, list(outputs.values()), timeout)

    response = predict_pb2.PredictResponse()
    response.model_spec.name = request.model_spec.name
    response.model_spec.signature_name = name
    response.model_spec.version.value = servable.version
    for alias, tensor_name in outputs.items():
        write_tensor(response.outputs[alias], values[tensor_name], typed_fields=True)
    return response


def input_feeds(
    signature: SignatureDef, request: predict_pb2.PredictRequest
) -> dict[str, np.ndarray]:
    """Match the request's tensors with the signature's inputs, filling in declared defaults.

    Args:
        signature: whose inputs are wanted.
        request: the message.

    Returns:
        Arrays by tensor name.

    Raises:
        StatusError: if they do not fit each other.
    """
    sent, known = set(request.inputs), set(signature.inputs)
    if len(sent) > len(known) or (len(sent) < len(known) and not signature.defaults):
        raise invalid(
            f"input size does not match signature: {len(sent)}!={len(known)} "
            f"len({_set(sent)}) != len({_set(known)}). "
            f"Sent extra: {_set(sent - known)}. Missing but required: {_set(known - sent)}."
        )
    feeds = {}
    for alias, info in signature.inputs.items():
        if alias in request.inputs:
            feeds[info.name] = _parse(alias, request.inputs[alias])
        elif alias in signature.defaults:
            feeds[info.name] = _parse(alias, signature.defaults[alias])
        else:
            raise invalid(
                f"Signature input alias: {alias}(feed name: {info.name}) not found in request and "
                f"no default value provided. Inputs expected to be in the request {_set(sent)}, "
                f"or default input alias set: {','.join(sorted(signature.defaults))}"
            )
    if not sent <= known:
        raise invalid(
            "Inputs contains invalid name. Used request inputs: "
            f"{','.join(sorted(sent & known))}, request input: {','.join(sorted(sent))}"
        )
    return feeds


def _parse(alias: str, proto: TensorProto) -> np.ndarray:
    try:
        array = read_tensor(proto)
    except ValueError as error:
        raise invalid(f"tensor parsing error: {alias}") from error
    return array.astype(ml_dtypes.bfloat16) if proto.dtype == types_pb2.DT_BFLOAT16 else array


def _outputs(signature: SignatureDef, output_filter: list[str]) -> dict[str, str]:
    """Choose the outputs to compute: tensor names by alias."""
    for position, alias in enumerate(output_filter):
        if alias not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {alias} "
                f"Outputs expected to be in the set {_set(signature.outputs)}."
            )
        if alias in output_filter[:position]:
            raise invalid(f"duplicate output tensor alias: {alias}")
    return {alias: signature.outputs[alias].name for alias in output_filter or signature.outputs}


def _set(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
