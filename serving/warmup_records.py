"""Requests that a server replays before a new version goes into service.

TF Serving builds an executor for each signature at its first request, and oneDNN, XLA or cuDNN plan
for each batch size: without warm-up the first callers wait for that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2, predict_pb2, prediction_log_pb2

from serving.tensors import write_tensor

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
MAX_RECORDS = 1000  # TF Serving refuses a version with more


def warmup_image(height: int, width: int) -> bytes:
    r"""A JPEG of colour gradients: small, and decoded like any other.

    Args:
        height: in pixels.
        width: in pixels.

    Returns:
        The encoded image.

    Example:
        >>> warmup_image(32, 48)[:3]
        b'\xff\xd8\xff'
    """
    return tf.io.encode_jpeg(_gradients(height, width)).numpy()


def warmup_inputs(
    signature: str, batch_size: int, image_size: tuple[int, int]
) -> dict[str, np.ndarray]:
    """The inputs of a request to a signature of the contract.

    Args:
        signature: its name.
        batch_size: images in the request, N.
        image_size: height and width of the images.

    Returns:
        Arrays by input name: `images`, uint8 [N, h, w, 3], for the signature of that name,
        `inputs`, serialized examples [N], for `classify`, else `image_bytes`, encoded images [N].

    Example:
        >>> warmup_inputs("images", 2, (8, 8))["images"].shape
        (2, 8, 8, 3)
    """
    if signature == "images":
        return {"images": np.repeat(_gradients(*image_size)[None], batch_size, axis=0)}
    data = warmup_image(*image_size)
    if signature == "classify":
        return {"inputs": np.array([example(data).SerializeToString()] * batch_size, object)}
    return {"image_bytes": np.array([data] * batch_size, object)}


def example(data: bytes) -> Any:
    """An encoded image as the `tf.Example` that the `classify` signature takes."""
    value = tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))
    return tf.train.Example(features=tf.train.Features(feature={"image/encoded": value}))


def write_warmup(
    directory: Path,
    signatures: Mapping[str, Any],
    batch_sizes: Sequence[int],
    image_size: tuple[int, int],
) -> int:
    """Write a version's warm-up file: each signature at each batch size.

    Args:
        directory: of the version.
        signatures: by name.
        batch_sizes: that the server runs the model at.
        image_size: height and width of the images in the requests.

    Returns:
        How many requests were written.

    Raises:
        ValueError: if there would be more than TF Serving takes.
    """
    if len(signatures) * len(batch_sizes) > MAX_RECORDS:
        raise ValueError(
            f"{len(batch_sizes)} batch sizes for {len(signatures)} signatures are more than the "
            f"{MAX_RECORDS} warm-up requests that TF Serving takes: name fewer batch sizes."
        )
    file = directory / WARMUP_FILE
    file.parent.mkdir(exist_ok=True)
    count = 0
    with tf.io.TFRecordWriter(str(file)) as writer:
        for signature in sorted(signatures):
            for log in _logs(signature, batch_sizes, image_size):
                writer.write(log.SerializeToString())
                count += 1
    return count


def _logs(
    signature: str, batch_sizes: Sequence[int], image_size: tuple[int, int]
) -> Iterator[prediction_log_pb2.PredictionLog]:
    for batch_size in batch_sizes:
        log = prediction_log_pb2.PredictionLog()
        if signature == "classify":
            request: Any = classification_pb2.ClassificationRequest()
            data = warmup_image(*image_size)
            request.input.example_list.examples.extend([example(data)] * batch_size)
            request.model_spec.signature_name = signature
            log.classify_log.request.CopyFrom(request)
        else:
            request = predict_pb2.PredictRequest()
            request.model_spec.signature_name = signature
            for name, value in warmup_inputs(signature, batch_size, image_size).items():
                write_tensor(request.inputs[name], value)
            log.predict_log.request.CopyFrom(request)
        yield log


def _gradients(height: int, width: int) -> np.ndarray:
    """uint8 [h, w, 3]: red grows to the right, green downwards, blue against both."""
    x = np.linspace(0, 255, width)[None, :].repeat(height, axis=0)
    y = np.linspace(0, 255, height)[:, None].repeat(width, axis=1)
    return np.stack([x, y, 255 - (x + y) / 2], axis=-1).astype(np.uint8)
