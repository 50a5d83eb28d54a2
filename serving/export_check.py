"""The check before an export is published: does it answer as the Keras model does?"""

from __future__ import annotations

import dataclasses
import importlib.resources
import re
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from keras_vit import VisionTransformer
from keras_vit.decoding import decode_image

# What a C++ server without Python, XLA or add-on libraries cannot run.
_UNSERVABLE = re.compile(r"(Eager)?PyFunc(Stateless)?|Xla.*|.*>.*")
# float32 answers differ by rounding only; bfloat16 keeps 8 bits of each product.
_TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}
_BAD = (b"", b"not an image")


@dataclasses.dataclass(frozen=True)
class CheckResult:
    """What a passed check saw.

    Args:
        largest_difference: between a served probability (embedding, for a model without head) and
            the Keras model's.
        load_seconds: time to load the SavedModel into a session.
    """

    largest_difference: float
    load_seconds: float


def check_export(directory: Path, model: VisionTransformer, dtype: str) -> CheckResult:
    """Reload an export through the TF1 Session loader, which TF Serving uses, and compare.

    Every signature answers photographs, in a batch with bad images, alone, and not at all (an
    empty batch).

    Args:
        directory: of the SavedModel.
        model: that it was made from.
        dtype: of the export, which sets the tolerance.

    Returns:
        A `CheckResult`.

    Raises:
        RuntimeError: naming the signature and what differs.

    Example:
        >>> import tempfile
        >>> from serving.signatures import ServedModel
        >>> model = VisionTransformer(32, 8, hidden_dim=16, depth=1, num_heads=2, num_classes=3)
        >>> served, directory = ServedModel(model), tempfile.mkdtemp()
        >>> tf.saved_model.save(served.trackable, directory, signatures=served.signatures())
        >>> check_export(Path(directory), model, "float32").largest_difference < 1e-4
        True
    """
    _check_operations(directory)
    photographs = check_images()
    inputs = tf.stack([model.preprocessing(data) for data in photographs])
    embedding = np.asarray(model.representation_model()(inputs), np.float32)
    probabilities = None
    if model.num_classes:
        probabilities = np.asarray(keras.ops.softmax(tf.cast(model(inputs), tf.float32)))
    tolerance = _TOLERANCE[dtype]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        start = time.perf_counter()
        served = _Signatures(session, directory)
        load_seconds = time.perf_counter() - start
        scale = max(1.0, float(np.abs(embedding).max()))
        difference = _check_vectors(
            served, "embed", "embedding", photographs, embedding, tolerance * scale
        )
        if probabilities is None:
            return CheckResult(difference, load_seconds)
        difference = _check_vectors(
            served, "probabilities", "probabilities", photographs, probabilities, tolerance
        )
        pixels = [session.run(decode_image(data, 10**9)) for data in photographs]
        for signature, batch in {
            "serving_default": np.array(photographs, object),
            "images": np.stack(pixels),
            "classify": np.array([_example(data) for data in photographs], object),
        }.items():
            _check_labels(served, signature, batch, probabilities, model.labels, tolerance)
    return CheckResult(difference, load_seconds)


def check_images() -> list[bytes]:
    """Two photographs that come with scikit-learn, as they are in its package: JPEG bytes."""
    folder = importlib.resources.files("sklearn") / "datasets" / "images"
    return [(folder / name).read_bytes() for name in ("china.jpg", "flower.jpg")]


class _Signatures:
    """The signatures of a SavedModel in a session, called by name."""

    def __init__(self, session: tf.compat.v1.Session, directory: Path) -> None:
        self._session = session
        meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], str(directory))
        self._signatures = meta_graph.signature_def

    def __call__(self, name: str, value: np.ndarray) -> dict[str, np.ndarray]:
        signature = self._signatures[name]
        (feed,) = signature.inputs.values()
        fetches = {key: info.name for key, info in signature.outputs.items()}
        return self._session.run(fetches, {feed.name: value})


def _check_operations(directory: Path) -> None:
    """Refuse operations that TF Serving does not have."""
    saved_model = saved_model_pb2.SavedModel()
    saved_model.ParseFromString((directory / "saved_model.pb").read_bytes())
    graph = saved_model.meta_graphs[0].graph_def
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    if refused := sorted({node.op for node in nodes if _UNSERVABLE.fullmatch(node.op)}):
        raise RuntimeError(f"The export holds operations that TF Serving cannot run: {refused}.")


def _check_vectors(
    served: _Signatures,
    signature: str,
    output: str,
    good: list[bytes],
    expected: np.ndarray,
    tolerance: float,
) -> float:
    """A signature of encoded images that gives a vector [N, C] and `valid`; the difference."""
    mixed = [good[0], _BAD[0], good[1], _BAD[1]]
    answer = served(signature, np.array(mixed, object))
    valid = answer["valid"].tolist()
    _require(valid == [True, False, True, False], signature, f"good, bad, good, bad gave {valid}")
    _require(not answer[output][[1, 3]].any(), signature, "a bad image has an answer")
    difference = float(np.abs(answer[output][[0, 2]] - expected).max())
    _require(difference <= tolerance, signature, f"{output} differ by {difference:.2e}")
    alone = served(signature, np.array(good[:1], object))[output]
    difference_alone = float(np.abs(alone - expected[:1]).max())
    _require(difference_alone <= tolerance, signature, f"one image: {difference_alone:.2e}")
    empty = served(signature, np.array([], object))
    _require(len(empty[output]) == 0, signature, "an empty batch has an answer")
    return max(difference, difference_alone)


def _check_labels(
    served: _Signatures,
    signature: str,
    batch: np.ndarray,
    probabilities: np.ndarray,
    labels: tuple[str, ...] | None,
    tolerance: float,
) -> None:
    """A signature that gives the best classes [N, K] and their scores."""
    answer = served(signature, batch)
    labels = labels or tuple(map(str, range(probabilities.shape[1])))
    for row, classes, scores in zip(
        probabilities, answer["classes"], answer["scores"], strict=True
    ):
        best = np.sort(row)[::-1][: len(scores)]
        difference = float(np.abs(scores - best).max())
        _require(difference <= tolerance, signature, f"scores differ by {difference:.2e}")
        # By the score of the label that was served: near ties may come in either order.
        named = [row[labels.index(name.decode())] for name in classes]
        difference = float(np.abs(scores - named).max())
        _require(difference <= tolerance, signature, f"labels have other scores: {classes}")
    empty = served(signature, batch[:0])
    _require(len(empty["scores"]) == 0, signature, "an empty batch has an answer")


def _example(data: bytes) -> bytes:
    value = tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))
    features = tf.train.Features(feature={"image/encoded": value})
    return tf.train.Example(features=features).SerializeToString()


def _require(condition: bool, signature: str, problem: str) -> None:
    if not condition:
        raise RuntimeError(
            f"The export does not answer as the model does: signature {signature}: {problem}. "
            f"Nothing was published."
        )
