"""Questions about images: which signature is asked, and what becomes of each image's answer."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.client.calls import (
    CLASSIFY,
    PREDICT,
    Call,
    Target,
    predict_request,
    read_predict,
)
from serving.client.errors import ServingError
from serving.client.images import Image, batches
from serving.client.results import AttentionMap, Embedding, Prediction, Probabilities
from serving.protos import serving_wire_pb2 as wire


@dataclass(frozen=True, slots=True)
class Question:
    """A signature that takes images, and how one image's answer is read.

    Attributes:
        signature: asked with encoded images as `image_bytes`.
        outputs: the outputs wanted.
        result: from image, version and its row of each output to a result.
        pixels_signature: asked with arrays as `images`; empty if arrays must be encoded.

    Example:
        >>> EMBED.outputs
        ('embedding', 'valid')
    """

    signature: str
    outputs: tuple[str, ...]
    result: Callable[[Image, int, dict[str, Any]], Any]
    pixels_signature: str = ""


def predictions(top_k: int) -> Question:
    """Ask for the best classes.

    Args:
        top_k: how many of the model's K classes to keep, at least 1.

    Returns:
        The question.

    Raises:
        ValueError: if `top_k` is not positive.

    Example:
        >>> predictions(5).pixels_signature
        'images'
    """
    if top_k < 1:
        raise ValueError(f"top_k is {top_k}; it must be at least 1")

    def result(image: Image, version: int, row: dict[str, Any]) -> Prediction:
        if not row.get("valid", True):
            return Prediction(image.source, False, (), (), version)
        labels = tuple(label.decode() for label in row["classes"][:top_k])
        return Prediction(
            image.source, True, labels, tuple(row["scores"][:top_k].tolist()), version
        )

    return Question("serving_default", ("classes", "scores", "valid"), result, "images")


def _array_question(signature: str, output: str, kind: Callable[..., Any]) -> Question:
    """Ask for one array per image; an invalid image gets one without elements."""

    def result(image: Image, version: int, row: dict[str, Any]) -> Any:
        valid, values = bool(row["valid"]), row[output]
        values = values if valid else np.zeros((0,) * values.ndim, values.dtype)
        return kind(image.source, valid, values, version)

    return Question(signature, (output, "valid"), result)


PROBABILITIES = _array_question("probabilities", "probabilities", Probabilities)
EMBED = _array_question("embed", "embedding", Embedding)
ATTENTION = _array_question("attention", "attention", AttentionMap)


def image_calls(
    target: Target, question: Question, images: list[Image], max_batch_size: int
) -> Iterator[Call]:
    """Split a question about images into requests.

    Args:
        target: the model to ask.
        question: what to ask.
        images: from `collect`.
        max_batch_size: most images of one request.

    Yields:
        Calls; together their `indices` cover the images once.

    Example:
        >>> from serving.client.images import collect
        >>> images = collect([b"...", np.zeros((8, 8, 3), np.uint8), b"..."])
        >>> calls = image_calls(Target("digits"), predictions(5), images, 32)
        >>> [(call.signature, call.indices) for call in calls]
        [('serving_default', (0, 2)), ('images', (1,))]
    """
    pixels_apart = bool(question.pixels_signature)
    for batch, array in batches(images, max_batch_size, pixels_apart=pixels_apart):
        encoded = array.dtype == object
        signature = question.signature if encoded else question.pixels_signature
        # Pixels cannot be unreadable: that signature has no `valid`.
        outputs = tuple(name for name in question.outputs if encoded or name != "valid")
        yield Call(
            PREDICT,
            predict_request(
                target, signature, {"image_bytes" if encoded else "images": array}, outputs
            ),
            _image_reader(question, batch, outputs),
            signature,
            tuple(image.index for image in batch),
        )


def _image_reader(
    question: Question, batch: list[Image], outputs: tuple[str, ...]
) -> Callable[[Any], list[Any]]:
    def read(response: Any) -> list[Any]:
        arrays, version = read_predict(response)
        for name in outputs:
            if name not in arrays or arrays[name].shape[:1] != (len(batch),):
                raise ServingError(
                    f"signature {question.signature!r} answered {len(batch)} images with "
                    f"{ {name: array.shape for name, array in arrays.items()} }; expected outputs "
                    f"{list(outputs)} with the batch as first dimension, as `keras-vit export` "
                    "writes them"
                )
        return [
            question.result(image, version, {name: arrays[name][row] for name in outputs})
            for row, image in enumerate(batch)
        ]

    return read


def classify_calls(
    target: Target, images: list[Image], top_k: int, max_batch_size: int
) -> Iterator[Call]:
    """Ask signature `classify` through TF Serving's Classify API, one `tf.Example` per image.

    Args:
        target: the model to ask.
        images: from `collect`.
        top_k: how many classes to keep.
        max_batch_size: most images of one request.

    Yields:
        Calls; together their `indices` cover the images once.

    Example:
        >>> from serving.client.images import collect
        >>> [call.indices for call in classify_calls(Target("digits"), collect(b"..."), 5, 32)]
        [(0,)]
    """
    for batch, encoded in batches(images, max_batch_size, pixels_apart=False):
        request = wire.ClassificationRequest()
        target.write(request.model_spec, "classify")
        for image_bytes in encoded:
            example = request.input.example_list.examples.add()
            feature = example.features.feature["image/encoded"]
            feature.bytes_list.value.append(image_bytes)

        def read(response: Any, batch: list[Image] = batch) -> list[Prediction]:
            version = response.model_spec.version.value
            results = []
            for image, row in zip(batch, response.result.classifications, strict=True):
                # The Classify API has no `valid`; an unreadable image has classes without names.
                valid = any(item.label for item in row.classes)
                best = row.classes[:top_k] if valid else ()
                labels = tuple(item.label for item in best)
                scores = tuple(item.score for item in best)
                results.append(Prediction(image.source, valid, labels, scores, version))
            return results

        indices = tuple(image.index for image in batch)
        yield Call(CLASSIFY, request, read, "classify", indices)
