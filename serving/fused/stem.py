"""From images to the tokens of the first block."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_vit import VisionTransformer
from serving.fused.layers import FusedDense
from serving.fused.streams import side_by_side


class FusedStem:
    """What comes before the blocks, with the patches as products instead of a convolution.

    Args:
        model: the model.
        streams: in how many parts the patches are projected. Default 1.

    Example:
        >>> model = VisionTransformer(32, 8, hidden_dim=16, depth=1, num_heads=2)
        >>> grid, tokens = FusedStem(model)(tf.zeros([1, 32, 32, 3]))
        >>> grid, tokens.shape
        ((4, 4), TensorShape([1, 17, 16]))
    """

    def __init__(self, model: VisionTransformer, streams: int = 1) -> None:
        self._streams = streams
        layer = model.get_layer("patch_embedding")
        self._patch_size, self._allow_remainder = layer.patch_size, layer.allow_remainder
        self._dtype, self._width = layer.compute_dtype, layer.hidden_dim
        self._before = keras.Model(model.input, layer.input)
        self._projection = FusedDense(layer.projection)
        self._norm = layer.norm or tf.identity
        self._after = keras.Model(model._patches, model._block_inputs[0])

    def __call__(self, images: tf.Tensor) -> tuple[tuple[Any, Any], tf.Tensor]:
        """Normalised images [B, H, W, C] to (rows, columns) of patches, and tokens [B, N, D]."""
        x = tf.cast(self._before(images, training=False), self._dtype)
        channels, (p, q) = x.shape[-1], self._patch_size
        batch, height, width = (x.shape[i] or tf.shape(x)[i] for i in range(3))
        rows, columns = height // p, width // q
        if self._allow_remainder:
            x = x[:, : rows * p, : columns * q]
        x = tf.reshape(x, [batch, rows, p, columns, q * channels])
        x = tf.transpose(x, [0, 1, 3, 2, 4])
        x = tf.reshape(x, [batch, rows * columns, p * q * channels])  # [B, N, P P C]
        parts = []
        for part in side_by_side(x, self._streams):
            tokens = self._projection(tf.reshape(part, [-1, p * q * channels]))
            parts.append(tf.reshape(tokens, [batch, part.shape[1] or -1, self._width]))
        tokens = tf.concat(parts, axis=1)
        tokens = self._norm(tf.reshape(tokens, [batch, rows, columns, self._width]))
        return (rows, columns), self._after(tokens, training=False)
