"""A model's answers to every example of a split, and what they amount to."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_vit import VisionTransformer
from training.data import DataSource, evaluation_batches
from training.evaluation.calibration import calibration_error
from training.evaluation.classes import model_outputs
from training.evaluation.progress import with_progress
from training.evaluation.real_labels import real_outputs

_SHOWN = 10
# What is not one number, and so not in the JSON.
_DETAILS = ("output_labels", "class_outputs", "class_top5", "confusion")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation, with C classes of the data and K outputs of the model.

    Args:
        top1: share of examples whose best class is the right one.
        top5: share of examples whose right class is among the best five.
        loss: mean softmax cross-entropy, without label smoothing.
        calibration_error: expected calibration error in 15 bins, see `calibration_error`.
        examples: how many were seen, each exactly once.
        images_per_second: decoding, preprocessing and model together.
        output_labels: the name of each output, K of them.
        class_outputs: the output of each class of the data, rising, int64 [C].
        class_top5: `top5` of each class, float64 [C], NaN for a class without examples.
        confusion: how many examples of a class (row) were taken for an output (column), int64
            [C, K].
        real_top1: share of images whose best class is one of ReaL's. Default None: not asked for.
        real_examples: how many images ReaL has labels for. Default None: not asked for.
    """

    top1: float
    top5: float
    loss: float
    calibration_error: float
    examples: int
    images_per_second: float
    output_labels: tuple[str, ...] = dataclasses.field(repr=False, compare=False)
    class_outputs: np.ndarray = dataclasses.field(repr=False, compare=False)
    class_top5: np.ndarray = dataclasses.field(repr=False, compare=False)
    confusion: np.ndarray = dataclasses.field(repr=False, compare=False)
    real_top1: float | None = None
    real_examples: int | None = None

    @property
    def class_labels(self) -> tuple[str, ...]:
        """The name of each class of the data, C of them, in the order of the model's outputs."""
        return tuple(self.output_labels[output] for output in self.class_outputs)

    @property
    def class_examples(self) -> np.ndarray:
        """How many examples each class has, int64 [C]."""
        return self.confusion.sum(axis=1)

    @property
    def class_top1(self) -> np.ndarray:
        """`top1` of each class, float64 [C], NaN for a class without examples."""
        right = self.confusion[np.arange(len(self.class_outputs)), self.class_outputs]
        return _shares(right, self.class_examples)

    def to_json(self) -> str:
        """One line of JSON: the numbers, those of ReaL only if they were asked for."""
        names = [field.name for field in dataclasses.fields(self) if field.name not in _DETAILS]
        numbers = {name: getattr(self, name) for name in names}
        return json.dumps({name: value for name, value in numbers.items() if value is not None})


class Batch(NamedTuple):
    """What is known of b examples that a model has just answered, D wide inside.

    Args:
        names: of the examples, string tensor [b].
        image_bytes: their images, encoded, string tensor [b].
        right: the right output of each, int64 [b].
        ranked: its best five outputs, or fewer, the best first, int32 [b, 5].
        probabilities: of these, float32 [b, 5].
        losses: softmax cross-entropy, float32 [b].
        representation: what the head saw, float32 [b, D].
    """

    names: tf.Tensor
    image_bytes: tf.Tensor
    right: np.ndarray
    ranked: np.ndarray
    probabilities: np.ndarray
    losses: np.ndarray
    representation: np.ndarray


def evaluate(
    model: VisionTransformer,
    source: DataSource,
    split: str = "test",
    batch_size: int = 64,
    *,
    real_labels: str | Path | None = None,
    observe: Callable[[Batch], None] | None = None,
    report: Callable[[str], None] = print,
    show_progress: bool = False,
) -> Evaluation:
    """Judge a model on every example of a split, once each.

    Args:
        model: with a head, and its preprocessing.
        source: the data; its classes may be a part of the model's, see `class_indices`.
        split: which part of it. Default "test".
        batch_size: images per step. Default 64.
        real_labels: `real.json` of "Are we done with ImageNet?" (Beyer et al., 2020), to judge the
            validation images of ILSVRC 2012 by it too. Default None.
        observe: called with every `Batch`, in order, so that one pass over the data is enough for
            whoever wants to know more. Default None.
        report: called with lines for the user. Default `print`.
        show_progress: whether a bar on standard error shows how far it is. Default False.

    Returns:
        An `Evaluation`.

    Raises:
        ValueError: if the split does not exist, is empty or has no labels, holds classes that the
            model does not know, the model's answers are not numbers, or the ReaL labels do not go
            with the data.

    Example:
        >>> from training.data import load_source
        >>> model = VisionTransformer(8, 4, hidden_dim=16, depth=1, num_heads=2, num_classes=10)
        >>> result = evaluate(model, load_source("digits"))
        >>> result.examples, result.confusion.shape
        (360, (10, 10))
    """
    check_split(source, split, batch_size)
    output_of = model_outputs(model, source.labels, source.spec)  # [C], in the data's order
    real = None
    if real_labels is not None:
        real = real_outputs(model, source, split, real_labels, report)
    answers, seconds = _answers(model, source, split, batch_size, output_of, observe, show_progress)
    best = answers.ranked[:, 0]  # [N]
    top1 = best == answers.right  # [N]
    top5 = (answers.ranked == answers.right[:, None]).any(-1)  # [N]

    # === By class, in the order of the outputs ===
    order = np.argsort(output_of)  # [C]
    place = np.zeros(model.num_classes, np.int64)
    place[output_of[order]] = np.arange(len(order))
    classes = place[answers.right]  # [N]
    examples = np.bincount(classes, minlength=len(order))  # [C]
    cells = classes * model.num_classes + best  # [N]
    confusion = np.bincount(cells, minlength=len(order) * model.num_classes)
    if absent := [source.labels[order[index]] for index in np.flatnonzero(examples == 0)]:
        more = ", …" if len(absent) > _SHOWN else ""
        report(
            f"No {split} examples for {len(absent)} of the {len(order)} classes, which have no "
            f"accuracy of their own: {', '.join(absent[:_SHOWN])}{more}"
        )
    if real and len(real) != len(best):
        raise ValueError(
            f"{len(real) - len(best)} images of {source.spec} cannot be decoded: the ReaL labels "
            f"need all of them. Fetch the data again."
        )
    real_top1, real_examples = _real_accuracy(best, real) if real else (None, None)
    return Evaluation(
        top1=round(float(top1.mean()), 6),
        top5=round(float(top5.mean()), 6),
        loss=round(float(answers.losses.mean(dtype=np.float64)), 6),
        calibration_error=round(calibration_error(answers.confidences, top1), 6),
        examples=len(top1),
        images_per_second=round(len(top1) / seconds, 1),
        output_labels=_output_labels(model, source, output_of),
        class_outputs=output_of[order],
        class_top5=_shares(np.bincount(classes, top5, minlength=len(order)), examples),
        confusion=confusion.reshape(len(order), model.num_classes),
        real_top1=real_top1,
        real_examples=real_examples,
    )


def check_split(source: DataSource, split: str, batch_size: int) -> None:
    """Refuse a split that does not exist or is empty, and a batch size below 1.

    Args:
        source: the data.
        split: a part of it.
        batch_size: images per step.

    Raises:
        ValueError: with the splits that there are.
    """
    if split not in source.splits:
        raise ValueError(
            f"{source.spec} has no split {split!r}; it has {', '.join(sorted(source.splits))}."
        )
    if source.splits[split] < 1:
        raise ValueError(f"The split {split} of {source.spec} has no examples: choose another.")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}.")


class _Answers(NamedTuple):
    """What the model said about each of N examples."""

    right: np.ndarray  # the right output, int64 [N]
    ranked: np.ndarray  # the best five outputs, or fewer, the best first, int32 [N, 5]
    confidences: np.ndarray  # the probability of the best, float32 [N]
    losses: np.ndarray  # float32 [N]


def _answers(
    model: VisionTransformer,
    source: DataSource,
    split: str,
    batch_size: int,
    output_of: np.ndarray,
    observe: Callable[[Batch], None] | None,
    show_progress: bool,
) -> tuple[_Answers, float]:
    """Go through the split: the answers, and the seconds that it took."""
    both = keras.Model(model.input, [model.output, model.representation_model().output])

    @tf.function(reduce_retracing=True, autograph=False)
    def judge(images: tf.Tensor, right: tf.Tensor) -> tuple[tf.Tensor, ...]:
        logits, representation = both(images, training=False)
        logits = tf.cast(logits, tf.float32)  # [b, K]
        # Of equal logits the first comes first, as in an argmax: a head of zeros has one answer.
        ranked = tf.math.top_k(logits, min(5, model.num_classes)).indices
        probabilities = tf.gather(tf.nn.softmax(logits), ranked, batch_dims=1)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(right, logits)
        return ranked, probabilities, losses, tf.cast(representation, tf.float32)

    blank = tf.zeros([batch_size, *model.preprocessing.output_shape])
    judge(blank, tf.zeros([batch_size], tf.int64))  # tracing is not part of the speed
    batches = evaluation_batches(
        source, split, model.preprocessing, batch_size=batch_size, encoded=observe is not None
    )
    total = math.ceil(source.splits[split] / batch_size)
    results = []
    start = time.perf_counter()
    with source.damage.explained():
        for images, labels, *origin in with_progress(
            batches, f"evaluating {split}", total, show_progress
        ):
            classes = np.asarray(labels)
            if (classes < 0).any():
                raise ValueError(
                    f"The split {split} of {source.spec} has examples without a label: choose "
                    f"another."
                )
            right = output_of[classes]
            answer = tuple(np.asarray(value) for value in judge(images, right))
            ranked, probabilities, losses, representation = answer
            results.append([right, ranked, probabilities[:, 0], losses])
            if observe is not None:
                names, encoded = origin
                observe(Batch(names, encoded, right, ranked, probabilities, losses, representation))
    seconds = time.perf_counter() - start
    answers = _Answers(*(np.concatenate(column) for column in zip(*results, strict=True)))
    finite = np.isfinite(answers.losses) & np.isfinite(answers.confidences)
    if not finite.all():
        raise ValueError(
            f"The model's answers to {np.sum(~finite)} of {len(finite)} examples are not finite: "
            f"its weights are damaged, or its dtype is too narrow for them."
        )
    return answers, seconds


def _output_labels(
    model: VisionTransformer, source: DataSource, output_of: np.ndarray
) -> tuple[str, ...]:
    """The model's labels; of a model without, the data's, and a number where there is none."""
    if model.labels is not None:
        return model.labels
    names = [f"output {index}" for index in range(model.num_classes)]
    for label, output in zip(source.labels, output_of, strict=True):
        names[output] = label
    return tuple(names)


def _real_accuracy(best: np.ndarray, real: list[frozenset[int]]) -> tuple[float, int]:
    """The share of right answers where ReaL has labels, and how many those are."""
    right = [output in labels for output, labels in zip(best.tolist(), real, strict=True) if labels]
    return round(float(np.mean(right)), 6), len(right)


def _shares(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """The part divided by the whole, float64, NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
