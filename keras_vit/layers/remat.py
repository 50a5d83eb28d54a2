"""Computing a layer again for the gradient instead of keeping what is inside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


def rematerialize(layer: keras.layers.Layer, forward: Callable[[Any], Any], x: Any) -> Any:
    """Call part of a layer so that only its input is kept for the gradient.

    "Training Deep Nets with Sublinear Memory Cost" (Chen et al., 2016). The second forward pass
    sees the weights and the random seeds of the first, which `tf.recompute_grad` alone would not
    ensure: Keras' seed generators move on with each call.

    Args:
        layer: built; all variables that `forward` reads are its own.
        forward: input -> output, in training mode.
        x: the input, any shape.

    Returns:
        `forward(x)`.

    Example:
        >>> layer = keras.layers.Dense(2)
        >>> layer.build((None, 3))
        >>> rematerialize(layer, layer, tf.ones([1, 3])).shape
        TensorShape([1, 2])
    """
    variables = layer.trainable_variables
    seeds = [v for v in layer.non_trainable_variables if "seed_generator" in v.path]
    drawn = [tf.identity(seed.value) for seed in seeds]
    for seed, value in zip(seeds, drawn, strict=True):
        seed.assign(value + tf.constant([0, 1], value.dtype))  # as SeedGenerator.next does

    @tf.recompute_grad
    def pure(x: Any, *values: Any) -> Any:
        mapping = [*zip(variables, values, strict=True), *zip(seeds, drawn, strict=True)]
        with keras.StatelessScope(mapping):
            return forward(x)

    return pure(x, *(tf.convert_to_tensor(variable.value) for variable in variables))
