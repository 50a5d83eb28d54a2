"""Attention of the few tokens that a head sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from serving.fused.layers import FusedDense


class FirstTokensAttention:
    """Multi-head self-attention of few tokens, without keys and values of all.

    See `MultiHeadSelfAttention`, which computes the same in training: `q (x W_k)^T` is
    `(q W_k^T) x^T`, and `w (x W_v)` is `(w x) W_v`.

    Args:
        layer: a built `MultiHeadSelfAttention` that can skip its keys.
        gamma: factor on what it gives, a number or [D].

    Example:
        >>> from keras_vit.layers import MultiHeadSelfAttention
        >>> layer = MultiHeadSelfAttention(num_heads=2)
        >>> layer.build((None, 10, 8))
        >>> every = tf.zeros([3 * 10, 8])
        >>> (answer,), _ = FirstTokensAttention(layer, 1.0)([every[::10]], [every], 3, 10, False)
        >>> answer.shape
        TensorShape([3, 8])
    """

    def __init__(self, layer: Any, gamma: Any) -> None:
        heads, width = layer.num_heads, layer.num_heads * layer.head_dim
        self._num_heads = heads
        self._queries = FusedDense(layer.qkv, np.repeat([layer.scale, 1, 1], width), slice(width))
        kernel = np.asarray(layer.qkv.kernel, np.float32)
        _, keys, values = kernel.reshape(width, 3, heads, layer.head_dim).swapaxes(0, 1)
        dtype = layer.compute_dtype
        self._keys = tf.Variable(tf.cast(keys.transpose(1, 2, 0), dtype), trainable=False)
        self._values = tf.Variable(tf.cast(values.swapaxes(0, 1), dtype), trainable=False)
        bias = np.asarray(layer.qkv.bias)[2 * width :] if layer.qkv_bias else np.zeros(width)
        self._bias = tf.cast(bias, dtype).numpy()
        self._norm = layer.norm or tf.identity
        self._projection = FusedDense(layer.projection, gamma)

    def __call__(
        self,
        asking: Sequence[tf.Tensor],
        asked: Sequence[tf.Tensor],
        batch: tf.Tensor,
        length: int | None,
        with_maps: bool,
        log_sizes: tf.Tensor | None = None,
    ) -> tuple[list[tf.Tensor], tf.Tensor | None]:
        """As of `FusedAttention`, of one stream that asks."""
        (rows,), heads, width = asking, self._num_heads, asking[0].shape[-1]
        every = [tf.reshape(x, [batch, -1, width]) for x in asked]  # [B, m, D] each
        q = _by_head(tf.reshape(self._queries(rows), [-1, heads, width // heads]))
        q = tf.reshape(_by_head(tf.matmul(q, self._keys)), [batch, -1, width])  # [B, n H, D]
        logits = tf.concat([tf.matmul(q, x, transpose_b=True) for x in every], axis=-1)
        if log_sizes is not None:
            logits += log_sizes[:, None]
        weights = tf.nn.softmax(logits)  # [B, n H, N]
        shares = tf.split(weights, [tf.shape(x)[1] for x in every], axis=-1)
        y = tf.add_n([tf.matmul(share, x) for share, x in zip(shares, every, strict=True)])
        y = _by_head(tf.reshape(y, [-1, heads, width]))  # [H, B n, D]
        y = _by_head(tf.matmul(y, self._values))  # [B n, H, D/H]
        y = tf.nn.bias_add(tf.reshape(y, [-1, width]), tf.constant(self._bias))
        maps = None
        if with_maps:
            maps = tf.reshape(weights, [batch, -1, heads, tf.shape(weights)[-1]])
            maps = tf.transpose(maps, [0, 2, 1, 3])  # [B, H, n, N]
        return [self._projection(self._norm(y))], maps


def _by_head(x: tf.Tensor) -> tf.Tensor:
    """[M, H, C] to [H, M, C], and back."""
    return tf.transpose(x, [1, 0, 2])
