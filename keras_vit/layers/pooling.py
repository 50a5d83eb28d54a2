"""Tokens to one vector."""

from __future__ import annotations

from typing import Any

import keras

POOLINGS = ("token", "avg")


@keras.saving.register_keras_serializable("keras_vit")
class TokenPooling(keras.layers.Layer):
    """One vector for the image: the class token, or the mean of the patch tokens.

    Args:
        pooling: "token" or "avg". Default "token".
        num_prefix_tokens: tokens in front of the patches, left out of the mean. Default 1.
        **kwargs: `name`, `dtype` and the like, for `keras.layers.Layer`.

    Raises:
        ValueError: if `pooling` is unknown, or "token" is asked for without a token.

    Example:
        >>> TokenPooling("avg", num_prefix_tokens=0)(keras.ops.zeros([2, 9, 8])).shape
        TensorShape([2, 8])
    """

    def __init__(self, pooling: str = "token", num_prefix_tokens: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {POOLINGS}, not {pooling!r}.")
        if pooling == "token" and num_prefix_tokens < 1:
            raise ValueError(
                "pooling='token' needs the class token: set class_token=True, or pooling='avg'."
            )
        self.pooling = pooling
        self.num_prefix_tokens = num_prefix_tokens

    def call(self, x: Any) -> Any:
        """Tokens [B, N, D] -> [B, D]."""
        if self.pooling == "token":
            return x[:, 0]
        return keras.ops.mean(x[:, self.num_prefix_tokens :], axis=1)

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """[B, N, D] -> [B, D]."""
        return (input_shape[0], input_shape[2])

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "pooling": self.pooling,
            "num_prefix_tokens": self.num_prefix_tokens,
        }
