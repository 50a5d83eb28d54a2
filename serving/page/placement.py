"""Where on an image the attention map lies: on the crop that the model sees, not on all of it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from serving.card_file import load_card


@dataclasses.dataclass(frozen=True)
class Rectangle:
    """A part of an image, in shares of its width and height.

    Args:
        left: from the left side, 0 to 1.
        top: from the upper side, 0 to 1.
        width: share of the width, above 0, at most 1.
        height: share of the height, above 0, at most 1.
    """

    left: float
    top: float
    width: float
    height: float


def crop(preprocessing: dict[str, Any], height: int, width: int) -> Rectangle:
    """The part of an image that the model sees.

    The same integers as `keras_vit.Preprocessing` computes, without TensorFlow.

    Args:
        preprocessing: of the model card: `image_size`, `resize_mode` and `crop_fraction`.
        height: of the image as stored, at least 1.
        width: of the image as stored, at least 1.

    Returns:
        The rectangle; larger than the image where that is padded.

    Example:
        >>> spec = {"image_size": [224, 224], "resize_mode": "crop", "crop_fraction": 1.0}
        >>> crop(spec, 100, 200)
        Rectangle(left=0.25, top=0.0, width=0.5, height=1.0)
    """
    rows, columns = preprocessing["image_size"]
    cover = [math.floor(side / preprocessing["crop_fraction"]) for side in (rows, columns)]
    pad = preprocessing["resize_mode"] == "pad"
    nearest = pad or cover[0] != cover[1]

    def scaled(side: int, to: int, of: int) -> int:
        down, rest = divmod(to * side, of)
        return max(down + (nearest and 2 * rest + down % 2 > of), 1)

    wide, tall = cover[0] * width, cover[1] * height
    if preprocessing["resize_mode"] == "squash":
        resized = cover
    elif wide <= tall if pad else wide >= tall:
        resized = [cover[0], scaled(width, cover[0], height)]
    else:
        resized = [scaled(height, cover[1], width), cover[1]]
    top, left = (
        round(surplus / 2) if surplus >= 0 else -(-surplus // 2)
        for surplus in (resized[0] - rows, resized[1] - columns)
    )
    return Rectangle(left / resized[1], top / resized[0], columns / resized[1], rows / resized[0])


def covered(card: dict[str, Any], seen: Rectangle, rows: int, columns: int) -> Rectangle:
    """The part of the image that the patches cover: all that is seen, but for a remainder.

    Args:
        card: the model card.
        seen: what the model sees of the image.
        rows: of patches.
        columns: of patches.

    Returns:
        The rectangle; smaller than `seen` where an image size is no multiple of the patch size.

    Example:
        >>> architecture = {"patch_size": [14, 14], "allow_remainder": True}
        >>> card = {"architecture": architecture, "preprocessing": {"image_size": [35, 28]}}
        >>> covered(card, Rectangle(0.0, 0.0, 1.0, 1.0), 2, 2)
        Rectangle(left=0.0, top=0.0, width=1.0, height=0.8)
    """
    architecture = card["architecture"]
    if not architecture.get("allow_remainder") or architecture.get("stem"):
        return seen
    image_height, image_width = card["preprocessing"]["image_size"]
    patch_height, patch_width = architecture["patch_size"]
    # What is left over is at the right and at the bottom.
    return dataclasses.replace(
        seen,
        width=seen.width * min(columns * patch_width / image_width, 1.0),
        height=seen.height * min(rows * patch_height / image_height, 1.0),
    )


def read_card(base: str | None, version: int) -> dict[str, Any] | None:
    """The model card of a version.

    Args:
        base: the model's base directory. None if it is not known.
        version: the number of the version.

    Returns:
        The card, or None where there is none that tells the preprocessing.

    Example:
        >>> read_card("/nowhere", 1) is None
        True
    """
    if base is None or "://" in base:
        return None
    try:
        card = load_card(_directory(Path(base), version))
        crop(card["preprocessing"], 1, 1)
        covered(card, Rectangle(0.0, 0.0, 1.0, 1.0), 1, 1)
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return None
    return card


def _directory(base: Path, version: int) -> Path:
    """BASE/1; servers read BASE/0001 as version 1 too."""
    if (base / str(version)).is_dir():
        return base / str(version)
    names = (entry.name for entry in base.iterdir())
    numbers = {int(name): name for name in names if name.isascii() and name.isdigit()}
    return base / numbers.get(version, str(version))
