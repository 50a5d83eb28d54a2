"""The model as the served graph computes it: the same numbers in fewer and larger operations.

TensorFlow's graph optimiser joins operations only in the shapes that it knows. With tokens as one
matrix [B * N, D], a product takes its bias, its GELU and its residual with it, and a layer norm
with constant scale and offset is one kernel. Factors are multiplied into the kernels. Where the
head sees the class token only, the last block computes it alone. Attention over long sequences
goes image by image, so that no more than one image's maps are in memory.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_vit import VisionTransformer
from keras_vit.explain.rollout import transition
from keras_vit.explain.steps import head_shares
from keras_vit.layers import LayerScale, MultiHeadSelfAttention, PostNormBlock, TokenPooling

# From so many tokens on, attention goes image by image.
LONG_SEQUENCE = 400
# What oneDNN's layer norm adds to the variance, whatever the graph says (the default of
# `_MklLayerNorm`, which TensorFlow's remapper leaves as it is). Tokens are scaled so that this is
# the model's own epsilon.
_KERNEL_EPSILON = 1e-3

Function = Callable[[tf.Tensor], tf.Tensor]
# A block's attentions and MLPs, with the layer scale and the norm that belong to each.
_BRANCHES = {
    "attention": ("scale1", "norm1"),
    "mlp": ("scale2", "norm2"),
    "attention2": ("scale3", "norm3"),
    "mlp2": ("scale4", "norm4"),
}
_SQRT_HALF = math.sqrt(0.5)


@dataclasses.dataclass(frozen=True)
class Parts:
    """What signatures are made of; each takes normalised images [B, H, W, C].

    Args:
        logits: gives [B, num_classes].
        representation: what the head sees, [B, D].
        rollout: `keras_vit.attention_rollout`, float32 [B, rows, columns].
    """

    logits: Function
    representation: Function
    rollout: Function


def fuse(model: VisionTransformer) -> Parts:
    """Write a model anew for serving.

    Args:
        model: any `VisionTransformer` without dropout and LoRA, as `serving_copy` makes them.

    Returns:
        Its `Parts`, equal to the Keras model's up to rounding. The blocks have weights of their
        own; the layers before and after them are the model's.

    Example:
        >>> model = VisionTransformer(32, 8, hidden_dim=16, depth=1, num_heads=2, num_classes=3)
        >>> fuse(model).logits(tf.zeros([2, 32, 32, 3])).shape
        TensorShape([2, 3])
    """
    stem = keras.Model(model.input, [model._patches, model._block_inputs[0]])
    seen, scale = _tokens_seen(model), _stream_scale(model.blocks)
    blocks = [FusedBlock(b, seen if b is model.blocks[-1] else None, scale) for b in model.blocks]

    def encode(images: tf.Tensor, with_maps: bool = False) -> tuple[tf.Tensor, Any, list[Any]]:
        patches, x = stem(images, training=False)
        maps = []
        x = x * tf.constant(scale, x.dtype)
        for block in blocks:
            x, weights = block(x, with_maps)
            maps.append(weights)
        return patches, model._finish(x * tf.constant(1 / scale, x.dtype)), maps

    def rollout(images: tf.Tensor) -> tf.Tensor:
        patches, (pooled, *_), maps = encode(images, with_maps=True)
        tokens = head_shares(model, pooled)  # [B, 1, N], or [B, 1, seen]
        for weights in reversed(maps):
            tokens = tf.matmul(tokens, transition(weights))  # [B, 1, N]
        rows, columns = tf.shape(patches)[1], tf.shape(patches)[2]
        return tf.reshape(tokens[:, 0, model.num_prefix_tokens :], [-1, rows, columns])

    return Parts(
        logits=lambda images: encode(images)[1][2],
        representation=lambda images: encode(images)[1][1],
        rollout=rollout,
    )


def _tokens_seen(model: VisionTransformer) -> int | None:
    """How many tokens, from the first, the head sees; None for all."""
    pooling = model.get_layer("pooling")
    if isinstance(pooling, TokenPooling) and pooling.pooling == "token":
        return 2 if model.has_distillation_head else 1
    return None


def _stream_scale(blocks: Sequence[Any]) -> float:
    """The factor on the tokens between the blocks with which `fused_norm` is exact."""
    norms = [layer for block in blocks for layer in _norms(block)]
    epsilons = {norm.epsilon for norm in norms}
    if len(epsilons) != 1 or any(isinstance(block, PostNormBlock) for block in blocks):
        return 1.0
    if any(type(norm) is not keras.layers.LayerNormalization for norm in norms):
        return 1.0
    if blocks[0].compute_dtype != "float32":
        return 1.0  # Keras' own norm computes in float32 there, on every processor
    return math.sqrt(_KERNEL_EPSILON / epsilons.pop())


def _norms(block: Any) -> list[Any]:
    """The norms that a block itself has."""
    layers = block._flatten_layers(include_self=False, recursive=False)
    return [layer for layer in layers if layer.name.startswith("norm")]


class FusedBlock:
    """An encoder block on a matrix of tokens.

    Functions with the names of the block's layers go through the block's own `_transform`: what a
    block of this kind does is said there alone.

    Args:
        block: an `EncoderBlock` or one of its kin, built.
        seen: give only so many tokens, from the first. Default None: all.
        scale: factor that its tokens come with, and leave with. Default 1.

    Example:
        >>> from keras_vit.layers import EncoderBlock
        >>> block = EncoderBlock(num_heads=2, mlp_dim=32)
        >>> block.build((None, 10, 8))
        >>> tokens, _ = FusedBlock(block, seen=1)(tf.zeros([1, 10, 8]))
        >>> tokens.shape
        TensorShape([1, 1, 8])
    """

    def __init__(self, block: Any, seen: int | None = None, scale: float = 1.0) -> None:
        self._transform = type(block)._transform
        self._seen = seen
        self._functions: dict[str, Any] = {}
        self._attentions: dict[str, tuple[Any, Function]] = {}
        for layer in block._flatten_layers(include_self=False, recursive=False):
            if layer.name not in _BRANCHES:  # layer scales are folded, drop path is for training
                self._functions[layer.name] = lambda x, training=None: x
        for layer in _norms(block):
            self._functions[layer.name] = layer if scale == 1 else fused_norm(layer)
        for name, (scale_name, norm) in _BRANCHES.items():
            if not hasattr(block, name):
                continue
            # The parallel block has one scale, for the sum of both branches.
            factor = getattr(block, scale_name, getattr(block, "scale1", None))
            gamma = scale * (np.asarray(factor.gamma) if isinstance(factor, LayerScale) else 1.0)
            if name.startswith("mlp"):
                self._functions[name] = FusedMLP(getattr(block, name), gamma)
                continue
            before = self._functions[norm]
            if isinstance(block, PostNormBlock):
                before = tf.identity
            kind: Any = FusedAttention
            if type(getattr(block, name)) is not MultiHeadSelfAttention:
                kind = UnfusedAttention
            self._attentions[name] = kind(getattr(block, name), gamma, seen is not None), before

    def __call__(self, x: tf.Tensor, with_maps: bool = False) -> tuple[tf.Tensor, Any]:
        """Apply the block.

        Args:
            x: tokens [B, N, D].
            with_maps: whether attention maps are wanted. Default False.

        Returns:
            Tokens [B, N, D], or [B, seen, D]; and the maps [B, heads, N, N], or
            [B, heads, seen, N], or None.
        """
        width, length = x.shape[-1], x.shape[1] or tf.shape(x)[1]
        maps: list[tf.Tensor] = []
        everything = tf.reshape(x, [-1, width])  # [B * N, D]
        given = everything if self._seen is None else tf.reshape(x[:, : self._seen], [-1, width])

        def bind(attention: Any, before: Function) -> Any:
            def attend(x: tf.Tensor, **_: Any) -> tf.Tensor:  # training, weights: not served
                keys = x if self._seen is None else before(everything)
                y, weights = attention(x, keys, length, with_maps)
                maps.append(weights)
                return y

            return attend

        attentions = {name: bind(*both) for name, both in self._attentions.items()}
        y = self._transform(SimpleNamespace(**self._functions, **attentions), given, False, None)
        y = tf.reshape(y, [-1, length if self._seen is None else self._seen, width])
        return y, tf.concat(maps, axis=1) if with_maps else None


class FusedAttention:
    """Multi-head self-attention on a matrix of tokens.

    Args:
        layer: a built `MultiHeadSelfAttention`.
        gamma: factor on what it gives, a number or [D].
        split: whether queries come from other tokens than keys and values.
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
        self, x: tf.Tensor, keys: tf.Tensor, length: Any, with_maps: bool
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Let tokens attend.

        Args:
            x: who asks, [B * n, D].
            keys: who is asked, [B * N, D]; `x` itself unless made with `split`.
            length: N.
            with_maps: whether the maps are wanted.

        Returns:
            [B * n, D], and the maps [B, H, n, N] or None.
        """
        batch = tf.shape(keys)[0] // length
        heads = [
            self._heads(product(tokens), batch)
            for product, tokens in zip(self._products, (x, keys), strict=False)
        ]
        q, k, v = [head for group in heads for head in group]  # [B, H, n, C], [B, H, N, C] twice
        if self._norms is not None:
            q, k = self._norms[0](q) * tf.cast(self._scale, q.dtype), self._norms[1](k)
        weights = None
        if with_maps:
            weights = _softmax(tf.matmul(q, k, transpose_b=True))
            y = tf.matmul(weights, v)
        else:
            y = _attend(q, k, v, length)
        y = tf.reshape(tf.transpose(y, [0, 2, 1, 3]), [-1, self._num_heads * self._head_dim])
        return self._projection(self._norm(y)), weights

    def _heads(self, x: tf.Tensor, batch: tf.Tensor) -> list[tf.Tensor]:
        """[B * n, K D] to K tensors [B, H, n, C]."""
        count = x.shape[-1] // (self._num_heads * self._head_dim)
        x = tf.reshape(x, [batch, -1, count, self._num_heads, self._head_dim])
        return tf.unstack(tf.transpose(x, [2, 0, 3, 1, 4]))


def _attend(q: tf.Tensor, k: tf.Tensor, v: tf.Tensor, length: Any) -> tf.Tensor:
    """softmax(q k^T) v, for [B, H, n, C], [B, H, N, C] and [B, H, N, C]."""

    def attend(q: tf.Tensor, k: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
        return tf.matmul(_softmax(tf.matmul(q, k, transpose_b=True)), v)

    if isinstance(length, int) and length < LONG_SEQUENCE:
        return attend(q, k, v)
    spec = tf.TensorSpec(q.shape[1:], q.dtype)
    return tf.map_fn(
        lambda one: attend(*one), (q, k, v), parallel_iterations=1, fn_output_signature=spec
    )


def _softmax(x: tf.Tensor) -> tf.Tensor:
    """In float32 at any dtype, as in the Keras layer."""
    return tf.cast(tf.nn.softmax(tf.cast(x, tf.float32)), x.dtype)


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
        self, x: tf.Tensor, keys: tf.Tensor, length: Any, with_maps: bool
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """As of `FusedAttention`."""
        tokens = tf.reshape(keys, [-1, length, keys.shape[-1]])  # [B, N, D]
        y = self._layer(tokens, training=False)
        weights = self._layer.attention_weights(tokens) if with_maps else None
        if self._split:
            asking = tf.shape(x)[0] // tf.shape(tokens)[0]
            y = y[:, :asking]
            weights = None if weights is None else weights[:, :, :asking]
        y = tf.reshape(y, [-1, keys.shape[-1]])
        return y * tf.cast(self._gamma, y.dtype), weights


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
        self._fc1, self._fc2 = FusedDense(layer.fc1), FusedDense(layer.fc2, gamma)

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

    Args:
        layer: a built `Dense` without activation.
        scales: factors on the columns, a number or [units]. Default 1.
        columns: which. Default: all.
    """

    def __init__(self, layer: Any, scales: Any = 1.0, columns: slice = slice(None)) -> None:
        kernel = np.asarray(layer.kernel, np.float32) * scales
        bias = np.asarray(layer.bias, np.float32) * scales if layer.use_bias else None
        dtype = layer.compute_dtype
        self._kernel = tf.Variable(tf.cast(kernel[:, columns], dtype), trainable=False)
        self._bias = None if bias is None else tf.cast(bias[columns], dtype).numpy()

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """[M, D] -> [M, columns]."""
        x = tf.matmul(x, self._kernel)
        return x if self._bias is None else tf.nn.bias_add(x, tf.constant(self._bias))


def fused_norm(layer: Any) -> Function:
    """A layer norm that becomes one kernel, of tokens [M, D] scaled for `_KERNEL_EPSILON`.

    The form that the remapper knows (`IsCommonNormPattern`) asks for constants, and for the axis
    as a positive number.
    """
    dtype = layer.compute_dtype
    gamma, beta = (tf.cast(w, dtype).numpy() for w in (layer.gamma, layer.beta))

    def norm(x: tf.Tensor) -> tf.Tensor:
        mean = tf.reduce_mean(x, 1, keepdims=True)
        variance = tf.reduce_mean(tf.math.squared_difference(x, mean), 1, keepdims=True)
        scale = tf.math.rsqrt(variance + tf.constant(_KERNEL_EPSILON, dtype)) * tf.constant(gamma)
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
