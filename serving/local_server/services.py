"""The gRPC services, from a message to the function that answers it."""

from collections.abc import Callable
from typing import Any

import grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from serving.local_server.inference import classify, multi_inference, regress
from serving.local_server.manager import ModelManager, Version
from serving.local_server.model_config import parse_model_configs
from serving.local_server.predict import predict
from serving.local_server.status import StatusError, code_of, cut, invalid


def require_spec(request: Any) -> Any:
    """Get the model that a request names.

    Args:
        request: a message with `model_spec`.

    Returns:
        Its `ModelSpec`.

    Raises:
        StatusError: if there is none.
    """
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    return request.model_spec


def get_metadata(
    manager: ModelManager, request: get_model_metadata_pb2.GetModelMetadataRequest
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """Answer GetModelMetadata.

    Args:
        manager: has the models.
        request: the message.

    Returns:
        The signatures of the version asked for.

    Raises:
        StatusError: as TF Serving fails.
    """
    spec = require_spec(request)
    if not request.metadata_field:
        raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
    for name in request.metadata_field:
        if name != "signature_def":
            raise invalid(f"Metadata field {name} is not supported")
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    with manager.servable(spec) as servable:
        for name, signature in servable.signatures.items():
            signatures.signature_def[name].CopyFrom(signature)
        response.model_spec.name = spec.name
        response.model_spec.version.value = servable.version
    response.metadata["signature_def"].Pack(signatures)
    return response


def get_status(
    manager: ModelManager, request: get_model_status_pb2.GetModelStatusRequest
) -> get_model_status_pb2.GetModelStatusResponse:
    """Answer GetModelStatus. As on TF Serving, a label in the request is ignored.

    Args:
        manager: has the models.
        request: the message.

    Returns:
        The state of the version asked for, or of all, newest first.

    Raises:
        StatusError: if there is no such model or version.
    """
    spec = require_spec(request)
    versions = manager.versions(spec.name)
    if not versions:
        raise StatusError(
            grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {spec.name}"
        )
    if spec.HasField("version"):
        number = spec.version.value
        if number not in versions:
            raise StatusError(
                grpc.StatusCode.NOT_FOUND, f"Could not find version {number} of model {spec.name}"
            )
        versions = {number: versions[number]}
    response = get_model_status_pb2.GetModelStatusResponse()
    for number, entry in versions.items():
        _fill_status(response.model_version_status.add(), number, entry)
    return response


def _fill_status(status: Any, number: int, entry: Version) -> None:
    status.version = number
    status.state = entry.state.value
    status.status.SetInParent()
    if entry.error is not None:
        status.status.error_code = code_of(entry.error).value[0]
        status.status.error_message = cut(str(entry.error))


def _answer(context: grpc.ServicerContext, handle: Callable[[float | None], Any]) -> Any:
    """Run a handler with the time that is left, and end the call with its status if it fails."""
    remaining = context.time_remaining()
    try:
        if remaining is not None and remaining <= 0:
            raise StatusError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline passed while waiting")
        return handle(remaining)
    except StatusError as error:
        return context.abort(error.code, error.message)


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Answers about images and examples.

    Args:
        manager: has the models.
    """

    def __init__(self, manager: ModelManager):
        self._manager = manager

    def _infer(self, infer: Callable[..., Any], api: str, request: Any, context: Any) -> Any:
        def handle(timeout: float | None) -> Any:
            with (
                self._manager.metrics.request(request.model_spec.name, api, "GRPC"),
                self._manager.servable(require_spec(request)) as servable,
                self._manager.metrics.run(request.model_spec.name, api),
            ):
                return infer(servable, request, timeout)

        return _answer(context, handle)

    def Predict(self, request, context):  # noqa: N802, D102 - the service's own name
        return self._infer(predict, "Predict", request, context)

    def Classify(self, request, context):  # noqa: N802, D102
        return self._infer(classify, "Classify", request, context)

    def Regress(self, request, context):  # noqa: N802, D102
        return self._infer(regress, "Regress", request, context)

    def MultiInference(self, request, context):  # noqa: N802, D102
        metrics = self._manager.metrics

        def handle(timeout: float | None) -> Any:
            if not request.tasks:
                raise invalid("ModelSpec has no name specified.")
            with self._manager.servable(require_spec(request.tasks[0])) as servable:
                response = multi_inference(servable, request, timeout)
            name = request.tasks[0].model_spec.name
            examples = request.input.example_list.examples
            metrics.observe("request_example_counts", len(examples), model=name)
            metrics.count("request_example_count_total", len(examples), model=name)
            return response

        return _answer(context, handle)

    def GetModelMetadata(self, request, context):  # noqa: N802, D102
        return _answer(context, lambda _: get_metadata(self._manager, request))


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """Answers about the server's models, and changes them.

    Args:
        manager: has the models.
    """

    def __init__(self, manager: ModelManager):
        self._manager = manager

    def GetModelStatus(self, request, context):  # noqa: N802, D102
        return _answer(context, lambda _: get_status(self._manager, request))

    def HandleReloadConfigRequest(self, request, context):  # noqa: N802, D102
        def handle(_: float | None) -> Any:
            self._manager.reload(parse_model_configs(request.config))
            response = model_management_pb2.ReloadConfigResponse()
            response.status.SetInParent()
            return response

        return _answer(context, handle)
