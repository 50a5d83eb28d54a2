"""What goes over the wire: requests to build, answers to read.

Everything here is a pure function of its arguments. The two clients only send what `Call`s say and
hand the answers back to them, so that they cannot differ.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import Message

from serving.client.errors import FingerprintError, ServingError
from serving.client.results import ModelMetadata, Signature, TensorSpec, VersionStatus
from serving.protos import serving_wire_pb2 as wire
from serving.tensors import read_tensor, write_tensor

_FINGERPRINT = re.compile(r"preprocessing_([0-9a-f]{12})/")


@dataclass(frozen=True, slots=True)
class Method:
    """One remote procedure.

    Attributes:
        path: its full name.
        request: message class it takes.
        response: message class it answers.

    Example:
        >>> PREDICT.path.rpartition("/")[2]
        'Predict'
    """

    path: str
    request: type[Message]
    response: type[Message]


PREDICT = Method(
    "/tensorflow.serving.PredictionService/Predict", wire.PredictRequest, wire.PredictResponse
)
CLASSIFY = Method(
    "/tensorflow.serving.PredictionService/Classify",
    wire.ClassificationRequest,
    wire.ClassificationResponse,
)
METADATA = Method(
    "/tensorflow.serving.PredictionService/GetModelMetadata",
    wire.GetModelMetadataRequest,
    wire.GetModelMetadataResponse,
)
STATUS = Method(
    "/tensorflow.serving.ModelService/GetModelStatus",
    wire.GetModelStatusRequest,
    wire.GetModelStatusResponse,
)
METHODS = (PREDICT, CLASSIFY, METADATA, STATUS)


@dataclass(frozen=True, slots=True)
class Target:
    """Which model, and which version of it, a client asks.

    Attributes:
        model: its name on the server.
        version: its number; None for the newest.
        label: a version label of the server's configuration instead.

    Example:
        >>> str(Target("digits", version=3))
        "'digits' version 3"
    """

    model: str
    version: int | None = None
    label: str | None = None

    def __post_init__(self):
        if not self.model:
            raise ValueError("`model` is empty; give the name under which the server has the model")
        if self.version is not None and self.label is not None:
            raise ValueError("give `version` or `version_label`, not both")

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.model!r} version {self.version}"
        if self.label is not None:
            return f"{self.model!r} label {self.label!r}"
        return repr(self.model)

    def write(self, spec: Any, signature: str = "") -> None:
        """Fill a request's `model_spec`.

        Args:
            spec: the message to fill.
            signature: the signature to ask for.
        """
        spec.name = self.model
        spec.signature_name = signature
        if self.version is not None:
            spec.version.value = self.version
        if self.label is not None:
            spec.version_label = self.label


@dataclass(frozen=True, slots=True)
class Call:
    """One request and how to read its answer.

    Attributes:
        method: the procedure.
        request: its message.
        read: from the answering message to the results, in the order of `indices`.
        signature: the signature asked, for error messages.
        indices: positions of the results among the caller's images.

    Example:
        >>> status_call(Target("digits")).method is STATUS
        True
    """

    method: Method
    request: Any
    read: Callable[[Any], Any]
    signature: str = ""
    indices: tuple[int, ...] = ()


def predict_request(
    target: Target, signature: str, inputs: dict[str, Any], outputs: tuple[str, ...] = ()
) -> Any:
    """Build a Predict request.

    Args:
        target: the model to ask.
        signature: its signature.
        inputs: arrays by input name.
        outputs: names of the outputs wanted; all if empty.

    Returns:
        The message.

    Example:
        >>> request = predict_request(Target("m"), "add", {"a": np.ones(2)})
        >>> request.model_spec.name
        'm'
    """
    request = wire.PredictRequest(output_filter=outputs)
    target.write(request.model_spec, signature)
    for name, array in inputs.items():
        write_tensor(request.inputs[name], array)
    return request


def read_predict(response: Any) -> tuple[dict[str, np.ndarray], int]:
    """Read the answer to a Predict request.

    Args:
        response: the message.

    Returns:
        The outputs by name and the version that computed them.

    Raises:
        ServingError: if a tensor contradicts itself.

    Example:
        >>> read_predict(wire.PredictResponse())
        ({}, 0)
    """
    try:
        arrays = {name: read_tensor(proto) for name, proto in response.outputs.items()}
    except ValueError as error:
        raise ServingError(f"the server's answer cannot be read: {error}") from error
    return arrays, response.model_spec.version.value


def raw_call(
    target: Target, signature: str, inputs: dict[str, Any], outputs: tuple[str, ...]
) -> Call:
    """Ask any signature with any arrays.

    Args:
        target: the model to ask.
        signature: its signature.
        inputs: arrays by input name.
        outputs: names of the outputs wanted; all if empty.

    Returns:
        The call; it reads to arrays by output name.

    Example:
        >>> raw_call(Target("m"), "add", {"a": np.ones(2)}, ()).request.inputs["a"].dtype
        2
    """
    request = predict_request(target, signature, inputs, outputs)
    return Call(PREDICT, request, lambda response: read_predict(response)[0], signature)


def metadata_call(target: Target) -> Call:
    """Ask what the model can do.

    Args:
        target: the model to ask.

    Returns:
        The call; it reads to `ModelMetadata`.

    Example:
        >>> metadata_call(Target("digits")).request.model_spec.name
        'digits'
    """
    request = wire.GetModelMetadataRequest(metadata_field=["signature_def"])
    target.write(request.model_spec)
    return Call(METADATA, request, _read_metadata)


def status_call(target: Target) -> Call:
    """Ask how the model's versions are doing.

    Args:
        target: the model; without version or label, for all versions.

    Returns:
        The call; it reads to a list of `VersionStatus`, newest first.

    Example:
        >>> status_call(Target("digits", version=2)).request.model_spec.version.value
        2
    """
    request = wire.GetModelStatusRequest()
    target.write(request.model_spec)
    return Call(STATUS, request, _read_status)


def _read_metadata(response: Any) -> ModelMetadata:
    described = wire.SignatureDefMap.FromString(response.metadata["signature_def"].value)
    signatures = {
        name: Signature(_specs(entry.inputs), _specs(entry.outputs), entry.method_name)
        for name, entry in sorted(described.signature_def.items())
        if not name.startswith("__")  # the loader's own initialisation
    }
    # `keras-vit export` names the tensors preprocessing_FINGERPRINT/SIGNATURE/OUTPUT.
    names = [
        info.name for entry in described.signature_def.values() for info in entry.outputs.values()
    ]
    found = {match[1] for name in names if (match := _FINGERPRINT.match(name))}
    return ModelMetadata(
        response.model_spec.name,
        response.model_spec.version.value,
        signatures,
        found.pop() if len(found) == 1 else None,
    )


def check_fingerprint(metadata: ModelMetadata, required: str) -> None:
    """Refuse a model that treats images in another way.

    Args:
        metadata: of the served version.
        required: the fingerprint that is insisted on.

    Raises:
        FingerprintError: if it is another one, or none.

    Example:
        >>> check_fingerprint(ModelMetadata("digits", 1, {}, "0123456789ab"), "0123456789ab")
    """
    if metadata.preprocessing_fingerprint != required:
        raise FingerprintError(
            f"version {metadata.version} of {metadata.model!r} has the preprocessing fingerprint "
            f"{metadata.preprocessing_fingerprint}, but {required} is required: ask for the "
            "version or label that has it, export the model with that preprocessing, or change "
            "require_fingerprint"
        )


def _specs(infos: Any) -> dict[str, TensorSpec]:
    specs = {}
    for name, info in sorted(infos.items()):
        shape = tuple(dim.size for dim in info.tensor_shape.dim)
        known = not info.tensor_shape.unknown_rank
        dtype = wire.DataType.Name(info.dtype) if info.dtype in wire.DataType.values() else "other"
        specs[name] = TensorSpec(dtype, shape if known else None)
    return specs


def _read_status(response: Any) -> list[VersionStatus]:
    states = wire.ModelVersionStatus.State
    return [
        VersionStatus(entry.version, states.Name(entry.state), entry.status.error_message)
        for entry in response.model_version_status
    ]
