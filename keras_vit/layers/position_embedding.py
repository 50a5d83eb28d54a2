"""Where each token is."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

KINDS = ("learned", "sincos2d")


@keras.saving.register_keras_serializable("keras_vit")
class PositionEmbedding(keras.layers.Layer):
    """Add a position to every token.

    Args:
        grid: rows and columns of the patch grid.
        kind: "learned", one vector for every token from N(0, 0.02) (Dosovitskiy et al., 2021), or
            "sincos2d", the fixed table of `sincos2d_table`; prefix tokens then get zeros. Default
            "learned".
        num_prefix_tokens: tokens in front of the patches, such as the class token. Default 0.
        **kwargs: `name`, `dtype` and the like, for `keras.layers.Layer`.

    Raises:
        ValueError: if `kind` is unknown, or the tokens do not match the grid.

    Example:
        >>> PositionEmbedding(grid=(3, 3), num_prefix_tokens=1)(keras.ops.zeros([2, 10, 8])).shape
        TensorShape([2, 10, 8])
    """

    def __init__(
        self,
        grid: tuple[int, int],
        kind: str = "learned",
        num_prefix_tokens: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if kind not in KINDS:
            raise ValueError(f"position embedding must be one of {KINDS}, not {kind!r}.")
        self.grid = (int(grid[0]), int(grid[1]))
        self.kind = kind
        self.num_prefix_tokens = num_prefix_tokens

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Create the table [1, prefix + N, D]."""
        length, width = input_shape[1:]
        expected = self.num_prefix_tokens + self.grid[0] * self.grid[1]
        if length != expected:
            raise ValueError(
                f"PositionEmbedding got {length} tokens, but a grid of {self.grid} with "
                f"{self.num_prefix_tokens} prefix tokens has {expected}."
            )
        if self.kind == "learned":
            self.table = self.add_weight(
                name="position_embedding",
                shape=(1, length, width),
                initializer=keras.initializers.RandomNormal(stddev=0.02),
            )
        else:
            patches = sincos2d_table(self.grid, width)
            prefix = np.zeros([self.num_prefix_tokens, width])
            self.table = np.concatenate([prefix, patches])[None]  # [1, prefix + N, D]

    def call(self, x: Any) -> Any:
        """Tokens [B, N, D] -> [B, N, D]."""
        return x + keras.ops.cast(self.table, x.dtype)

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """The shape does not change."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "grid": self.grid,
            "kind": self.kind,
            "num_prefix_tokens": self.num_prefix_tokens,
        }


def sincos2d_table(grid: tuple[int, int], width: int, temperature: float = 10_000.0) -> np.ndarray:
    """Fixed two-dimensional sine-cosine positions, as in MoCo v3 and big_vision.

    The width is shared by four parts: sin(x), cos(x), sin(y), cos(y), with frequencies
    `temperature ** -(k / (width / 4 - 1))`.

    Args:
        grid: rows and columns.
        width: D, a multiple of 4, at least 8.
        temperature: the largest wavelength over 2 pi. Default 10,000.

    Returns:
        float64 [rows * columns, D], row by row.

    Raises:
        ValueError: if `width` is not such a multiple.

    Example:
        >>> sincos2d_table((2, 3), 8).shape
        (6, 8)
    """
    if width % 4 or width < 8:
        raise ValueError(
            f"sincos2d positions need a hidden_dim that is a multiple of 4, at least 8, "
            f"not {width}."
        )
    y, x = np.mgrid[: grid[0], : grid[1]].astype(np.float64)
    frequencies = temperature ** -(np.arange(width // 4) / (width // 4 - 1))
    y, x = (np.outer(axis.ravel(), frequencies) for axis in (y, x))  # [N, D/4]
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)
