"""Images of a data set inside the page: as the model sees them, and under their attention."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from keras_vit import VisionTransformer
from keras_vit.explain import rollout_function
from keras_vit.explain.pictures import display_images, fit_maps
from training.report.collect import Example

_BATCH = 4  # attention takes T * T values a head
_LONGEST_SIDE = 192
_SMALL = 96  # a smaller image keeps its pixels, which JPEG would blur
_QUALITY = 80
_ALPHA = 0.6
_HEAT = "inferno"


class Picture(NamedTuple):
    """An image of the page.

    Args:
        image: as the model sees it, an address that holds its bytes (data:…).
        overlay: the same under its attention rollout; None if there is no map of it.
        is_small: whether its pixels are to be seen as squares.
    """

    image: str
    overlay: str | None
    is_small: bool


def pictures(
    model: VisionTransformer,
    examples: Sequence[Example],
    report: Callable[[str], None] = print,
) -> list[Picture]:
    """What a model saw of some examples, and where it looked.

    Args:
        model: with its preprocessing, which cuts and resizes the images.
        examples: with encoded images that can be decoded.
        report: called with a line if the model has no map of attention. Default `print`.

    Returns:
        One `Picture` for each.

    Example:
        >>> model = VisionTransformer(16, 8, hidden_dim=16, depth=1, num_heads=2, num_classes=3)
        >>> image_bytes = tf.io.encode_png(tf.zeros([9, 9, 3], tf.uint8)).numpy()
        >>> (picture,) = pictures(model, [Example(0, "black.png", image_bytes)])
        >>> picture.overlay[:22]
        'data:image/png;base64,'
    """
    made: list[Picture] = []
    heat: list[np.ndarray | None]
    rollout = rollout_function(model)
    for start in range(0, len(examples), _BATCH):
        part = examples[start : start + _BATCH]
        inputs = tf.stack([model.preprocessing(example.image_bytes) for example in part])
        seen = display_images(model, inputs)  # [n, H, W, 3]
        try:
            heat = list(fit_maps(model, np.asarray(rollout(inputs)), seen.shape[1:3]))
        except ValueError as error:  # the pictures are worth showing without it
            report(f"no attention over the images of the report: {error}")
            heat = [None] * len(part)
        for image, over in zip(seen, heat, strict=True):
            overlay = None if over is None else encode(blend(image, over))
            made.append(Picture(encode(image), overlay, max(image.shape) < _SMALL))
    return made


def blend(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """An image under a map, drawn from the map's smallest to its largest value.

    Args:
        image: float [H, W, 3] in [0, 1].
        heat: float [H, W], NaN where the model sees nothing: there the image stays as it is.

    Returns:
        float [H, W, 3] in [0, 1].

    Example:
        >>> blend(np.ones([1, 2, 3]), np.array([[np.nan, 0.5]]))[0, 0].tolist()
        [1.0, 1.0, 1.0]
    """
    from matplotlib import colormaps  # 0.3 s, and only when a picture is wanted

    low, high = np.nanmin(heat), np.nanmax(heat)
    scaled = (heat - low) / (high - low if high > low else 1)
    colours = colormaps[_HEAT](np.nan_to_num(scaled))[..., :3]  # [H, W, 3]
    alpha = np.where(np.isnan(heat), 0, _ALPHA)[..., None]
    return alpha * colours + (1 - alpha) * image


def encode(image: np.ndarray) -> str:
    """An image as an address that holds its bytes.

    Args:
        image: float [H, W, 3] in [0, 1]; above 192 pixels it is made smaller.

    Returns:
        "data:image/png;base64,…" below 96 pixels, else a JPEG.

    Example:
        >>> encode(np.zeros([128, 128, 3]))[:23]
        'data:image/jpeg;base64,'
    """
    picture = Image.fromarray(np.round(255 * image).astype(np.uint8))
    if max(picture.size) < _SMALL:
        return data_address(picture, "PNG", optimize=True)
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.LANCZOS)
    return data_address(picture, "JPEG", quality=_QUALITY, optimize=True)


def data_address(picture: Image.Image, image_format: str, **options: int) -> str:
    """The bytes of a picture in an address.

    Args:
        picture: any.
        image_format: "PNG" or "JPEG".
        **options: of the encoder.

    Returns:
        "data:image/…;base64,…".

    Example:
        >>> data_address(Image.new("L", (1, 1)), "PNG")[:22]
        'data:image/png;base64,'
    """
    buffer = io.BytesIO()
    picture.save(buffer, image_format, **options)
    written = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/{image_format.lower()};base64,{written}"
