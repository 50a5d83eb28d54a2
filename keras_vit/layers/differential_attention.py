"""Attention as the difference of two attentions."""

from __future__ import annotations

import math
from typing import Any

import keras

from keras_vit.layers.attention import MultiHeadSelfAttention, check_num_heads
from keras_vit.layers.normalization import make_norm


@keras.saving.register_keras_serializable("keras_vit")
class DifferentialAttention(MultiHeadSelfAttention):
    """Two attention maps in each head, the second subtracted from the first.

    "Differential Transformer" (Ye et al., 2024), equations 1 to 3:
    `(softmax(q1 k1^T) - lambda softmax(q2 k2^T)) v`, then an RMS norm in each head, times
    `1 - lambda_init`; `lambda = exp(l_q1 . l_k1) - exp(l_q2 . l_k2) + lambda_init` and
    `lambda_init = 0.8 - 0.6 exp(-0.3 block_index)`.

    Args:
        num_heads: number of heads, such that D / num_heads is even.
        block_index: number of the block, from 0.
        **kwargs: the other arguments of `MultiHeadSelfAttention`.

    Raises:
        ValueError: when built on a width that does not fit `num_heads`.

    Example:
        >>> DifferentialAttention(num_heads=2, block_index=0)(keras.ops.zeros([1, 10, 8])).shape
        TensorShape([1, 10, 8])
    """

    maps_per_head = 2

    def __init__(self, num_heads: int, block_index: int = 0, **kwargs: Any) -> None:
        super().__init__(num_heads, **kwargs)
        self.block_index = block_index
        self.lambda_init = 0.8 - 0.6 * math.exp(-0.3 * block_index)
        self.sub_norm = make_norm("rms_norm", 1e-5, self.dtype_policy, "sub_norm")

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Create the projections and the four vectors of lambda for tokens [B, N, D]."""
        head_dim = check_num_heads(input_shape[-1], self.num_heads)
        if head_dim % 2:
            raise ValueError(
                f"Differential attention halves each head, but {input_shape[-1]} / "
                f"{self.num_heads} heads is {head_dim}: choose num_heads so that it is even."
            )
        super().build(input_shape)
        self.lambdas = [
            self.add_weight(
                name=name,
                shape=(self.head_dim // 2,),
                initializer=keras.initializers.RandomNormal(stddev=0.1),
            )
            for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")
        ]
        self.sub_norm.build((None, self.num_heads, None, self.head_dim))

    def _query_key_value(self, x: Any) -> tuple[Any, Any, Any]:
        """Tokens [B, N, D] to q and k [B, 2H, N, D/2H], and v [B, H, N, D/H]."""
        q, k, v = keras.ops.split(self.qkv(x), 3, axis=-1)  # [B, N, D] each
        q, k = self._split(q, 2 * self.num_heads), self._split(k, 2 * self.num_heads)
        if self.q_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        return q, k, self._split(v, self.num_heads)

    def _weights(self, q: Any, k: Any, training: bool | None = None) -> Any:
        """The difference of the two attentions, [B, H, N, N]; a row sums to 1 - lambda."""
        weights = super()._weights(q, k, training)  # [B, 2H, N, N], the two maps of a head in turn
        first, second = weights[:, 0::2], weights[:, 1::2]
        lambda_q1, lambda_k1, lambda_q2, lambda_k2 = self.lambdas
        strength = (
            keras.ops.exp(keras.ops.sum(lambda_q1 * lambda_k1))
            - keras.ops.exp(keras.ops.sum(lambda_q2 * lambda_k2))
            + self.lambda_init
        )
        return first - keras.ops.cast(strength, weights.dtype) * second

    def _values(self, weights: Any, v: Any) -> Any:
        """What the differences take from the values, normalised in each head, [B, N, D]."""
        x = self.sub_norm(keras.ops.matmul(weights, v)) * (1 - self.lambda_init)  # [B, H, N, D/H]
        return self._merge(x)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "block_index": self.block_index}
