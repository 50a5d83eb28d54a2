"""Moving the pixels of an image: shear, translation and rotation.

Written with `tf.gather` of whole pixels: `ImageProjectiveTransformV3` knows no cubic kernel, and
follows each of the three channels by itself, which takes several times as long.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from training.augmentation.colour import Number

Matrix = Sequence[Number]  # a, b, c, d, e, f
# Half-way between two pixels, a shear of 0.3 is so in every tenth row, the rounding errors of
# float32 must not decide which is taken.
_TIE = 1e-4


def affine_nearest(pixels: tf.Tensor, matrix: Matrix, fill: int) -> tf.Tensor:
    """Take each pixel from `(a x + b y + c, d x + e y + f)`, rounded, as Google's code does.

    Args:
        pixels: uint8 [H, W, 3], with a static shape.
        matrix: a, b, c, d, e, f; whole x and y are the centres of pixels.
        fill: level of what comes in from outside.

    Returns:
        uint8 [H, W, 3].

    Example:
        >>> image = tf.constant([[[10] * 3, [20] * 3]], tf.uint8)
        >>> affine_nearest(image, (1, 0, 1, 0, 1, 0), fill=128)[0, :, 0].numpy()
        array([ 20, 128], dtype=uint8)
    """
    height, width, _ = pixels.shape
    a, b, c, d, e, f = matrix
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    x_from = a * x + (b * y + c)  # [H, W]
    y_from = d * x + (e * y + f)
    inside = _is_inside(x_from, width) & _is_inside(y_from, height)
    column, row = (tf.cast(tf.floor(v + (0.5 + _TIE)), tf.int32) for v in (x_from, y_from))
    inside = tf.cast(inside, tf.int32)
    outside = height * width  # the place of the fill, behind the last pixel
    place = (row * width + column) * inside + outside * (1 - inside)
    source = tf.concat([tf.reshape(pixels, [-1, 3]), tf.fill([1, 3], np.uint8(fill))], axis=0)
    return tf.gather(source, place)


def _is_inside(place: tf.Tensor, side: int) -> tf.Tensor:
    """Whether the nearest pixel is one of the image; halves are rounded away from it."""
    return (place > _TIE - 0.5) & (place < side - (0.5 + _TIE))


def slide(
    pixels: tf.Tensor, offsets: tf.Tensor, axis: int, bicubic: tf.Tensor, fill: tf.Tensor
) -> tf.Tensor:
    """Move each row, or each column, along itself by an amount of its own.

    Args:
        pixels: uint8 [H, W, 3], with a static shape.
        offsets: float32 [H] for axis 1, [W] for axis 0: how far away the new pixels come from.
        axis: 1 to move the rows sideways, 0 to move the columns up and down.
        bicubic: bool scalar: Pillow's cubic kernel, or else its linear one.
        fill: float32 [3], levels of what comes in from outside.

    Returns:
        uint8 [H, W, 3], as `Image.transform` with an affine matrix gives it.

    Example:
        >>> image = tf.constant([[[10] * 3, [20] * 3]], tf.uint8)
        >>> slide(image, tf.constant([1.0]), 1, tf.constant(True), tf.zeros([3]))[0, :, 0].numpy()
        array([20,  0], dtype=uint8)
    """
    if axis == 0:
        turned = tf.transpose(pixels, [1, 0, 2])
        return tf.transpose(slide(turned, offsets, 1, bicubic, fill), [1, 0, 2])
    height, width, _ = pixels.shape
    offsets = offsets[:, None]  # [H, 1]
    whole = tf.floor(offsets)
    weights = _weights(offsets - whole, bicubic)  # four of [H, 1]
    # Far away is as good as further away, and cannot overflow.
    whole = tf.cast(tf.clip_by_value(whole, -2.0 * width, 2.0 * width), tf.int32)
    columns, lines = np.arange(width, dtype=np.int32), width * np.arange(height, dtype=np.int32)
    source = tf.reshape(pixels, [-1, 3])
    total: tf.Tensor | float = 0.0
    for tap, weight in enumerate(weights):
        place = tf.clip_by_value(columns + (whole + (tap - 1)), 0, width - 1) + lines[:, None]
        total += weight * _rows_at(source, place)
    middle = np.repeat(np.arange(width, dtype=np.float32) + 0.5, 3) + offsets  # [H, W * 3]
    return _filled(total, (middle >= 0) & (middle < width), fill, pixels)


def rotate(pixels: tf.Tensor, degrees: Number, bicubic: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    """Rotate an image counterclockwise about its centre.

    Args:
        pixels: uint8 [H, W, 3], with a static shape.
        degrees: the angle.
        bicubic: bool scalar: Pillow's cubic kernel, or else its linear one.
        fill: float32 [3], levels of what comes in from outside.

    Returns:
        uint8 [H, W, 3], as `Image.rotate` gives it.

    Example:
        >>> rotate(tf.zeros([4, 6, 3], tf.uint8), 30.0, tf.constant(True), tf.zeros([3])).shape
        TensorShape([4, 6, 3])
    """
    height, width, _ = pixels.shape
    angle = degrees * (np.pi / 180)
    cos, sin = tf.cos(angle), tf.sin(angle)

    def come_from(repeats: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Where the middle of each pixel comes from, each `repeats` times in a row."""
        x = np.repeat(np.arange(width, dtype=np.float32) + 0.5 - width / 2, repeats)
        y = np.arange(height, dtype=np.float32)[:, None] + 0.5 - height / 2
        return cos * x - sin * y + width / 2, sin * x + cos * y + height / 2

    x, y = come_from(1)  # [H, W]
    left, top = (tf.cast(tf.floor(v - 0.5), tf.int32) for v in (x, y))
    x, y = come_from(3)  # [H, W * 3]: the weights are those of all three channels
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    of_columns, of_rows = (_weights(v - tf.floor(v), bicubic) for v in (x - 0.5, y - 0.5))
    columns = [tf.clip_by_value(left + (tap - 1), 0, width - 1) for tap in range(4)]
    source = tf.reshape(pixels, [-1, 3])
    total: tf.Tensor | float = 0.0
    for tap, weight in enumerate(of_rows):
        start = tf.clip_by_value(top + (tap - 1), 0, height - 1) * width
        line = [
            w * _rows_at(source, start + column)
            for w, column in zip(of_columns, columns, strict=True)
        ]
        total += weight * tf.add_n(line)
    return _filled(total, inside, fill, pixels)


def _weights(d: tf.Tensor, bicubic: tf.Tensor) -> list[tf.Tensor]:
    """Weights of four neighbours, the second of which is `d` away, as in Pillow's transforms."""
    # Here Pillow's cubic has a = -1; in its resize it has a = -0.5.
    c = tf.cast(bicubic, tf.float32)
    square = d * d
    cube = square * d
    return [
        c * (-d + 2.0 * square - cube),
        c * (d - 2.0 * square + cube) + (1.0 - d),
        c * (square - cube) + d,
        c * (cube - square),
    ]


def _rows_at(source: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    """Pixels uint8 [H * W, 3] at places [H, W] -> float32 [H, W * 3]."""
    taken = tf.reshape(tf.gather(source, place), [place.shape[0], -1])
    return tf.cast(taken, tf.float32)


def _filled(x: tf.Tensor, inside: tf.Tensor, fill: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Whole levels inside the image and the fill outside of it: [H, W * 3] -> uint8 [H, W, 3]."""
    levels = tf.cast(tf.clip_by_value(x, 0.0, 255.0), tf.uint8)
    inside = tf.cast(inside, tf.uint8)
    around = tf.tile(tf.cast(fill, tf.uint8), [like.shape[1]])
    return tf.reshape(levels * inside + around * (1 - inside), like.shape)
