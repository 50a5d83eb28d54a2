"""The check before an export is published: does it answer as the Keras model does?"""

from __future__ import annotations

import dataclasses
import importlib.resources
import importlib.util
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from keras_vit import VisionTransformer, attention_rollout
from keras_vit.decoding import decode_image
from serving.fused import Parts
from serving.tensors import read_tensor
from serving.warmup_records import WARMUP_FILE, example

# The operations that TensorFlow 2.19 and 2.20 both have, one in a line, without those of Python,
# XLA, TPUs and collectives: what a C++ server of these versions can run.
_OPERATIONS_FILE = "served_operations.txt"
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


def check_export(
    directory: Path, model: VisionTransformer, dtype: str, parts: Parts | None = None
) -> CheckResult:
    """Reload an export through the TF1 Session loader, which TF Serving uses, and compare.

    Every signature answers photographs, in a batch with bad images, alone, and not at all (an
    empty batch).

    Args:
        directory: of the SavedModel.
        model: that it was made from.
        dtype: of the export, which sets the tolerance.
        parts: what answers are to equal where they are not the model's own: tokens are merged.
            Default None: the model's. The rollout is always the model's.

    Returns:
        A `CheckResult`.

    Raises:
        RuntimeError: naming the signature and what differs.

    Example:
        >>> import tempfile
        >>> from serving.export import export_model
        >>> model = VisionTransformer(32, 8, hidden_dim=16, depth=1, num_heads=2, num_classes=3)
        >>> export = export_model(model, tempfile.mkdtemp())
        >>> check_export(export.path, model, "float32").largest_difference < 1e-4
        True
    """
    _check_operations(directory)
    photographs = check_images()
    inputs = tf.stack([model.preprocessing(data) for data in photographs])
    represent = parts.representation if parts else model.representation_model()
    embedding = np.asarray(represent(inputs), np.float32)
    attention = np.asarray(attention_rollout(model, inputs))
    warmup = list(tf.data.TFRecordDataset(str(directory / WARMUP_FILE)).as_numpy_iterator())
    pixels = [decode_image(data, 10**9).numpy() for data in photographs]
    probabilities = None
    if model.num_classes:
        logits = parts.logits(inputs) if parts else model(inputs)
        probabilities = np.asarray(keras.ops.softmax(tf.cast(logits, tf.float32)))
    # Where tokens are merged, rounding may decide which: one more or less of nearly equal ones.
    tolerance = _TOLERANCE["bfloat16" if parts else dtype]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        start = time.perf_counter()
        served = _Signatures(session, directory)
        load_seconds = time.perf_counter() - start
        scale = max(1.0, float(np.abs(embedding).max()))
        difference = _check_vectors(
            served, "embed", "embedding", photographs, embedding, tolerance * scale
        )
        _check_vectors(served, "attention", "attention", photographs, attention, tolerance)
        _check_warmup(served, warmup)
        if probabilities is None:
            return CheckResult(difference, load_seconds)
        difference = _check_vectors(
            served, "probabilities", "probabilities", photographs, probabilities, tolerance
        )
        for signature, batch in {
            "serving_default": np.array(photographs, object),
            "images": np.stack(pixels),
            "classify": np.array([example(d).SerializeToString() for d in photographs], object),
        }.items():
            _check_labels(served, signature, batch, probabilities, model.labels, tolerance)
    return CheckResult(difference, load_seconds)


def check_images() -> list[bytes]:
    """Two photographs that come with scikit-learn, as they are in its package: JPEG bytes."""
    package = importlib.util.find_spec("sklearn")  # importing it takes a second
    if package is None or package.origin is None:
        raise ModuleNotFoundError(
            "scikit-learn, whose photographs the check takes, is not installed: "
            "pip install 'keras-vit[tensorflow]'",
            name="sklearn",
        )
    folder = Path(package.origin).parent / "datasets" / "images"
    return [(folder / name).read_bytes() for name in ("china.jpg", "flower.jpg")]


class _Signatures:
    """The signatures of a SavedModel in a session, called by name."""

    def __init__(self, session: tf.compat.v1.Session, directory: Path) -> None:
        self._session = session
        meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], str(directory))
        self._signatures = meta_graph.signature_def
        self.names = [name for name in self._signatures if not name.startswith("__")]

    def __call__(self, name: str, value: np.ndarray) -> dict[str, np.ndarray]:
        signature = self._signatures[name]
        (feed,) = signature.inputs.values()
        fetches = {key: info.name for key, info in signature.outputs.items()}
        return self._session.run(fetches, {feed.name: value})


def _check_operations(directory: Path) -> None:
    """Refuse operations that TF Serving 2.19 or 2.20 does not have, and functions for XLA alone."""
    saved_model = saved_model_pb2.SavedModel()
    saved_model.ParseFromString((directory / "saved_model.pb").read_bytes())
    graph = saved_model.meta_graphs[0].graph_def
    functions = graph.library.function
    nodes = [*graph.node, *(node for function in functions for node in function.node_def)]
    known = importlib.resources.files("serving").joinpath(_OPERATIONS_FILE).read_text().split()
    # A function can be called by its name too, as if it were an operation.
    known += [function.signature.name for function in functions]
    if refused := sorted({node.op for node in nodes} - set(known)):
        raise RuntimeError(
            f"The export holds operations that TF Serving 2.19 and 2.20 do not have: {refused}."
        )
    if compiled := [f.signature.name for f in functions if f.attr["_XlaMustCompile"].b]:
        raise RuntimeError(f"The export holds functions that only XLA can run: {compiled}.")


def _check_vectors(
    served: _Signatures,
    signature: str,
    output: str,
    good: list[bytes],
    expected: np.ndarray,
    tolerance: float,
) -> float:
    """A signature of encoded images that gives numbers [N, …] and `valid`; the difference."""
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


def _check_warmup(served: _Signatures, records: Iterable[bytes]) -> None:
    """Every signature answers the first, smallest of its warm-up requests."""
    seen = set()
    for record in records:
        log = prediction_log_pb2.PredictionLog.FromString(record)
        if log.HasField("classify_log"):
            request: Any = log.classify_log.request
            examples = request.input.example_list.examples
            inputs = np.array([e.SerializeToString() for e in examples], object)
        else:
            request = log.predict_log.request
            (tensor,) = request.inputs.values()
            inputs = read_tensor(tensor)
        signature = request.model_spec.signature_name
        if signature not in seen:
            seen.add(signature)
            answer = served(signature, inputs)
            _require(
                bool(answer.get("valid", np.array(True)).all()), signature, "warm-up images are bad"
            )
    missing = sorted(set(served.names) - seen)
    _require(not missing, ", ".join(missing), "there is no warm-up request")


def _require(condition: bool, signature: str, problem: str) -> None:
    if not condition:
        raise RuntimeError(
            f"The export does not answer as the model does: signature {signature}: {problem}. "
            f"Nothing was published."
        )
