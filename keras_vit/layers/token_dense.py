"""A dense layer for tokens."""

from __future__ import annotations

from typing import Any

import keras


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

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Tokens [..., D] -> [..., units]."""
        shape = keras.ops.shape(inputs)
        rows = keras.ops.reshape(inputs, (-1, shape[-1]))  # [M, D]
        return keras.ops.reshape(super().call(rows, training=training), (*shape[:-1], self.units))
