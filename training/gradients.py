"""The gradient of one replica's share of a batch, as a pure function.

Everything that a step reads (weights, running statistics, seeds) goes in, everything that it
changes comes out. That is what lets it run inside a loop over micro-batches, inside XLA, and at
weights that were moved for SAM, under every `tf.distribute` strategy: none of these may assign a
variable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from training.streams import in_streams, split_batch

Tensors = list[tf.Tensor]


class Batch(NamedTuple):
    """One replica's share: images [b, H, W, C], targets [b, classes], weights [b]."""

    images: tf.Tensor
    targets: tf.Tensor
    weights: tf.Tensor


class Result(NamedTuple):
    """What comes out.

    Attributes:
        gradients: of the weighted sum of the losses, times the factor.
        sums: float32 [4]: of weight x loss, weight x hit, the weights, and, if it is measured, over
            the micro-batches, weight x squared norm of the mean gradient.
        statistics: the new running statistics.
    """

    gradients: Tensors
    sums: tf.Tensor
    statistics: Tensors


class GradientFunction:
    """Loss and gradient of a model.

    Args:
        model: built; its outputs are a list, the logits [B, classes] that count first.
        losses: batch and outputs -> losses float32 [b].
        accumulation: micro-batches that a share is cut into, one after the other. Default 1.
        jit_compile: whether XLA compiles the computation of a micro-batch. Default False.
        measure_norm: whether the norm of each micro-batch's gradient is measured. Default False.
        streams: parts of a micro-batch that are computed at the same time, where the batch has a
            fixed size, XLA does not compile, and the model has no running statistics. Default 1.

    Example:
        >>> model = keras.Sequential([keras.Input([2]), keras.layers.Dense(3)])
        >>> function = GradientFunction(
        ...     model, lambda batch, logits: tf.reduce_sum((logits - batch.targets) ** 2, -1))
        >>> batch = Batch(tf.ones([4, 2]), tf.zeros([4, 3]), tf.ones([4]))
        >>> values = [variable.value for variable in model.trainable_variables]
        >>> result = function(values, [], tf.constant([0, 0]), batch, tf.constant(1.0))
        >>> [gradient.shape for gradient in result.gradients]
        [TensorShape([2, 3]), TensorShape([3])]
    """

    def __init__(
        self,
        model: keras.Model,
        losses: Callable[[Batch, Tensors], tf.Tensor],
        accumulation: int = 1,
        jit_compile: bool = False,
        measure_norm: bool = False,
        streams: int = 1,
    ) -> None:
        self.model = model
        self._measure_norm = measure_norm
        self._losses = losses
        self._accumulation = accumulation
        self._trainable = model.trainable_variables
        states = model.non_trainable_variables
        self._seeds = [v for v in states if _is_seed(v)]
        # What else a forward pass changes: the running means of batch norms.
        self.statistics = [v for v in states if not _is_seed(v) and _is_running(v)]
        self._streams = 1 if self.statistics or jit_compile else streams
        self._one: Any = self._micro_batch
        if jit_compile:
            self._one = tf.function(self._micro_batch, jit_compile=True, autograph=False)

    def __call__(
        self, values: Tensors, statistics: Tensors, seed: tf.Tensor, batch: Batch, factor: tf.Tensor
    ) -> Result:
        """Compute the gradient at `values`.

        Args:
            values: of the trainable variables.
            statistics: values of `self.statistics`.
            seed: int32 [2]; all that is random in the model depends on it alone.
            batch: one replica's share.
            factor: float32 scalar, multiplied to the gradients.

        Returns:
            A `Result`.
        """
        if self._accumulation == 1:
            return self._one(values, statistics, seed, batch, factor)
        parts = [
            tf.reshape(part, [self._accumulation, -1, *part.shape[1:]]) for part in batch
        ]  # each [A, b / A, ...]

        def body(index: tf.Tensor, total: Result) -> tuple[tf.Tensor, Result]:
            micro = Batch(*(part[index] for part in parts))
            place = tf.random.experimental.stateless_fold_in(seed, index)
            result = self._one(values, total.statistics, place, micro, factor)
            gradients = [a + b for a, b in zip(total.gradients, result.gradients, strict=True)]
            return index + 1, Result(gradients, total.sums + result.sums, result.statistics)

        start = Result([tf.zeros_like(value) for value in values], tf.zeros([4]), statistics)
        _, total = tf.while_loop(
            lambda index, _: index < self._accumulation,
            body,
            (tf.constant(0), start),
            parallel_iterations=1,  # one after the other: that is what saves memory
        )
        return total

    def outputs(self, images: tf.Tensor) -> Tensors:
        """What the model says of images [b, H, W, C] outside training, its outputs [b, classes]."""
        outputs = in_streams(lambda x: self.model(x, training=False), images, self._streams)
        return tf.nest.flatten(outputs)

    def _micro_batch(
        self, values: Tensors, statistics: Tensors, seed: tf.Tensor, batch: Batch, factor: tf.Tensor
    ) -> Result:
        parts = split_batch(batch, self._streams)
        if len(parts) == 1:
            result = self._stream(values, statistics, seed, batch, factor)
        else:
            # Nothing that one computes goes into another: TensorFlow runs them side by side.
            results = [
                self._stream(
                    values,
                    statistics,
                    tf.random.experimental.stateless_fold_in(seed, index),
                    Batch(*part),
                    factor,
                )
                for index, part in enumerate(parts)
            ]
            every = zip(*(one.gradients for one in results), strict=True)
            sums = tf.add_n([one.sums for one in results])
            result = Result([tf.add_n(gradients) for gradients in every], sums, statistics)
        squared = tf.zeros([])
        if self._measure_norm:
            weight = result.sums[2]
            squared = tf.math.divide_no_nan(squared_norm(result.gradients) / factor**2, weight)
        sums = tf.concat([result.sums, [squared]], axis=0)
        return result._replace(sums=sums)

    def _stream(
        self, values: Tensors, statistics: Tensors, seed: tf.Tensor, batch: Batch, factor: tf.Tensor
    ) -> Result:
        """As `__call__`, without the last of the sums."""
        seeds = [
            tf.cast(tf.random.experimental.stateless_fold_in(seed, index), variable.dtype)
            for index, variable in enumerate(self._seeds)
        ]
        mapping = [
            *zip(self._trainable, values, strict=True),
            *zip(self.statistics, statistics, strict=True),
            *zip(self._seeds, seeds, strict=True),
        ]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            with keras.StatelessScope(mapping) as scope:
                outputs = self.model(batch.images, training=True)
            outputs = [tf.cast(output, tf.float32) for output in tf.nest.flatten(outputs)]
            losses = self._losses(batch, outputs)  # [b]
            total = tf.reduce_sum(losses * batch.weights)
            scaled = total * factor
        gradients = tape.gradient(
            scaled, values, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        statistics = [scope.get_current_value(variable) for variable in self.statistics]
        hit = tf.reduce_sum(hits(batch.targets, outputs[0]) * batch.weights)
        sums = tf.stack([total, hit, tf.reduce_sum(batch.weights)])
        return Result(gradients, sums, statistics)


def squared_norm(tensors: Tensors) -> tf.Tensor:
    """The sum of all squares, float32 scalar.

    Example:
        >>> float(squared_norm([tf.ones([3]), tf.ones([2, 2])]))
        7.0
    """
    return tf.add_n([tf.reduce_sum(tf.square(tf.cast(t, tf.float32))) for t in tensors])


def hits(targets: tf.Tensor, logits: tf.Tensor, best: int = 1) -> tf.Tensor:
    """Whether the class with the highest target is among the best: float32 [b].

    Args:
        targets: [b, classes].
        logits: [b, classes].
        best: how many count. Default 1.

    Example:
        >>> hits(tf.eye(2), tf.constant([[2.0, 1.0], [2.0, 1.0]])).numpy().tolist()
        [1.0, 0.0]
    """
    return tf.cast(tf.math.in_top_k(tf.argmax(targets, -1), logits, best), tf.float32)


def _is_seed(variable: keras.Variable) -> bool:
    return "seed_generator" in variable.path


def _is_running(variable: keras.Variable) -> bool:
    return variable.path.rsplit("/", 1)[-1] in ("moving_mean", "moving_variance")
