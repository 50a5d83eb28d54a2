"""Tokens that are learned, not cut from the image."""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable("keras_vit")
class PrefixTokens(keras.layers.Layer):
    """Put learned tokens in front of the patch tokens.

    In this order: the class token (equation 1 of Dosovitskiy et al., 2021; it starts at zero as in
    the authors' code), the distillation token (Touvron et al., 2021), the registers ("Vision
    Transformers Need Registers", Darcet et al., 2024).

    Args:
        class_token: whether there is a class token. Default True.
        distillation_token: whether there is a distillation token. Default False.
        register_tokens: how many registers there are. Default 0.
        use_positions: whether these tokens have learned positions too. Default False.
        **kwargs: `name`, `dtype` and the like, for `keras.layers.Layer`.

    Example:
        >>> PrefixTokens(register_tokens=4)(keras.ops.zeros([2, 9, 8])).shape
        TensorShape([2, 14, 8])
    """

    def __init__(
        self,
        class_token: bool = True,
        distillation_token: bool = False,
        register_tokens: int = 0,
        use_positions: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.class_token = class_token
        self.distillation_token = distillation_token
        self.register_tokens = register_tokens
        self.use_positions = use_positions
        self.num_tokens = int(class_token) + int(distillation_token) + register_tokens

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Create the tokens [1, 1 or register_tokens, D] and their positions."""
        width = input_shape[-1]

        def weight(name: str, length: int, stddev: float) -> Any:
            initializer = keras.initializers.RandomNormal(stddev=stddev) if stddev else "zeros"
            return self.add_weight(name=name, shape=(1, length, width), initializer=initializer)

        self.tokens = []
        if self.class_token:
            self.tokens.append(weight("class_token", 1, 0.0))
        if self.distillation_token:
            self.tokens.append(weight("distillation_token", 1, 0.02))
        if self.register_tokens:
            self.tokens.append(weight("register_tokens", self.register_tokens, 1e-6))
        self.positions = None
        if self.use_positions:
            self.positions = weight("positions", self.num_tokens, 0.02)

    def call(self, x: Any) -> Any:
        """Tokens [B, N, D] -> [B, prefix + N, D]."""
        prefix = keras.ops.concatenate([keras.ops.cast(t, x.dtype) for t in self.tokens], axis=1)
        if self.positions is not None:
            prefix = prefix + keras.ops.cast(self.positions, x.dtype)  # [1, prefix, D]
        shape = (keras.ops.shape(x)[0], self.num_tokens, x.shape[-1])
        return keras.ops.concatenate([keras.ops.broadcast_to(prefix, shape), x], axis=1)

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """[B, N, D] -> [B, prefix + N, D]."""
        batch, length, width = input_shape
        return (batch, None if length is None else length + self.num_tokens, width)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "class_token": self.class_token,
            "distillation_token": self.distillation_token,
            "register_tokens": self.register_tokens,
            "use_positions": self.use_positions,
        }
