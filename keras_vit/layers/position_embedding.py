"""Where each token is."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_vit.resampling import RESAMPLINGS, resample_positions

KINDS = ("learned", "sincos2d")


@keras.saving.register_keras_serializable("keras_vit")
class PositionEmbedding(keras.layers.Layer):
    """Add a position to every patch token.

    On a grid of another size than its own the positions are resampled, in the graph.

    Args:
        grid: rows and columns of the patch grid that the positions are for.
        kind: "learned", one vector for every patch from N(0, 0.02) (Dosovitskiy et al., 2021), or
            "sincos2d", the fixed table of `sincos2d_table`. Default "learned".
        resampling: how positions fit another grid, see `keras_vit.resampling`. Default
            "bicubic_antialias".
        **kwargs: `name`, `dtype` and the like, for `keras.layers.Layer`.

    Raises:
        ValueError: if `kind` or `resampling` is unknown.

    Example:
        >>> PositionEmbedding(grid=(3, 3))(keras.ops.zeros([2, 3, 5, 8])).shape
        TensorShape([2, 3, 5, 8])
    """

    def __init__(
        self,
        grid: tuple[int, int],
        kind: str = "learned",
        resampling: str = "bicubic_antialias",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if kind not in KINDS:
            raise ValueError(f"position embedding must be one of {KINDS}, not {kind!r}.")
        if resampling not in RESAMPLINGS:
            raise ValueError(f"resampling must be one of {RESAMPLINGS}, not {resampling!r}.")
        self.grid = (int(grid[0]), int(grid[1]))
        self.kind = kind
        self.resampling = resampling

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Create the table [1, N, D]."""
        width = input_shape[-1]
        if self.kind == "learned":
            self.table = self.add_weight(
                name="position_embedding",
                shape=(1, self.grid[0] * self.grid[1], width),
                initializer=keras.initializers.RandomNormal(stddev=0.02),
            )
        else:
            self.table = sincos2d_table(self.grid, width)[None].astype("float32")

    def call(self, x: Any) -> Any:
        """Tokens [B, rows, columns, D] -> the same shape."""
        rows, columns, width = x.shape[1:]
        table = self.table
        if (rows, columns) != self.grid:
            grid = keras.ops.shape(x)[1:3]
            table = resample_positions(table, self.grid, grid, self.resampling)
            rows, columns = grid
        table = keras.ops.reshape(table, (1, rows, columns, width))
        return x + keras.ops.cast(table, x.dtype)

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """The shape does not change."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "grid": self.grid,
            "kind": self.kind,
            "resampling": self.resampling,
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
