"""Images to a grid of patch tokens."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_vit.layers.normalization import make_norm
from keras_vit.layers.training_kernels import dense_kernel, use_training_kernels
from keras_vit.preprocessing import size_pair


@keras.saving.register_keras_serializable("keras_vit")
class PatchEmbedding(keras.layers.Layer):
    """Cut an image into patches and project each to one token, as a strided convolution.

    Section 3.1 of "An Image is Worth 16x16 Words" (Dosovitskiy et al., 2021), equation 1.

    Args:
        hidden_dim: width of a token, D.
        patch_size: side of a patch, an int or (height, width).
        use_bias: whether the projection has a bias. Default True.
        use_norm: whether a normalisation follows the projection. Default False.
        norm: which, "layer_norm" or "rms_norm". Default "layer_norm".
        norm_epsilon: epsilon of that normalisation. Default 1e-6.
        allow_remainder: whether the pixels to the right and below the last whole patch are left
            out; otherwise such an image is an error. Default False.
        **kwargs: `name`, `dtype` and the like, for `keras.layers.Layer`.

    Raises:
        ValueError: when built on an image that is not a whole number of patches.

    Example:
        >>> PatchEmbedding(hidden_dim=8, patch_size=(4, 2))(keras.ops.zeros([1, 16, 16, 3])).shape
        TensorShape([1, 4, 8, 8])
    """

    def __init__(
        self,
        hidden_dim: int,
        patch_size: int | tuple[int, int],
        use_bias: bool = True,
        use_norm: bool = False,
        norm: str = "layer_norm",
        norm_epsilon: float = 1e-6,
        allow_remainder: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.patch_size = size_pair(patch_size, "patch_size")
        self.use_bias = use_bias
        self.use_norm = use_norm
        self.allow_remainder = allow_remainder
        self._norm_arguments = {"norm": norm, "norm_epsilon": norm_epsilon}
        self.projection = keras.layers.Conv2D(
            hidden_dim,
            self.patch_size,
            strides=self.patch_size,
            padding="valid",
            data_format="channels_last",
            use_bias=use_bias,
            kernel_initializer="lecun_normal",
            dtype=self.dtype_policy,
            name="projection",
        )
        self.norm = None
        if use_norm:
            self.norm = make_norm(norm, norm_epsilon, self.dtype_policy, "norm")

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Create the projection for images (or feature maps) [B, H, W, C]."""
        if None not in input_shape[1:3]:
            grid_size(input_shape[1:3], self.patch_size, self.allow_remainder)
        self.projection.build(input_shape)
        if self.norm is not None:
            self.norm.build((None, None, None, self.hidden_dim))

    def call(self, images: Any, training: bool | None = None) -> Any:
        """Project images [B, H, W, C] to a grid of tokens [B, H/P, W/P, D]."""
        fast = use_training_kernels(training)
        x = self._as_a_product(images) if fast else self.projection(images)
        return x if self.norm is None else self.norm(x)

    def _as_a_product(self, images: Any) -> Any:
        """The same; oneDNN takes ten times as long for a convolution's gradient in bfloat16."""
        batch, height, width, channels = keras.ops.shape(images)
        (p, q), layer = self.patch_size, self.projection
        rows, columns = height // p, width // q
        x = images[:, : rows * p, : columns * q]
        x = keras.ops.reshape(x, (batch, rows, p, columns, q * channels))
        x = keras.ops.transpose(x, (0, 1, 3, 2, 4))
        x = keras.ops.reshape(x, (-1, p * q * channels))  # [M, P P C]
        kernel = tf.reshape(layer.kernel, [p * q * channels, self.hidden_dim])
        bias = tf.convert_to_tensor(layer.bias) if self.use_bias else None
        tokens = dense_kernel(x, kernel, bias)
        return keras.ops.reshape(tokens, (batch, rows, columns, self.hidden_dim))

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """[B, H, W, C] -> [B, H/P, W/P, D]."""
        rows, columns = (
            None if side is None else side // patch
            for side, patch in zip(input_shape[1:3], self.patch_size, strict=True)
        )
        return (input_shape[0], rows, columns, self.hidden_dim)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "patch_size": self.patch_size,
            "use_bias": self.use_bias,
            "use_norm": self.use_norm,
            "allow_remainder": self.allow_remainder,
            **self._norm_arguments,
        }


def grid_size(
    image_size: tuple[int, int], patch_size: tuple[int, int], allow_remainder: bool = False
) -> tuple[int, int]:
    """How many patches an image has down and across.

    Args:
        image_size: (height, width) in pixels.
        patch_size: (height, width) in pixels.
        allow_remainder: whether pixels may be left over. Default False.

    Returns:
        (rows, columns).

    Raises:
        ValueError: if the image is not a whole number of patches.

    Example:
        >>> grid_size((224, 160), (16, 16))
        (14, 10)
    """
    if not allow_remainder and any(
        side % patch for side, patch in zip(image_size, patch_size, strict=True)
    ):
        fits = tuple(
            max(patch, round(side / patch) * patch)
            for side, patch in zip(image_size, patch_size, strict=True)
        )
        raise ValueError(
            f"An image of {image_size[0]} x {image_size[1]} pixels (height x width) is not a whole "
            f"number of patches of {patch_size[0]} x {patch_size[1]}. The nearest image_size that "
            f"fits is {fits}; otherwise change patch_size."
        )
    return image_size[0] // patch_size[0], image_size[1] // patch_size[1]
