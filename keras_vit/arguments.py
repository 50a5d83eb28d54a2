"""What the arguments of `VisionTransformer` mean: widths, grids and stems, and what they may be."""

from __future__ import annotations

from typing import Any

from keras_vit.layers import STEMS
from keras_vit.layers.patch_embedding import grid_size
from keras_vit.preprocessing import size_pair


def mlp_width(arguments: dict[str, Any]) -> int:
    """The width inside the MLPs: `mlp_dim`, or `mlp_ratio` times `hidden_dim`, rounded down."""
    if arguments["mlp_dim"] is not None:
        return arguments["mlp_dim"]
    return int(arguments["hidden_dim"] * arguments["mlp_ratio"])


def make_stem(stem: dict[str, Any] | None, policy: Any) -> Any:
    """The layer that a stem's config describes."""
    if stem is None:
        return None
    kind = stem.get("type")
    if kind not in STEMS:
        raise ValueError(f"stem['type'] must be one of {sorted(STEMS)}, not {kind!r}.")
    arguments = {key: value for key, value in stem.items() if key != "type"}
    return STEMS[kind](**arguments, dtype=policy, name="stem")


def table_grid(
    image_size: tuple[int, int] | None,
    patch_size: tuple[int, int],
    stride: int,
    position_grid: tuple[int, int] | None,
    allow_remainder: bool,
) -> tuple[int, int]:
    """Rows and columns of the position table."""
    if image_size is None:
        if position_grid is None:
            position_grid = (
                max(1, 224 // (stride * patch_size[0])),
                max(1, 224 // (stride * patch_size[1])),
            )
        return size_pair(position_grid, "position_grid")
    features = (-(-image_size[0] // stride), -(-image_size[1] // stride))
    grid = grid_size(features, patch_size, allow_remainder)
    if position_grid is not None and size_pair(position_grid, "position_grid") != grid:
        raise ValueError(
            f"position_grid={tuple(position_grid)} is not the {grid} patches of image_size="
            f"{image_size}: leave it out, or set image_size=None."
        )
    return grid


def check_sizes(**sizes: int) -> None:
    """Refuse sizes, by name, that are not positive ints."""
    for key, value in sizes.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{key} must be a positive int, not {value!r}.")


def check_rates(**rates: float) -> None:
    """Refuse rates, by name, outside [0, 1)."""
    for key, value in rates.items():
        if not 0 <= value < 1:
            raise ValueError(f"{key} must be at least 0 and below 1, not {value!r}.")
