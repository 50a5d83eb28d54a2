"""Tokens to one vector."""

from __future__ import annotations

from typing import Any

import keras

from keras_vit.layers.attention import check_num_heads
from keras_vit.layers.mlp import MLP
from keras_vit.layers.normalization import make_norm
from keras_vit.layers.token_dense import TokenDense

POOLINGS = ("token", "avg", "max", "avgmax", "token_avg", "map")


@keras.saving.register_keras_serializable("keras_vit")
class TokenPooling(keras.layers.Layer):
    """One vector for the image from the class token, or from the patch tokens.

    Args:
        pooling: "token" (the class token), "avg" (mean of the patches), "max" (largest of the
            patches, channel by channel), "avgmax" (the mean of those two) or "token_avg" (the
            class token and the mean side by side, 2 D channels, as DINOv2's classifiers do).
            Default "token".
        num_prefix_tokens: tokens in front of the patches. Default 1.
        include_prefix: whether mean and maximum cover those tokens too. Default False.
        **kwargs: `name`, `dtype` and the like, for `keras.layers.Layer`.

    Raises:
        ValueError: if `pooling` is unknown, or asks for a token where there is none.

    Example:
        >>> TokenPooling("avg", num_prefix_tokens=0)(keras.ops.zeros([2, 9, 8])).shape
        TensorShape([2, 8])
    """

    def __init__(
        self,
        pooling: str = "token",
        num_prefix_tokens: int = 1,
        include_prefix: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if pooling not in POOLINGS or pooling == "map":
            raise ValueError(f"pooling must be one of {POOLINGS}, not {pooling!r}.")
        if "token" in pooling and num_prefix_tokens < 1:
            raise ValueError(
                f"pooling={pooling!r} needs the class token: set class_token=True, or "
                f"pooling='avg'."
            )
        self.pooling = pooling
        self.num_prefix_tokens = num_prefix_tokens
        self.include_prefix = include_prefix

    def call(self, x: Any) -> Any:
        """Tokens [B, N, D] -> [B, D], or [B, 2 D] for "token_avg"."""
        if self.pooling == "token":
            return x[:, 0]
        patches = x if self.include_prefix else x[:, self.num_prefix_tokens :]
        if self.pooling == "max":
            return keras.ops.max(patches, axis=1)
        mean = keras.ops.mean(patches, axis=1)
        if self.pooling == "token_avg":
            return keras.ops.concatenate([x[:, 0], mean], axis=-1)
        if self.pooling == "avgmax":
            return 0.5 * (keras.ops.max(patches, axis=1) + mean)
        return mean

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """[B, N, D] -> [B, D]."""
        return (input_shape[0], input_shape[2] * (2 if self.pooling == "token_avg" else 1))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "pooling": self.pooling,
            "num_prefix_tokens": self.num_prefix_tokens,
            "include_prefix": self.include_prefix,
        }


@keras.saving.register_keras_serializable("keras_vit")
class AttentionPooling(keras.layers.Layer):
    """One learned query attends to every token: the MAP head.

    "Scaling Vision Transformers" (Zhai et al., 2022), section 3.2, after the Set Transformer (Lee
    et al., 2019): `y = attention(query, x)`, then `y + mlp(norm(y))`.

    Args:
        num_heads: number of heads, a divisor of D.
        mlp_dim: width inside the MLP.
        activation: of the MLP, see `MLP`. Default "gelu".
        num_skipped_tokens: tokens in front that are not attended to. Default 0.
        norm: "layer_norm" or "rms_norm". Default "layer_norm".
        norm_epsilon: of that norm. Default 1e-6.
        **kwargs: `name`, `dtype` and the like, for `keras.layers.Layer`.

    Raises:
        ValueError: when built on a width that `num_heads` does not divide.

    Example:
        >>> AttentionPooling(num_heads=2, mlp_dim=16)(keras.ops.zeros([2, 9, 8])).shape
        TensorShape([2, 8])
    """

    def __init__(
        self,
        num_heads: int,
        mlp_dim: int,
        activation: str = "gelu",
        num_skipped_tokens: int = 0,
        norm: str = "layer_norm",
        norm_epsilon: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._arguments = {
            "num_heads": num_heads,
            "mlp_dim": mlp_dim,
            "activation": activation,
            "num_skipped_tokens": num_skipped_tokens,
            "norm": norm,
            "norm_epsilon": norm_epsilon,
        }
        self.num_heads = num_heads
        self.num_skipped_tokens = num_skipped_tokens
        self.norm = make_norm(norm, norm_epsilon, self.dtype_policy, "norm")
        self.mlp = MLP(mlp_dim, activation=activation, dtype=self.dtype_policy, name="mlp")

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Create the query [1, 1, D] and the projections for tokens [B, N, D]."""
        width = input_shape[-1]
        self.head_dim = check_num_heads(width, self.num_heads)
        self.query = self.add_weight(
            name="query_token", shape=(1, 1, width), initializer="glorot_uniform"
        )
        self.q, self.k, self.v, self.projection = (
            TokenDense(width, dtype=self.dtype_policy, name=name)
            for name in ("query", "key", "value", "projection")
        )
        for layer in (self.q, self.k, self.v, self.projection):
            layer.build((None, None, width))
        self.norm.build((None, width))
        self.mlp.build((None, width))

    def call(self, x: Any, weights: Any = None) -> Any:
        """Tokens [B, N, D] -> [B, D].

        Args:
            x: tokens [B, skipped + N, D].
            weights: attention weights [B, H, N] to take in the place of `attention_weights(x)`.
                Default None.
        """
        v = self._heads(self.v(x[:, self.num_skipped_tokens :]))  # [B, H, N, D/H]
        if weights is None:
            weights = self.attention_weights(x)
        weights = keras.ops.cast(weights, v.dtype)[:, :, None]  # [B, H, 1, N]
        y = keras.ops.matmul(weights, v)  # [B, H, 1, D/H]
        y = self.projection(keras.ops.reshape(y, (-1, self.num_heads * self.head_dim)))  # [B, D]
        return y + self.mlp(self.norm(y))

    def attention_weights(self, x: Any) -> Any:
        """How much the query attends to each token.

        Args:
            x: tokens [B, skipped + N, D], as `call` takes them.

        Returns:
            float32 [B, H, N]; each row sums to 1.
        """
        x = x[:, self.num_skipped_tokens :]
        q = self._heads(self.q(keras.ops.cast(self.query, x.dtype)))  # [1, H, 1, D/H]
        k = self._heads(self.k(x))  # [B, H, N, D/H]
        logits = keras.ops.matmul(q * self.head_dim**-0.5, keras.ops.transpose(k, (0, 1, 3, 2)))
        return keras.ops.softmax(keras.ops.cast(logits, "float32"), axis=-1)[:, :, 0]

    def _heads(self, x: Any) -> Any:
        """[B, N, D] to [B, H, N, D/H]."""
        length = x.shape[1] if x.shape[1] is not None else keras.ops.shape(x)[1]
        x = keras.ops.reshape(x, (-1, length, self.num_heads, self.head_dim))
        return keras.ops.transpose(x, (0, 2, 1, 3))

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """[B, N, D] -> [B, D]."""
        return (input_shape[0], input_shape[2])

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), **self._arguments}
