"""The products of a block and what lies between them, as training computes them on a processor.

TensorFlow takes an activation, a norm or a softmax and its gradient in a dozen passes over tensors
that no cache holds, and keeps several of them for the gradient. Here XLA makes about one pass of
each, and only what goes in is kept, all computed in float32 and rounded to the dtype that comes in.
The matrix products stay with oneDNN, which is faster at them, in those of its forms that are fast
where weights change with every step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

_compiled = functools.partial(tf.function, jit_compile=True, autograph=False)

# `erf` where Keras writes `erfc`: as exact in float32, and XLA has a short polynomial for it.
_ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "gelu": lambda x: 0.5 * x * (1.0 + tf.math.erf(x * 0.5**0.5)),
    "gelu_tanh": lambda x: tf.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * tf.sigmoid(1.702 * x),
    "silu": lambda x: x * tf.sigmoid(x),
}


def use_training_kernels(training: bool | None) -> bool:
    """Whether the functions of this file take the place of Keras' own.

    Args:
        training: as a layer is called.

    Returns:
        True in training on a processor; other devices have their own compilers, and lower precision
        in the products that sum a row here.

    Example:
        >>> use_training_kernels(False)
        False
    """
    return bool(training) and not any(map(tf.config.list_logical_devices, ("GPU", "TPU")))


def dense_kernel(x: tf.Tensor, weights: tf.Tensor, bias: tf.Tensor | None) -> tf.Tensor:
    """A matrix product, and a bias.

    The bias is kept out of the kernel of the product: on bfloat16 that one is half as fast where
    weights are not packed beforehand, and here they change with every step.

    Args:
        x: [M, D].
        weights: [D, E].
        bias: [E], or None.

    Returns:
        [M, E] in the dtype of `x`.

    Example:
        >>> dense_kernel(tf.ones([1, 2]), tf.ones([2, 3]), tf.ones(3)).numpy()
        array([[3., 3., 3.]], dtype=float32)
    """
    y = _product(x, weights)
    return y if bias is None else _add_bias(y, bias)


@tf.custom_gradient
def _product(x: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], Any]]:
    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        dx = tf.matmul(upstream, weights, transpose_b=True)
        return dx, _batch_of_one(x, upstream, transpose_a=True)  # a twentieth faster

    # The graph optimiser would join the bias to a plain product.
    product = _batch_of_one if x.dtype == tf.bfloat16 else tf.matmul
    return product(x, weights), gradient


def _batch_of_one(a: tf.Tensor, b: tf.Tensor, transpose_a: bool = False) -> tf.Tensor:
    """A product of matrices by the kernel for many."""
    a, b = tf.expand_dims(a, 0), tf.expand_dims(b, 0)
    return tf.squeeze(tf.matmul(a, b, transpose_a=transpose_a), 0)


@tf.custom_gradient
def _add_bias(y: tf.Tensor, bias: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], Any]]:
    return tf.nn.bias_add(y, bias), lambda upstream: (upstream, _sum_of_rows(upstream))


def _sum_of_rows(x: tf.Tensor) -> tf.Tensor:
    """[..., D] -> [D], by a matrix product: faster than TensorFlow's sum over rows, and XLA's.

    And right in bfloat16, where `BiasAddGrad` adds up in bfloat16: 8192 times 0.11 gives it 32.
    """
    rows = tf.reshape(x, [-1, x.shape[-1]])
    return tf.reshape(tf.ones([1, tf.shape(rows)[0]], x.dtype) @ rows, [-1])


@functools.cache
def activation_kernel(name: str) -> Callable[..., tf.Tensor]:
    """An activation, of a tensor or of its sum with a bias.

    Args:
        name: as of `MLP`.

    Returns:
        A function of a tensor [..., D] and, if there is one, a bias [D]; with gradients.

    Example:
        >>> activation_kernel("silu")(tf.zeros([2, 3]), tf.zeros(3)).shape
        TensorShape([2, 3])
    """
    formula = _ACTIVATIONS[name]

    def widened(x: tf.Tensor, *bias: tf.Tensor) -> tf.Tensor:
        wide = tf.cast(x, tf.float32)
        return wide + tf.cast(bias[0], tf.float32) if bias else wide

    @_compiled
    def forward(x: tf.Tensor, *bias: tf.Tensor) -> tf.Tensor:
        return tf.cast(formula(widened(x, *bias)), x.dtype)

    @_compiled
    def backward(upstream: tf.Tensor, x: tf.Tensor, *bias: tf.Tensor) -> tf.Tensor:
        wide = widened(x, *bias)
        with tf.GradientTape() as tape:
            tape.watch(wide)
            y = formula(wide)
        return tf.cast(tape.gradient(y, wide, tf.cast(upstream, tf.float32)), x.dtype)

    @tf.custom_gradient
    def kernel(x: tf.Tensor, *bias: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], Any]]:
        def gradient(upstream: tf.Tensor) -> Any:
            dx = backward(upstream, x, *bias)
            return (dx, _sum_of_rows(dx)) if bias else dx

        return forward(x, *bias), gradient

    return kernel


def norm_kernel(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor | None, epsilon: float
) -> tf.Tensor:
    """Layer norm (Ba et al., 2016) over the last axis, or RMS norm (Zhang & Sennrich, 2019).

    Args:
        x: [..., D].
        gamma: [D].
        beta: [D]; None for RMS norm.
        epsilon: added to the variance, or to the mean square.

    Returns:
        [..., D] in the dtype of `x`.

    Example:
        >>> norm_kernel(tf.constant([[1.0, 3.0]]), tf.ones(2), tf.zeros(2), 0.0).numpy()
        array([[-1.,  1.]], dtype=float32)
    """
    small = tf.constant(epsilon, tf.float32)
    centered = beta is not None

    @tf.custom_gradient
    def kernel(x: tf.Tensor, gamma: tf.Tensor, *beta: tf.Tensor) -> tuple[tf.Tensor, Any]:
        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            dx, products = _norm_backward(x, gamma, small, upstream, centered)
            summed = [products, tf.cast(upstream, tf.float32)][: 1 + centered]
            sums = map(_sum_of_rows, summed)
            return dx, *(tf.cast(s, w.dtype) for s, w in zip(sums, (gamma, *beta), strict=True))

        return _norm_forward(x, gamma, *beta, epsilon=small), gradient

    flat = tf.reshape(x, [-1, x.shape[-1]])  # [M, D]
    y = kernel(flat, gamma, beta) if centered else kernel(flat, gamma)
    return tf.reshape(y, tf.shape(x))


@_compiled
def _norm_forward(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor | None = None, *, epsilon: tf.Tensor
) -> tf.Tensor:
    normalized, _ = _normalize(x, epsilon, centered=beta is not None)
    y = normalized * tf.cast(gamma, tf.float32)
    return tf.cast(y if beta is None else y + tf.cast(beta, tf.float32), x.dtype)


@_compiled
def _norm_backward(
    x: tf.Tensor, gamma: tf.Tensor, epsilon: tf.Tensor, upstream: tf.Tensor, centered: bool
) -> tuple[tf.Tensor, tf.Tensor]:
    """The gradient of x [M, D], and what that of gamma is the sum of, [M, D]."""
    normalized, inverse = _normalize(x, epsilon, centered)
    upstream = tf.cast(upstream, tf.float32)
    scaled = upstream * tf.cast(gamma, tf.float32)
    dx = scaled - normalized * _mean(scaled * normalized)
    dx = inverse * (dx - _mean(scaled) if centered else dx)
    return tf.cast(dx, x.dtype), upstream * normalized


def _normalize(x: tf.Tensor, epsilon: tf.Tensor, centered: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """Rows [M, D] of mean square 1, and of mean 0 if centered; their factors, [M, 1]."""
    x = tf.cast(x, tf.float32)
    x = x - _mean(x) if centered else x
    inverse = tf.math.rsqrt(_mean(tf.square(x)) + epsilon)
    return x * inverse, inverse


def _mean(rows: tf.Tensor) -> tf.Tensor:
    """The mean of each row [M, 1], by a matrix product: XLA sums rows one number at a time."""
    length = tf.shape(rows)[-1]
    return rows @ tf.fill([length, 1], 1.0 / tf.cast(length, tf.float32))


@tf.custom_gradient
def softmax_kernel(logits: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Softmax over the last axis.

    Args:
        logits: [..., N].

    Returns:
        [..., N] in the dtype of `logits`.

    Example:
        >>> softmax_kernel(tf.zeros([1, 2])).numpy()
        array([[0.5, 0.5]], dtype=float32)
    """
    weights = tf.nn.softmax(tf.cast(logits, tf.float32))
    weights = tf.cast(weights, logits.dtype)
    return weights, lambda upstream: _softmax_backward(weights, upstream)


@_compiled
def _softmax_backward(weights: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    wide, upstream = tf.cast(weights, tf.float32), tf.cast(upstream, tf.float32)
    *leading, length = tf.unstack(tf.shape(weights))
    means = _mean(tf.reshape(wide * upstream, [-1, length]))
    sums = tf.reshape(means * tf.cast(length, tf.float32), [*leading, 1])
    return tf.cast(wide * (upstream - sums), weights.dtype)
