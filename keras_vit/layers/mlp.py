"""The feed-forward half of an encoder block."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_vit.layers.normalization import make_norm
from keras_vit.layers.token_dense import TokenDense
from keras_vit.layers.training_kernels import activation_kernel, use_training_kernels

ACTIVATIONS = {
    "gelu": lambda x: keras.ops.gelu(x, approximate=False),
    "gelu_tanh": lambda x: keras.ops.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * keras.ops.sigmoid(1.702 * x),
    "silu": keras.ops.silu,
}


@keras.saving.register_keras_serializable("keras_vit")
class MLP(keras.layers.Layer):
    """Two dense layers with a non-linearity between, dropout after each.

    Section 3.1 of Dosovitskiy et al. (2021); GELU from Hendrycks & Gimpel (2016). The gated form
    is "GLU Variants Improve Transformer" (Shazeer, 2020): `activation(x W_gate) * (x W_value)`,
    with both kernels side by side in `fc1`.

    Args:
        mlp_dim: width between the two layers.
        activation: "gelu", the exact one; "gelu_tanh", its tanh approximation, which the authors'
            JAX code uses; "quick_gelu" (`x * sigmoid(1.702 x)`, of OpenAI's CLIP); or "silu".
            Default "gelu".
        gated: whether the first layer is a gated one. Default False.
        use_norm: whether a normalisation precedes the second layer. Default False.
        use_bias: whether the two layers have a bias, a bool or one for each. Default True.
        dropout_rate: dropout after each dense layer, in [0, 1). Default 0.
        norm: of `use_norm`, "layer_norm" or "rms_norm". Default "layer_norm".
        norm_epsilon: of that normalisation. Default 1e-6.
        **kwargs: `name`, `dtype` and the like, for `keras.layers.Layer`.

    Raises:
        ValueError: if `activation` is unknown.

    Example:
        >>> MLP(mlp_dim=32)(keras.ops.zeros([1, 10, 8])).shape
        TensorShape([1, 10, 8])
    """

    def __init__(
        self,
        mlp_dim: int,
        activation: str = "gelu",
        gated: bool = False,
        use_norm: bool = False,
        use_bias: bool | tuple[bool, bool] = True,
        dropout_rate: float = 0.0,
        norm: str = "layer_norm",
        norm_epsilon: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation must be one of {sorted(ACTIVATIONS)}, not {activation!r}."
            )
        self.mlp_dim = mlp_dim
        self.activation = activation
        self.gated = gated
        self.use_norm = use_norm
        self.use_bias = (use_bias, use_bias) if isinstance(use_bias, bool) else tuple(use_bias)
        self.dropout_rate = dropout_rate
        self._norm_arguments = {"norm": norm, "norm_epsilon": norm_epsilon}
        self.norm = None
        if use_norm:
            self.norm = make_norm(norm, norm_epsilon, self.dtype_policy, "norm")

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Create the two dense layers for tokens [B, N, D]."""
        *leading, width = input_shape
        self.fc1 = self._dense(
            2 * self.mlp_dim if self.gated else self.mlp_dim, "fc1", self.use_bias[0]
        )
        self.fc2 = self._dense(width, "fc2", self.use_bias[1])
        self.dropout1 = keras.layers.Dropout(
            self.dropout_rate, dtype=self.dtype_policy, name="dropout1"
        )
        self.dropout2 = keras.layers.Dropout(
            self.dropout_rate, dtype=self.dtype_policy, name="dropout2"
        )
        self.fc1.build(input_shape)
        self.fc2.build((*leading, self.mlp_dim))
        if self.norm is not None:
            self.norm.build((*leading, self.mlp_dim))

    def _dense(self, units: int, name: str, use_bias: bool) -> TokenDense:
        return TokenDense(
            units,
            use_bias=use_bias,
            kernel_initializer="glorot_uniform",
            bias_initializer=keras.initializers.RandomNormal(stddev=1e-6),
            dtype=self.dtype_policy,
            name=name,
        )

    def call(self, x: Any, training: bool | None = None) -> Any:
        """Tokens [B, N, D] -> [B, N, D]."""
        name = self.activation
        fast = use_training_kernels(training)
        activation = activation_kernel(name) if fast else ACTIVATIONS[name]
        bias = []
        if fast and self.fc1.use_bias and not self.gated:  # added in the activation's own pass
            bias.append(tf.convert_to_tensor(self.fc1.bias))
        x = self.fc1(x, training=training, add_bias=not bias)  # [B, N, mlp_dim]; gated, twice that
        if self.gated:
            gate, value = keras.ops.split(x, 2, axis=-1)
            x = activation(gate) * value  # [B, N, mlp_dim]
        else:
            x = activation(x, *bias)
        x = self.dropout1(x, training=training)
        if self.norm is not None:
            x = self.norm(x, training=training)
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
            "gated": self.gated,
            "use_norm": self.use_norm,
            "use_bias": self.use_bias,
            "dropout_rate": self.dropout_rate,
            **self._norm_arguments,
        }
