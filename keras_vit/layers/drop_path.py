"""Stochastic depth."""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable("keras_vit")
class DropPath(keras.layers.Layer):
    """Drop a residual branch for some examples of a batch while training.

    "Deep Networks with Stochastic Depth" (Huang et al., 2016): the branch is zeroed with
    probability `rate` for each example by itself, and scaled by `1 / (1 - rate)` where it stays.

    Args:
        rate: probability of dropping, in [0, 1).
        seed: int or `keras.random.SeedGenerator`. Default None: drawn from the global seed.
        **kwargs: `name`, `dtype` and the like, for `keras.layers.Layer`.

    Raises:
        ValueError: if `rate` is outside [0, 1).

    Example:
        >>> DropPath(0.5)(keras.ops.ones([4, 9, 8]), training=False).shape
        TensorShape([4, 9, 8])
    """

    def __init__(self, rate: float, seed: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"drop_path rate must be at least 0 and below 1, not {rate!r}.")
        self.rate = rate
        self.seed = seed
        if rate > 0:
            self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, x: Any, training: bool | None = None) -> Any:
        """Tokens [B, N, D] -> [B, N, D]."""
        if not training or self.rate == 0:
            return x
        shape = (keras.ops.shape(x)[0],) + (1,) * (len(x.shape) - 1)  # [B, 1, 1]
        uniform = keras.random.uniform(shape, seed=self.seed_generator, dtype="float32")
        scale = keras.ops.cast(uniform >= self.rate, x.dtype) / (1 - self.rate)
        return x * scale

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """The shape does not change."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
