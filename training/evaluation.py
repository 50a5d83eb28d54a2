"""How good a model is on data that it has not seen."""

from __future__ import annotations

import dataclasses
import json
import time

import numpy as np
import tensorflow as tf

from keras_vit import VisionTransformer
from training.data import DataSource, evaluation_batches


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Args:
        top1: share of examples whose best class is the right one.
        top5: share of examples whose right class is among the best five.
        loss: mean softmax cross-entropy, without label smoothing.
        examples: how many were seen, each exactly once.
        images_per_second: decoding, preprocessing and model together.
    """

    top1: float
    top5: float
    loss: float
    examples: int
    images_per_second: float

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(dataclasses.asdict(self))


def evaluate(
    model: VisionTransformer, source: DataSource, split: str = "test", batch_size: int = 64
) -> Evaluation:
    """Judge a model on every example of a split, once each.

    Args:
        model: with a head, and its preprocessing.
        source: the data.
        split: which part of it. Default "test".
        batch_size: images per step. Default 64.

    Returns:
        An `Evaluation`.

    Raises:
        ValueError: if the split does not exist, or holds classes that the model does not know.

    Example:
        >>> from training.data import load_source
        >>> model = VisionTransformer(8, 4, hidden_dim=16, depth=1, num_heads=2, num_classes=10)
        >>> evaluate(model, load_source("digits")).examples
        360
    """
    if split not in source.splits:
        raise ValueError(
            f"{source.spec} has no split {split!r}; it has {', '.join(sorted(source.splits))}."
        )
    class_of = _class_indices(model, source)
    batches = evaluation_batches(source, split, model.preprocessing, batch_size=batch_size)

    @tf.function(reduce_retracing=True)
    def judge(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        logits = tf.cast(model(images, training=False), tf.float32)  # [b, num_classes]
        labels = tf.gather(tf.constant(class_of), labels)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        top5 = tf.math.in_top_k(labels, logits, min(5, model.num_classes))
        return losses, tf.equal(tf.argmax(logits, -1), labels), top5

    blank = tf.zeros([batch_size, *model.preprocessing.output_shape])
    judge(blank, tf.zeros([batch_size], tf.int64))  # tracing is not part of the speed
    results = []
    start = time.perf_counter()
    for images, labels in batches:
        results.append([np.asarray(value) for value in judge(images, labels)])
    seconds = time.perf_counter() - start
    losses, top1, top5 = (np.concatenate(column) for column in zip(*results, strict=True))
    return Evaluation(
        top1=round(float(top1.mean()), 6),
        top5=round(float(top5.mean()), 6),
        loss=round(float(losses.mean(dtype=np.float64)), 6),
        examples=len(losses),
        images_per_second=round(len(losses) / seconds, 1),
    )


def _class_indices(model: VisionTransformer, source: DataSource) -> np.ndarray:
    """The model's output for each class of the data, int64 [classes of the data]."""
    if model.num_classes == 0:
        raise ValueError("The model has no head (num_classes=0): there is no accuracy to measure.")
    if model.labels is None:
        if len(source.labels) > model.num_classes:
            raise ValueError(
                f"{source.spec} has {len(source.labels)} classes, the model {model.num_classes}."
            )
        return np.arange(len(source.labels), dtype=np.int64)
    positions = {label: index for index, label in enumerate(model.labels)}
    if unknown := [label for label in source.labels if label not in positions]:
        raise ValueError(
            f"The model does not know {len(unknown)} of the {len(source.labels)} classes of "
            f"{source.spec}: {', '.join(unknown[:5])}. It knows {', '.join(model.labels[:5])}, …: "
            f"evaluate on the data that it was trained for."
        )
    return np.array([positions[label] for label in source.labels], np.int64)
