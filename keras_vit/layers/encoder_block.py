"""One block of the encoder."""

from __future__ import annotations

from typing import Any

import keras

from keras_vit.layers.attention import MultiHeadSelfAttention
from keras_vit.layers.drop_path import DropPath
from keras_vit.layers.mlp import MLP


@keras.saving.register_keras_serializable("keras_vit")
class EncoderBlock(keras.layers.Layer):
    """Attention, then MLP, each after a norm and with a residual.

    Equations 2 and 3 of Dosovitskiy et al. (2021):
    `x + drop_path(attention(norm1(x)))`, then `x + drop_path(mlp(norm2(x)))`.

    Args:
        num_heads: number of attention heads, a divisor of the token width D.
        mlp_dim: width inside the MLP.
        qkv_bias: whether query, key and value have a bias. Default True.
        qk_scale: factor on the attention logits. Default None: `(D / num_heads) ** -0.5`.
        activation: of the MLP, "gelu" or "gelu_tanh". Default "gelu".
        dropout_rate: after the attention's projection and after each dense layer of the MLP, in
            [0, 1). Default 0.
        attention_dropout_rate: on the attention weights, in [0, 1). Default 0.
        drop_path_rate: of dropping each branch for an example, in [0, 1). Default 0.
        norm_epsilon: of both layer normalisations. Default 1e-6.
        **kwargs: `name`, `dtype` and the like, for `keras.layers.Layer`.

    Raises:
        ValueError: from the layers inside, when an argument is out of range.

    Example:
        >>> EncoderBlock(num_heads=2, mlp_dim=32)(keras.ops.zeros([1, 10, 8])).shape
        TensorShape([1, 10, 8])
    """

    def __init__(
        self,
        num_heads: int,
        mlp_dim: int,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        activation: str = "gelu",
        dropout_rate: float = 0.0,
        attention_dropout_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_epsilon: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._arguments = {
            "num_heads": num_heads,
            "mlp_dim": mlp_dim,
            "qkv_bias": qkv_bias,
            "qk_scale": qk_scale,
            "activation": activation,
            "dropout_rate": dropout_rate,
            "attention_dropout_rate": attention_dropout_rate,
            "drop_path_rate": drop_path_rate,
            "norm_epsilon": norm_epsilon,
        }
        policy = self.dtype_policy
        self.norm1 = keras.layers.LayerNormalization(
            epsilon=norm_epsilon, dtype=policy, name="norm1"
        )
        self.attention = MultiHeadSelfAttention(
            num_heads,
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            attention_dropout_rate=attention_dropout_rate,
            dropout_rate=dropout_rate,
            dtype=policy,
            name="attention",
        )
        self.norm2 = keras.layers.LayerNormalization(
            epsilon=norm_epsilon, dtype=policy, name="norm2"
        )
        self.mlp = MLP(
            mlp_dim, activation=activation, dropout_rate=dropout_rate, dtype=policy, name="mlp"
        )
        self.drop_path1 = DropPath(drop_path_rate, dtype=policy, name="drop_path1")
        self.drop_path2 = DropPath(drop_path_rate, dtype=policy, name="drop_path2")

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Create the layers for tokens [B, N, D]."""
        for layer in (self.norm1, self.attention, self.norm2, self.mlp):
            layer.build(input_shape)

    def call(self, x: Any, training: bool | None = None) -> Any:
        """Tokens [B, N, D] -> [B, N, D]."""
        x = x + self.drop_path1(self.attention(self.norm1(x), training=training), training=training)
        return x + self.drop_path2(self.mlp(self.norm2(x), training=training), training=training)

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """The shape does not change."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), **self._arguments}
