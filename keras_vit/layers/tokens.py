"""Tokens that are learned, not cut from the image."""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable("keras_vit")
class ClassToken(keras.layers.Layer):
    """Put one learned token in front of the patch tokens.

    The `x_class` of equation 1 in Dosovitskiy et al. (2021); it starts at zero as in the
    authors' code.

    Args:
        **kwargs: `name`, `dtype` and the like, for `keras.layers.Layer`.

    Example:
        >>> ClassToken()(keras.ops.zeros([2, 9, 8])).shape
        TensorShape([2, 10, 8])
    """

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Create the token [1, 1, D]."""
        self.token = self.add_weight(
            name="class_token", shape=(1, 1, input_shape[-1]), initializer="zeros"
        )

    def call(self, x: Any) -> Any:
        """Tokens [B, N, D] -> [B, 1 + N, D]."""
        token = keras.ops.cast(self.token, x.dtype)
        tokens = keras.ops.broadcast_to(token, (keras.ops.shape(x)[0], 1, x.shape[-1]))
        return keras.ops.concatenate([tokens, x], axis=1)

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """[B, N, D] -> [B, 1 + N, D]."""
        batch, length, width = input_shape
        return (batch, length + 1, width)
