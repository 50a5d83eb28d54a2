"""A dense layer for tokens."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_vit.layers.training_kernels import dense_kernel, use_training_kernels


@keras.saving.register_keras_serializable("keras_vit")
class TokenDense(keras.layers.Dense):
    """Keras' dense layer on the last axis, through one matrix of all tokens.

    Keras puts a reshape between product and bias, which keeps TensorFlow from adding the bias in
    the kernel of the product.

    Args:
        units: width of what comes out.
        **kwargs: as of `keras.layers.Dense`.

    Example:
        >>> TokenDense(4)(keras.ops.zeros([1, 10, 8])).shape
        TensorShape([1, 10, 4])
    """

    def call(self, inputs: Any, training: bool | None = None, add_bias: bool = True) -> Any:
        """Tokens [..., D] -> [..., units].

        Args:
            inputs: tokens [..., D].
            training: whether the model is being trained. Default: Keras decides.
            add_bias: False leaves the bias to the caller, in training on a processor. Default True.
        """
        shape = keras.ops.shape(inputs)
        rows = keras.ops.reshape(inputs, (-1, shape[-1]))  # [M, D]
        if use_training_kernels(training):
            bias = tf.convert_to_tensor(self.bias) if self.use_bias and add_bias else None
            y = dense_kernel(rows, tf.convert_to_tensor(self.kernel), bias)
        else:
            y = super().call(rows, training=training)
        return keras.ops.reshape(y, (*shape[:-1], self.units))
