"""The normalisations and the layer scale of a block."""

from __future__ import annotations

from typing import Any

import keras

NORMS = {
    "layer_norm": keras.layers.LayerNormalization,
    "rms_norm": keras.layers.RMSNormalization,
}


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
