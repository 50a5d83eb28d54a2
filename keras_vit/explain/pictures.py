"""Maps over images, drawn with matplotlib.

Each function gives a `matplotlib.figure.Figure` that belongs to no window and no global state;
`save_figure` writes it. `keras_vit.explain.plots` draws what belongs to a model and no image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_vit.atomic_files import hidden_sibling, publish
from keras_vit.resampling import resize_matrix
from keras_vit.vision_transformer import VisionTransformer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HEAT = "inferno"
_ALPHA = 0.6
_LETTER = 0.6  # the mean width of a letter, in sizes of its font


def display_images(model: VisionTransformer, images: Any) -> np.ndarray:
    """The images that a model saw, for the eye: its normalisation undone.

    Args:
        model: whose `preprocessing` made them.
        images: float [N, H, W, 3], normalised.

    Returns:
        float32 [N, H, W, 3] in [0, 1].

    Raises:
        ValueError: if the images do not fit the model, or have other than three channels.

    Example:
        >>> model = VisionTransformer(32, 8, hidden_dim=16, depth=1, num_heads=2)
        >>> display_images(model, np.zeros([1, 32, 32, 3]))[0, 0, 0].tolist()
        [0.5, 0.5, 0.5]
    """
    model.check_images(images)
    images = np.asarray(images, "float32")
    if images.shape[-1] != 3:
        raise ValueError(f"Only images of 3 channels can be drawn, not of {images.shape[-1]}.")
    spec = model.preprocessing
    pixels = images * np.array(spec.std, "float32") + np.array(spec.mean, "float32")
    return np.clip(pixels, 0, 1)


def fit_maps(model: VisionTransformer, maps: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Maps over patches to maps over the pixels of the images that the model saw.

    Args:
        model: that the maps are of.
        maps: [N, grid_h, grid_w] or [N, grid_h, grid_w, channels].
        image_size: height and width of the images.

    Returns:
        float32 [N, height, width] with the channels of `maps`, each patch's value at its centre and
        linear between; NaN where the image has pixels beyond the last patch.

    Raises:
        ValueError: if the maps do not fit images of that size.

    Example:
        >>> model = VisionTransformer((16, 32), 8, hidden_dim=16, depth=1, num_heads=2)
        >>> fit_maps(model, np.ones([3, 2, 4]), (16, 32)).shape
        (3, 16, 32)
    """
    grid = tuple(
        side // patch for side, patch in zip(image_size, model.pixels_per_patch, strict=True)
    )
    if maps.shape[1:3] != grid:
        raise ValueError(
            f"Images of {image_size[0]} x {image_size[1]} pixels have {grid[0]} x {grid[1]} "
            f"patches, but the maps have {maps.shape[1]} x {maps.shape[2]}."
        )
    down, across = (
        keras.ops.convert_to_numpy(resize_matrix(count, count * patch, "bilinear"))
        for count, patch in zip(grid, model.pixels_per_patch, strict=True)
    )
    seen = np.einsum("yh,xw,nhw...->nyx...", down, across, maps.astype("float32"), optimize=True)
    fitted = np.full((len(maps), *image_size, *maps.shape[3:]), np.nan, "float32")
    fitted[:, : seen.shape[1], : seen.shape[2]] = seen
    return fitted


def draw_overlay(image: np.ndarray, heat: np.ndarray, title: str = "", label: str = "") -> Figure:
    """An image, and beside it the same under a map with a colour bar.

    Args:
        image: [H, W, 3] in [0, 1], see `display_images`.
        heat: [H, W] over the same pixels, see `fit_maps`; or colours [H, W, 3] in [0, 1], which are
            shown by themselves.
        title: above both, its lines cut to the width of the figure. Default "".
        label: of the colour bar. Default "".

    Returns:
        The figure.

    Example:
        >>> len(draw_overlay(np.zeros([8, 8, 3]), np.eye(8), "an eye", "share").axes)
        3
    """
    height, width = image.shape[:2]
    long, short = max(_side(width, height), 1.5), _side(height, width)
    figure = new_figure(2 * long + 1.2, short + 0.6)
    left, right = figure.subplots(1, 2)
    _show(left, image)
    shown = _show(right, image, heat)
    if heat.ndim == 2:
        figure.colorbar(shown, ax=right, label=label)
    _set_title(figure, title)
    return figure


def draw_sheet(
    images: np.ndarray, maps: np.ndarray, titles: Sequence[str] = (), label: str = ""
) -> Figure:
    """A contact sheet: each image beside the same under its map.

    Args:
        images: [N, H, W, 3] in [0, 1], see `display_images`.
        maps: [N, H, W] over the same pixels, each drawn from its own smallest to its own largest
            value; or colours [N, H, W, 3], which are shown by themselves.
        titles: of each pair, their lines cut to its width. Default (): none.
        label: of the colour bar. Default "".

    Returns:
        The figure.

    Example:
        >>> len(draw_sheet(np.zeros([3, 8, 8, 3]), np.zeros([3, 8, 8, 3])).axes)
        6
    """
    count, (height, width) = len(images), images.shape[1:3]
    across = max(1, min(count, round(math.sqrt(count * height / width / 1.5)), 6))
    down = -(-count // across)
    long, short = max(_side(width, height) / 2, 0.7), _side(height, width) / 2
    text = 0.16 * max((len(title.splitlines()) for title in titles), default=0)
    figure = new_figure(across * (2 * long + 0.2) + 1.2, down * (short + text + 0.1) + 0.4)
    axes = figure.subplots(down, 2 * across, squeeze=False)
    for axis in axes.flat[2 * count :]:
        axis.remove()
    pairs = axes.flat[: 2 * count].reshape(count, 2)
    for index, (left, right) in enumerate(pairs):
        _show(left, images[index])
        shown = _show(right, images[index], maps[index])
        if index < len(titles):
            fitted = _fitted(titles[index], 2 * long, size=8)
            left.set_title(fitted, fontsize=8, loc="left", parse_math=False)
    if maps.ndim == 3:
        fraction = 0.25 / figure.get_figwidth()
        bar = figure.colorbar(
            shown, ax=figure.axes[:], shrink=0.6, fraction=fraction, pad=fraction, label=label
        )
        bar.set_ticks(shown.get_clim(), labels=["least", "most"])
    return figure


def draw_heads(image: np.ndarray, maps: np.ndarray, title: str = "", label: str = "") -> Figure:
    """An image, the mean of its maps over it, and each map by itself.

    Args:
        image: [H, W, 3] in [0, 1], see `display_images`.
        maps: [heads, H, W] over the same pixels, see `fit_maps`; all on one scale.
        title: above all, its lines cut to the width of the figure. Default "".
        label: of the colour bar. Default "".

    Returns:
        The figure.

    Example:
        >>> len(draw_heads(np.zeros([8, 8, 3]), np.zeros([3, 8, 8])).axes)
        6
    """
    height, width = image.shape[:2]
    count = len(maps) + 2
    long, short = max(_side(width, height) / 1.6, 0.8), _side(height, width) / 1.6
    across = min(count, max(3, math.ceil(math.sqrt(count * short / long))))
    down = -(-count // across)
    figure = new_figure(across * long + 1.2, down * (short + 0.4) + 0.8)
    axes = figure.subplots(down, across, squeeze=False)
    for axis in axes.flat[count:]:
        axis.remove()
    limits = float(np.nanmin(maps)), float(np.nanmax(maps))
    _show(axes.flat[0], image)
    names = ["mean", *(f"head {index}" for index in range(len(maps)))]
    for axis, name, heat in zip(axes.flat[1:count], names, [maps.mean(axis=0), *maps], strict=True):
        shown = _show(axis, image, heat, limits)
        axis.set_title(name, fontsize=9)
    figure.colorbar(shown, ax=figure.axes[:], shrink=0.8, label=label)
    _set_title(figure, title)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure whole or not at all.

    Args:
        figure: to write.
        path: its suffix is the format: .png, .jpg, .pdf or .svg.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "cat.png"
        >>> save_figure(draw_overlay(np.zeros([8, 8, 3]), np.eye(8)), path)
        >>> path.read_bytes()[1:4]
        b'PNG'
    """
    with hidden_sibling(path) as temporary:
        figure.savefig(temporary, dpi=120)
        publish(temporary, path)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, which belongs to no window."""
    from matplotlib.figure import Figure  # 0.5 s, and only when a picture is wanted

    return Figure(figsize=(width, height), layout="constrained")


def _side(this: int, other: int) -> float:
    """Inches of one side of an image whose longer side is 3.6."""
    return 3.6 * this / max(this, other)


def _fitted(title: str, width: float, size: float) -> str:
    """The title with each of its lines cut to what a width in inches holds."""
    columns = max(6, int(width * 72 / (_LETTER * size)))
    lines = title.splitlines()
    return "\n".join(x if len(x) <= columns else f"{x[: columns - 1]}…" for x in lines)


def _set_title(figure: Figure, title: str) -> None:
    """Put a title above all; a `$` in the name of a file or a class is no formula."""
    fitted = _fitted(title, figure.get_figwidth(), size=11)
    figure.suptitle(fitted, fontsize=11, parse_math=False)


def _show(
    axis: Axes,
    image: np.ndarray,
    heat: np.ndarray | None = None,
    limits: tuple[float, float] | None = None,
) -> Any:
    """An image [H, W, 3], under a map [H, W] or instead of it colours [H, W, 3]."""
    axis.set_axis_off()
    if heat is not None and heat.ndim == 3:
        return axis.imshow(np.nan_to_num(heat))
    shown = axis.imshow(image)
    if heat is None:
        return shown
    low, high = limits or (float(np.nanmin(heat)), float(np.nanmax(heat)))
    return axis.imshow(heat, cmap=_HEAT, alpha=_ALPHA, vmin=low, vmax=high, interpolation="nearest")
