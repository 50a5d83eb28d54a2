"""The normalisations and the layer scale of a block."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_vit.layers.training_kernels import norm_kernel, use_training_kernels


@keras.saving.register_keras_serializable("keras_vit")
class LayerNorm(keras.layers.LayerNormalization):
    """Keras' layer norm over the last axis, faster in training on a processor.

    Args:
        epsilon: added to the variance. Default 1e-6.
        **kwargs: `name`, `dtype` and the like, for `keras.layers.Layer`.

    Example:
        >>> LayerNorm()(keras.ops.zeros([1, 10, 8])).shape
        TensorShape([1, 10, 8])
    """

    def __init__(self, epsilon: float = 1e-6, **kwargs: Any) -> None:
        super().__init__(epsilon=epsilon, **kwargs)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Tokens [..., D] -> [..., D]."""
        if use_training_kernels(training):
            gamma, beta = map(tf.convert_to_tensor, (self.gamma, self.beta))
            return norm_kernel(inputs, gamma, beta, self.epsilon)
        return super().call(inputs)


@keras.saving.register_keras_serializable("keras_vit")
class RMSNorm(keras.layers.RMSNormalization):
    """Keras' RMS norm over the last axis, faster in training on a processor.

    Args:
        epsilon: added to the mean square. Default 1e-6.
        **kwargs: `name`, `dtype` and the like, for `keras.layers.Layer`.

    Example:
        >>> RMSNorm()(keras.ops.zeros([1, 10, 8])).shape
        TensorShape([1, 10, 8])
    """

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Tokens [..., D] -> [..., D]."""
        if use_training_kernels(training):
            return norm_kernel(inputs, tf.convert_to_tensor(self.scale), None, self.epsilon)
        return super().call(inputs)


NORMS = {"layer_norm": LayerNorm, "rms_norm": RMSNorm}


def make_norm(norm: str, epsilon: float, dtype: Any, name: str) -> keras.layers.Layer:
    """A normalisation over the last axis.

    Args:
        norm: "layer_norm" (Ba et al., 2016) or "rms_norm" (Zhang & Sennrich, 2019).
        epsilon: added to the variance, or to the mean square.
        dtype: dtype policy.
        name: of the layer.

    Returns:
        A Keras layer, [..., D] -> [..., D].

    Raises:
        ValueError: if `norm` is unknown.

    Example:
        >>> make_norm("rms_norm", 1e-6, "float32", "norm")(keras.ops.ones([1, 4])).shape
        TensorShape([1, 4])
    """
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {sorted(NORMS)}, not {norm!r}.")
    return NORMS[norm](epsilon=epsilon, dtype=dtype, name=name)


@keras.saving.register_keras_serializable("keras_vit")
class LayerScale(keras.layers.Layer):
    """Multiply every channel of a residual branch by a learned factor.

    "Going Deeper with Image Transformers" (Touvron et al., 2021), equation 3.

    Args:
        init_value: of every factor at the start.
        **kwargs: `name`, `dtype` and the like, for `keras.layers.Layer`.

    Example:
        >>> LayerScale(0.5)(keras.ops.ones([1, 2, 3])).shape
        TensorShape([1, 2, 3])
    """

    def __init__(self, init_value: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.init_value = init_value

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Create the factors [D]."""
        self.gamma = self.add_weight(
            name="gamma",
            shape=(input_shape[-1],),
            initializer=keras.initializers.Constant(self.init_value),
        )

    def call(self, x: Any) -> Any:
        """Tokens [B, N, D] -> [B, N, D]."""
        return x * keras.ops.cast(self.gamma, x.dtype)

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """The shape does not change."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "init_value": self.init_value}
