"""The feed-forward half of an encoder block."""

from __future__ import annotations

from typing import Any

import keras

ACTIVATIONS = {
    "gelu": lambda x: keras.ops.gelu(x, approximate=False),
    "gelu_tanh": lambda x: keras.ops.gelu(x, approximate=True),
}


@keras.saving.register_keras_serializable("keras_vit")
class MLP(keras.layers.Layer):
    """Two dense layers with a GELU between, dropout after each.

    Section 3.1 of Dosovitskiy et al. (2021); GELU from Hendrycks & Gimpel (2016).

    Args:
        mlp_dim: width between the two layers.
        activation: "gelu", the exact one, or "gelu_tanh", its tanh approximation, which the
            authors' JAX code uses. Default "gelu".
        dropout_rate: dropout after each dense layer, in [0, 1). Default 0.
        **kwargs: `name`, `dtype` and the like, for `keras.layers.Layer`.

    Raises:
        ValueError: if `activation` is unknown.

    Example:
        >>> MLP(mlp_dim=32)(keras.ops.zeros([1, 10, 8])).shape
        TensorShape([1, 10, 8])
    """

    def __init__(
        self, mlp_dim: int, activation: str = "gelu", dropout_rate: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation must be one of {sorted(ACTIVATIONS)}, not {activation!r}."
            )
        self.mlp_dim = mlp_dim
        self.activation = activation
        self.dropout_rate = dropout_rate

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Create the two dense layers for tokens [B, N, D]."""
        *leading, width = input_shape
        self.fc1 = self._dense(self.mlp_dim, "fc1")
        self.fc2 = self._dense(width, "fc2")
        self.dropout1 = keras.layers.Dropout(
            self.dropout_rate, dtype=self.dtype_policy, name="dropout1"
        )
        self.dropout2 = keras.layers.Dropout(
            self.dropout_rate, dtype=self.dtype_policy, name="dropout2"
        )
        self.fc1.build(input_shape)
        self.fc2.build((*leading, self.mlp_dim))

    def _dense(self, units: int, name: str) -> keras.layers.Dense:
        return keras.layers.Dense(
            units,
            kernel_initializer="glorot_uniform",
            bias_initializer=keras.initializers.RandomNormal(stddev=1e-6),
            dtype=self.dtype_policy,
            name=name,
        )

    def call(self, x: Any, training: bool | None = None) -> Any:
        """Tokens [B, N, D] -> [B, N, D]."""
        x = ACTIVATIONS[self.activation](self.fc1(x))  # [B, N, mlp_dim]
        x = self.dropout1(x, training=training)
        return self.dropout2(self.fc2(x), training=training)

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """The shape does not change."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "mlp_dim": self.mlp_dim,
            "activation": self.activation,
            "dropout_rate": self.dropout_rate,
        }
