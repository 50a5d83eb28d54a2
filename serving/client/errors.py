"""What can go wrong between a client and its server, each with the next step to take."""

from typing import Any

import grpc

# How Predict and Classify say it.
_NO_SIGNATURE = ("Serving signature key", "No signature was found with the name")


class ServingError(Exception):
    """Base of every error that the clients raise.

    Attributes:
        code: name of the gRPC status, such as `"NOT_FOUND"`; empty if nothing was sent.
        details: the server's own words; empty if nothing was sent.

    Example:
        >>> str(ServingError("no answer"))
        'no answer'
    """

    def __init__(self, message: str, *, code: str = "", details: str = ""):
        super().__init__(message)
        self.code = code
        self.details = details


class ServerUnavailableError(ServingError):
    """Nothing answers at the address."""


class ModelNotFoundError(ServingError):
    """The server does not serve this model, or not this version of it."""


class SignatureNotFoundError(ServingError):
    """The model has no such signature."""


class InvalidRequestError(ServingError):
    """The server refused the request's content."""


class DeadlineExceededError(ServingError):
    """The server did not answer within the timeout."""


class ServerOverloadedError(ServingError):
    """The server has no room for the request, or the message is too large for it."""


class FingerprintError(ServingError):
    """The served model treats images in another way than the client insists on."""


class ImageInputError(ServingError):
    """An image was given in a form that cannot be sent; nothing was sent."""


class MissingImageError(ImageInputError):
    """An image file does not exist or is not a file; nothing was sent."""


def from_rpc_error(
    error: Any, *, address: str, model: str, signature: str, timeout: float
) -> ServingError:
    """Turn a failed call into the error that says what to do.

    Args:
        error: the `grpc.RpcError` of the call, with `code()` and `details()`.
        address: where the call went, HOST:PORT.
        model: the model that was asked, with its version where one was asked for.
        signature: the signature that was asked; empty for status and metadata.
        timeout: the call's deadline in seconds.

    Returns:
        The error to raise.

    Example:
        `raise from_rpc_error(error, address="localhost:8500", model="digits", signature="",
        timeout=30) from error`
    """
    code, details = error.code(), error.details() or ""
    kind: type[ServingError] = ServingError
    message = f"{address} answered {code.name}: {details}"
    if code is grpc.StatusCode.UNAVAILABLE:
        kind = ServerUnavailableError
        message = (
            f"no server answers at {address}. Start one with `keras-vit serve BASE --port PORT`, "
            "or check host, port (the gRPC port, usually 8500, not the REST port 8501) and TLS. "
            f"The connection said: {details}"
        )
    elif code is grpc.StatusCode.CANCELLED and "Channel closed" not in details:
        # Not by us. So gRPC's server ends what it was about to take up when it shuts down.
        kind = ServerUnavailableError
        message = (
            f"{address} ended the request before it was answered ({details}): it is shutting down, "
            "or something on the way cut it off. Ask again."
        )
    elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
        kind = DeadlineExceededError
        message = (
            f"{address} did not answer within {timeout:g} s. Give a longer `timeout`, send fewer "
            "images per request (`max_batch_size`), or check whether the server is overloaded."
        )
    elif code is grpc.StatusCode.NOT_FOUND:
        kind = ModelNotFoundError
        message = (
            f"{address} does not serve model {model}: {details}. Check the model's name (the "
            "server's --name; by default the name of its base directory), that the version exists "
            "as BASE/NUMBER/, and with `Client.status()` that it is AVAILABLE."
        )
    elif details.startswith(_NO_SIGNATURE):
        kind = SignatureNotFoundError
        message = (
            f"model {model} at {address} does not answer signature {signature!r}: {details} "
            "`Client.metadata()` lists its signatures; models from `keras-vit export` have all."
        )
    elif code is grpc.StatusCode.INVALID_ARGUMENT:
        kind = InvalidRequestError
        message = f"model {model} at {address} refused the request: {details}"
    elif code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        kind = ServerOverloadedError
        message = (
            f"{address} has no room for the request: {details}. Send fewer images per request "
            "(`max_batch_size`) or fewer requests at a time."
        )
    elif code is grpc.StatusCode.UNIMPLEMENTED:
        message = f"{address} speaks gRPC but is not a TF Serving server: {details}"
    return kind(message, code=code.name, details=details)
