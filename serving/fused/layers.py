"""Layers of a block on a matrix of tokens [B * N, D], in the forms that become few kernels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

# From so many tokens on, attention goes image by image.
LONG_SEQUENCE = 400
# What oneDNN's layer norm adds to the variance, whatever the graph says (the default of
# `_MklLayerNorm`, which TensorFlow's remapper leaves as it is). Tokens are scaled so that this is
# the model's own epsilon.
KERNEL_EPSILON = 1e-3

_FLOATS_OF_A_PAGE = 1024
_FLOATS_OF_A_LINE = 16
# From so many rows on, a product is so long that cutting its answer costs next to nothing.
_MANY_ROWS = 512
_NEXT_TO_NOTHING = 1e-30  # bfloat16 has it too; lost in the rounding of what it is added to

Function = Callable[[tf.Tensor], tf.Tensor]
_SQRT_HALF = math.sqrt(0.5)


class FusedAttention:
    """Multi-head self-attention on a matrix of tokens.

    Args:
        layer: a built `MultiHeadSelfAttention`.
        gamma: factor on what it gives, a number or [D].
        split: whether queries are a product of their own: where they come from other tokens than
            keys and values, and between streams. One that has its keys and values computes its
            queries while it waits for those of the others.
    """

    def __init__(self, layer: Any, gamma: Any, split: bool) -> None:
        self._num_heads, self._head_dim = layer.num_heads, layer.head_dim
        self._norms = None
        scale = layer.scale
        if layer.q_norm is not None:
            self._norms, scale = (layer.q_norm, layer.k_norm), 1.0
            self._scale = layer.scale
        width = layer.num_heads * layer.head_dim
        scales = np.repeat([scale, 1.0, 1.0], width)
        bounds = (0, width, 3 * width) if split else (0, 3 * width)
        self._products = [
            FusedDense(layer.qkv, scales, slice(first, last))
            for first, last in itertools.pairwise(bounds)
        ]
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
        """Let tokens attend.

        Args:
            asking: streams of tokens [B * n, D], whose answers are wanted.
            asked: streams [B * m, D] that together are all N tokens; `asking` itself unless made
                with `split`.
            batch: B.
            length: N, where it is known.
            with_maps: whether the maps are wanted.
            log_sizes: added to the logits of the keys, [B, N]. Default None: nothing.

        Returns:
            [B * n, D] for each stream that asks, and the maps [B, H, n, N] of them all, or None.
        """
        queries, k, v = self.heads(asking, asked, batch)
        answers, maps = zip(
            *(self.attend(q, k, v, length, with_maps, log_sizes) for q in queries), strict=True
        )
        return list(answers), tf.concat(maps, axis=2) if with_maps else None

    def heads(
        self, asking: Sequence[tf.Tensor], asked: Sequence[tf.Tensor], batch: tf.Tensor
    ) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
        """Scaled queries [B, H, n, C] of each stream, keys and values [B, H, N, C] of them all."""
        *first, last = self._products
        heads = [self._heads(last(x), batch) for x in asked]  # (q,) k and v of each
        queries = [self._heads(product(x), batch)[0] for product in first for x in asking]
        queries = queries or [q for q, _, _ in heads]
        *_, keys, values = map(list, zip(*heads, strict=True))
        if self._norms is not None:
            scale = tf.cast(self._scale, queries[0].dtype)
            queries = [self._norms[0](q) * scale for q in queries]
            keys = [self._norms[1](k) for k in keys]
        return queries, tf.concat(keys, axis=2), tf.concat(values, axis=2)

    def attend(
        self,
        q: tf.Tensor,
        k: tf.Tensor,
        v: tf.Tensor,
        length: int | None,
        with_maps: bool = False,
        log_sizes: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """What follows on `heads`; as of calling the attention."""
        weights = None
        if with_maps:
            weights = tf.nn.softmax(tf.matmul(q, k, transpose_b=True))
            y = tf.matmul(weights, v)
        else:
            y = _attend(q, k, v, length, log_sizes)
        y = tf.reshape(tf.transpose(y, [0, 2, 1, 3]), [-1, self._num_heads * self._head_dim])
        return self._projection(self._norm(y)), weights

    def _heads(self, x: tf.Tensor, batch: tf.Tensor) -> list[tf.Tensor]:
        """[B * n, K D] to K tensors [B, H, n, C]."""
        count = x.shape[-1] // (self._num_heads * self._head_dim)
        x = tf.reshape(x, [batch, -1, count, self._num_heads, self._head_dim])
        return tf.unstack(tf.transpose(x, [2, 0, 3, 1, 4]))


def _attend(
    q: tf.Tensor, k: tf.Tensor, v: tf.Tensor, length: int | None, log_sizes: tf.Tensor | None
) -> tf.Tensor:
    """softmax(q k^T + log_sizes) v, for [B, H, n, C], [B, H, N, C] twice and [B, N]."""

    def attend(q: tf.Tensor, k: tf.Tensor, v: tf.Tensor, *bias: tf.Tensor) -> tf.Tensor:
        logits = tf.matmul(q, k, transpose_b=True)
        return tf.matmul(tf.nn.softmax(logits + bias[0] if bias else logits), v)

    given = [q, k, v]
    if log_sizes is not None:
        given.append(log_sizes[:, None, None])  # [B, 1, 1, N]
    if length is not None and length < LONG_SEQUENCE:
        return attend(*given)
    spec = tf.TensorSpec(q.shape[1:], q.dtype)
    return tf.map_fn(
        lambda one: attend(*one), given, parallel_iterations=1, fn_output_signature=spec
    )


class UnfusedAttention:
    """The layer itself where there is no fused form (differential attention).

    Args:
        layer: a built attention layer.
        gamma: factor on what it gives, a number or [D].
        split: whether only the first tokens ask.
    """

    def __init__(self, layer: Any, gamma: Any, split: bool) -> None:
        self._layer, self._gamma, self._split = layer, gamma, split

    def __call__(
        self,
        asking: Sequence[tf.Tensor],
        asked: Sequence[tf.Tensor],
        batch: tf.Tensor,
        length: int | None,
        with_maps: bool,
        log_sizes: None = None,
    ) -> tuple[list[tf.Tensor], tf.Tensor | None]:
        """As of `FusedAttention`, of one stream; tokens of several sizes do not come here."""
        (some,), (every,) = asking, asked
        width = every.shape[-1]
        tokens = tf.reshape(every, [batch, -1, width])  # [B, N, D]
        y = self._layer(tokens, training=False)
        weights = self._layer.attention_weights(tokens) if with_maps else None
        if self._split:
            count = tf.shape(some)[0] // batch
            y = y[:, :count]
            weights = None if weights is None else weights[:, :, :count]
        y = tf.reshape(y, [-1, width])
        return [y * tf.cast(self._gamma, y.dtype)], weights


class FusedMLP:
    """The MLP of a block on a matrix of tokens.

    Args:
        layer: a built `MLP`.
        gamma: factor on what it gives, a number or [D].
    """

    def __init__(self, layer: Any, gamma: Any) -> None:
        self._activation = _ACTIVATIONS[layer.activation]
        self._gated = layer.gated
        self._norm = layer.norm or tf.identity
        # What widens the first kernel stays: units that nothing goes into and nothing comes out of.
        alone = not layer.gated and layer.norm is None
        self._fc1 = FusedDense(layer.fc1, cut=not alone)
        self._fc2 = FusedDense(layer.fc2, gamma, below=self._fc1.beside if alone else 0)

    def __call__(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """[M, D] -> [M, D]."""
        x = self._fc1(x)  # [M, mlp_dim], or [M, 2 mlp_dim] when gated
        if self._gated:
            gate, value = tf.split(x, 2, axis=-1)
            x = self._activation(gate) * value
        else:
            x = self._activation(x)
        return self._fc2(self._norm(x))


class FusedDense:
    """`x W + b`, some of its columns, each times a factor.

    Rows that collide in the cache are made longer by zeros.

    Args:
        layer: a built `Dense` without activation, or a convolution that cuts out patches.
        scales: factors on the columns, a number or [units]. Default 1.
        columns: which. Default: all.
        below: rows of zeros below the kernel. Default 0.
        cut: whether what comes of columns of zeros is cut off again. Default True.
    """

    def __init__(
        self,
        layer: Any,
        scales: Any = 1.0,
        columns: slice = slice(None),
        below: int = 0,
        cut: bool = True,
    ) -> None:
        kernel = np.asarray(layer.kernel, np.float32) * scales
        kernel = kernel.reshape(-1, kernel.shape[-1])[:, columns]  # [D, columns]
        bias = np.asarray(layer.bias, np.float32) * scales if layer.use_bias else None
        dtype = layer.compute_dtype
        collides = dtype == "float32" and _collides(*kernel.shape)
        #: Columns of zeros beside the kernel.
        self.beside = _FLOATS_OF_A_LINE if collides else 0
        self._columns = kernel.shape[1] if collides and cut else None
        kernel = np.pad(kernel, [(0, below), (0, self.beside)])
        self._kernel = tf.Variable(tf.cast(kernel, dtype), trainable=False)
        self._bias = None
        if bias is not None:
            bias = np.pad(bias[columns], (0, self.beside))
            self._bias = _kept(tf.cast(bias, dtype).numpy())

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """[M, D] -> [M, columns], or `beside` more if they are not cut off."""
        x = tf.matmul(x, self._kernel)
        x = x if self._bias is None else tf.nn.bias_add(x, tf.constant(self._bias))
        return x if self._columns is None else x[:, : self._columns]


def _kept(offset: np.ndarray) -> np.ndarray:
    """An offset that the graph optimiser leaves in place.

    It removes zeros, before it looks for products and norms that become one kernel with their
    offset. They are what training starts from, and what a layer without offset has.
    """
    if not offset.any():
        offset = offset.copy()
        offset[0] = _NEXT_TO_NOTHING
    return offset


def _collides(rows: int, columns: int) -> bool:
    """Whether a float32 kernel is slow to go down, and worth being made wider.

    Where a row takes a whole fraction of a page of memory, what stands in one column falls into the
    same few lines of the cache, and is read again and again: with few tokens, for which oneDNN does
    not pack a kernel, half as fast at pages and their halves, and a tenth slower at quarters.
    """
    part = _FLOATS_OF_A_PAGE // (4 if rows >= _MANY_ROWS else 2)
    return columns % part == 0


def fused_norm(layer: Any) -> Function:
    """A layer norm that becomes one kernel, of tokens [M, D] scaled for `KERNEL_EPSILON`.

    The form that the remapper knows (`IsCommonNormPattern`) asks for constants, and for the axis as
    a positive number. On bfloat16 oneDNN's kernel reckons in float32, as Keras' layer does, and so
    does that of softmax: no casts stand around them.
    """
    dtype = layer.compute_dtype
    gamma, beta = (tf.cast(w, dtype).numpy() for w in (layer.gamma, layer.beta))
    beta = _kept(beta)

    def norm(x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        mean = tf.reduce_mean(x, 1, keepdims=True)
        variance = tf.reduce_mean(tf.math.squared_difference(x, mean), 1, keepdims=True)
        epsilon = tf.constant(KERNEL_EPSILON, dtype)
        scale = tf.math.rsqrt(variance + epsilon) * tf.constant(gamma)
        return x * scale + (tf.constant(beta) - mean * scale)

    return norm


def _gelu(x: tf.Tensor) -> tf.Tensor:
    """With erf, which the remapper knows; `tf.nn.gelu` has erfc."""
    return 0.5 * x * (1.0 + tf.math.erf(x * tf.constant(_SQRT_HALF, x.dtype)))


_ACTIVATIONS: dict[str, Function] = {
    "gelu": _gelu,
    "gelu_tanh": lambda x: tf.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * tf.sigmoid(1.702 * x),
    "silu": tf.nn.silu,
}
