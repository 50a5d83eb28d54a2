"""What belongs to a model and no image, drawn with matplotlib: distances, positions, filters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from keras_vit.explain.pictures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_distances(distances: np.ndarray, image_size: tuple[int, int]) -> Figure:
    """The mean attention distance of every head over the depth of the network.

    Figure 7 right of Dosovitskiy et al. (2021).

    Args:
        distances: [depth, heads] in pixels, see `mean_attention_distance`.
        image_size: height and width of the images.

    Returns:
        The figure.

    Example:
        >>> draw_distances(np.ones([12, 3]), (224, 224)).axes[0].get_xlabel()
        'network depth (block)'
    """
    figure = new_figure(6, 4)
    axis = figure.subplots()
    from matplotlib import colormaps

    heads = distances.shape[1]
    colours = colormaps["tab10" if heads <= 10 else "tab20"]
    for head, column in enumerate(distances.T):
        colour = colours(head % colours.N)
        axis.plot(range(len(column)), column, "o", color=colour, markersize=5, label=f"head {head}")
    axis.plot(range(len(distances)), distances.mean(axis=1), color="#9a9a9a", zorder=0)
    axis.set_xlabel("network depth (block)")
    axis.set_ylabel("mean attention distance, pixels")
    axis.set_ylim(bottom=0)
    axis.locator_params(axis="x", integer=True)
    axis.spines[["top", "right"]].set_visible(False)
    if heads <= 16:
        axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    axis.set_title(f"images of {image_size[0]} x {image_size[1]}; the line is the mean", fontsize=9)
    return figure


def draw_positions(similarity: np.ndarray) -> Figure:
    """A mosaic with a small map for each patch: how alike its position is to all the others.

    Figure 7 centre of Dosovitskiy et al. (2021). Of more than 16 rows every second, third, … has
    maps, and of more than 16 columns too.

    Args:
        similarity: [grid_h, grid_w, grid_h, grid_w], see `position_similarity`.

    Returns:
        The figure.

    Example:
        >>> len(draw_positions(np.zeros([3, 5, 3, 5])).axes)
        2
    """
    rows, columns = similarity.shape[:2]
    down, across = -(-rows // 16), -(-columns // 16)
    tiles = similarity[::down, ::across]
    mosaic = _mosaic(tiles)
    height, width = (6.4 * side / max(mosaic.shape) for side in mosaic.shape)
    figure = new_figure(max(width, 1.6) + 0.8, max(height, 2.4) + 0.6)
    axis = figure.subplots()
    shown = axis.imshow(mosaic, cmap="viridis", vmin=-1, vmax=1, interpolation="nearest")
    centres = [
        (size + 1) * np.arange(count) + (size - 1) / 2
        for size, count in zip((rows, columns), tiles.shape[:2], strict=True)
    ]
    axis.set_yticks(centres[0], [str(down * index) for index in range(tiles.shape[0])])
    axis.set_xticks(centres[1], [str(across * index) for index in range(tiles.shape[1])])
    axis.set_ylabel("row of the patch")
    axis.set_xlabel("column of the patch")
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0, labelsize=8)
    figure.colorbar(shown, ax=axis, shrink=0.8, label="cosine similarity of positions")
    return figure


def draw_filters(filters: np.ndarray) -> Figure:
    """A mosaic of filters, each from its smallest to its largest value; grey is 0.

    Figure 7 left of Dosovitskiy et al. (2021).

    Args:
        filters: [components, patch_h, patch_w, C] with 3 channels, or 1, see `patch_filters`.

    Returns:
        The figure.

    Raises:
        ValueError: if the filters have another number of channels.

    Example:
        >>> len(draw_filters(np.ones([28, 16, 16, 3])).axes)
        1
    """
    count, height, width, channels = filters.shape
    if channels not in (1, 3):
        raise ValueError(f"Only filters over 1 or 3 channels can be drawn, not over {channels}.")
    across = min(count, 7)
    down = -(-count // across)
    largest = np.abs(filters).max(axis=(1, 2, 3), keepdims=True)
    tiles = np.ones((down * across, height, width, 3))
    tiles[:count] = 0.5 + filters / np.where(largest > 0, 2 * largest, 1)
    figure = new_figure(across + 0.4, down * height / width + 0.8)
    axis = figure.subplots()
    mosaic = _mosaic(tiles.reshape(down, across, height, width, 3))
    axis.imshow(np.nan_to_num(mosaic, nan=1.0), interpolation="nearest")
    axis.set_axis_off()
    axis.set_title(f"first {count} principal components of the patch filters", fontsize=9)
    return figure


def _mosaic(tiles: np.ndarray) -> np.ndarray:
    """Tiles [rows, columns, h, w, ...] side by side, with a line of NaN between."""
    rows, columns, height, width = tiles.shape[:4]
    gap = [(0, 0), (0, 0), (0, 1), (0, 1)] + [(0, 0)] * (tiles.ndim - 4)
    tiles = np.pad(tiles.astype("float32"), gap, constant_values=np.nan)
    mosaic = tiles.swapaxes(1, 2).reshape(
        rows * (height + 1), columns * (width + 1), *tiles.shape[4:]
    )
    return mosaic[:-1, :-1]
