"""Clients of TF Serving and of the local server, without TensorFlow."""

from serving.client.async_client import AsyncClient
from serving.client.channel import TLS
from serving.client.errors import (
    DeadlineExceededError,
    FingerprintError,
    ImageInputError,
    InvalidRequestError,
    MissingImageError,
    ModelNotFoundError,
    ServerOverloadedError,
    ServerUnavailableError,
    ServingError,
    SignatureNotFoundError,
)
from serving.client.results import (
    AttentionMap,
    Embedding,
    ModelMetadata,
    Prediction,
    Probabilities,
    Signature,
    TensorSpec,
    VersionStatus,
)
from serving.client.streams import Failure
from serving.client.sync_client import Client

__all__ = [
    "TLS",
    "AsyncClient",
    "AttentionMap",
    "Client",
    "DeadlineExceededError",
    "Embedding",
    "Failure",
    "FingerprintError",
    "ImageInputError",
    "InvalidRequestError",
    "MissingImageError",
    "ModelMetadata",
    "ModelNotFoundError",
    "Prediction",
    "Probabilities",
    "ServerOverloadedError",
    "ServerUnavailableError",
    "ServingError",
    "Signature",
    "SignatureNotFoundError",
    "TensorSpec",
    "VersionStatus",
]
