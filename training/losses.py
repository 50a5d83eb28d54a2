"""What training makes small: one loss for each example."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import tensorflow as tf

# Targets [B, C] and logits [B, C] -> losses [B].
Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def softmax_cross_entropy(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """`-sum_c targets_c log softmax(logits)_c`.

    Args:
        targets: float32 [B, C], each row with sum 1.
        logits: float32 [B, C].

    Returns:
        float32 [B].

    Example:
        >>> softmax_cross_entropy(tf.eye(2), tf.zeros([2, 2])).numpy().round(3).tolist()
        [0.6930000185966492, 0.6930000185966492]
    """
    return tf.nn.softmax_cross_entropy_with_logits(targets, logits)


def sigmoid_cross_entropy(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """One yes-or-no question for each class, summed over the classes, as in big_vision.

    Args:
        targets: float32 [B, C] in 0 ... 1.
        logits: float32 [B, C].

    Returns:
        float32 [B].

    Example:
        >>> sigmoid_cross_entropy(tf.eye(2), tf.zeros([2, 2])).numpy().round(3).tolist()
        [1.3860000371932983, 1.3860000371932983]
    """
    return tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(targets, logits), axis=-1)


def binary_cross_entropy(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """One yes-or-no question for each class, averaged over the classes, as in DeiT III.

    Every class with a share in a mixture of images is wholly there, as in its authors' code.

    Args:
        targets: float32 [B, C] in 0 ... 1.
        logits: float32 [B, C].

    Returns:
        float32 [B].

    Example:
        >>> binary_cross_entropy(tf.constant([[0.3, 0.7]]), tf.zeros([1, 2])).numpy().round(3)
        array([0.693], dtype=float32)
    """
    present = tf.cast(targets > 0, logits.dtype)
    losses = tf.nn.sigmoid_cross_entropy_with_logits(present, logits)  # [B, C]
    return tf.reduce_mean(losses, axis=-1)


_LOSSES = {
    "softmax": softmax_cross_entropy,
    "sigmoid": sigmoid_cross_entropy,
    "bce": binary_cross_entropy,
}


def smooth(targets: tf.Tensor, share: float) -> tf.Tensor:
    """Label smoothing (Szegedy et al., 2016): `(1 - share) targets + share / C`.

    Args:
        targets: float32 [B, C].
        share: in [0, 1).

    Returns:
        float32 [B, C].

    Example:
        >>> smooth(tf.constant([[1.0, 0.0]]), 0.5).numpy().tolist()
        [[0.75, 0.25]]
    """
    return targets * (1.0 - share) + share / targets.shape[-1]


def soft_distillation(
    teacher_logits: tf.Tensor, logits: tf.Tensor, temperature: float
) -> tf.Tensor:
    """`t^2 KL(softmax(teacher / t) || softmax(student / t))` (Hinton et al., 2015).

    Args:
        teacher_logits: float32 [B, C].
        logits: of the student, float32 [B, C].
        temperature: t, above 0.

    Returns:
        float32 [B].

    Example:
        >>> soft_distillation(tf.ones([1, 3]), tf.zeros([1, 3]), 2.0).numpy().tolist()
        [0.0]
    """
    expected = tf.nn.softmax(teacher_logits / temperature)
    log_ratio = tf.nn.log_softmax(teacher_logits / temperature) - tf.nn.log_softmax(
        logits / temperature
    )
    return temperature**2 * tf.reduce_sum(expected * log_ratio, axis=-1)


def hard_distillation(teacher_logits: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy with the teacher's choice (DeiT, Touvron et al., 2021).

    Args:
        teacher_logits: float32 [B, C].
        logits: of the student, float32 [B, C].

    Returns:
        float32 [B].

    Example:
        >>> hard_distillation(tf.eye(2), tf.zeros([2, 2])).numpy().round(3).tolist()
        [0.6930000185966492, 0.6930000185966492]
    """
    choice = tf.argmax(teacher_logits, axis=-1)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(choice, logits)


@dataclasses.dataclass(frozen=True)
class Distillation:
    """A teacher in the loss: `(1 - weight) loss(targets) + weight distillation(teacher)`.

    Args:
        teacher: images [B, H, W, C] as the student gets them -> logits [B, classes].
        kind: "soft" or "hard".
        weight: of the teacher, in [0, 1].
        temperature: of "soft".
    """

    teacher: Callable[[tf.Tensor], tf.Tensor]
    kind: Literal["soft", "hard"]
    weight: float
    temperature: float

    def blend(self, losses: tf.Tensor, images: tf.Tensor, student_logits: tf.Tensor) -> tf.Tensor:
        """The losses [B] with the teacher's part; the student's logits are of its last head."""
        teacher_logits = tf.stop_gradient(tf.cast(self.teacher(images), tf.float32))
        if self.kind == "soft":
            taught = soft_distillation(teacher_logits, student_logits, self.temperature)
        else:
            taught = hard_distillation(teacher_logits, student_logits)
        return (1 - self.weight) * losses + self.weight * taught


def make_loss(name: str, label_smoothing: float = 0.0) -> Loss:
    """The loss of a recipe without its teacher.

    Args:
        name: "softmax", "sigmoid" or "bce".
        label_smoothing: see `smooth`. Default 0.

    Returns:
        A function of targets [B, C] and logits [B, C].

    Raises:
        ValueError: if the name is unknown.

    Example:
        >>> make_loss("softmax")(tf.eye(2), tf.zeros([2, 2])).shape
        TensorShape([2])
    """
    if name not in _LOSSES:
        raise ValueError(f"loss must be one of {', '.join(_LOSSES)}, not {name!r}.")

    def loss(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        if label_smoothing:
            targets = smooth(targets, label_smoothing)
        return _LOSSES[name](targets, logits)

    return loss
