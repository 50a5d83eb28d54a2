"""Sharpening and blurring, each one what Pillow does."""

from __future__ import annotations

import tensorflow as tf

from training.augmentation.colour import Number, blend, from_rows, rows


def sharpness(pixels: tf.Tensor, factor: Number) -> tf.Tensor:
    """Sharpen an image, or smooth it.

    Args:
        pixels: uint8 [H, W, 3], with a static shape.
        factor: 0 for Pillow's SMOOTH filter, 1 for no change, more for more.

    Returns:
        uint8 [H, W, 3].

    Example:
        >>> sharpness(tf.zeros([4, 6, 3], tf.uint8), 1.9).shape
        TensorShape([4, 6, 3])
    """
    if min(pixels.shape[:2]) < 3:
        return pixels  # the border has no full neighbourhood and stays as it is
    x = rows(pixels)
    # A sum of slices: TensorFlow's convolution of three channels takes twenty times as long.
    columns = x[:-2] + x[1:-1] + x[2:]
    total = columns[:, :-6] + columns[:, 3:-3] + columns[:, 6:] + 4.0 * x[1:-1, 3:-3]
    smooth = tf.floor(total / 13.0 + 0.5)
    smooth = tf.concat([x[1:-1, :3], smooth, x[1:-1, -3:]], axis=1)
    smooth = tf.concat([x[:1], smooth, x[-1:]], axis=0)
    return blend(smooth, x, factor, pixels)


def gaussian_blur(pixels: tf.Tensor, radius: Number) -> tf.Tensor:
    """Blur an image by three box blurs in each direction, as Pillow approximates a Gaussian.

    Args:
        pixels: uint8 [H, W, 3], with a static shape.
        radius: standard deviation in pixels, above 0 and at most 2.

    Returns:
        uint8 [H, W, 3].

    Example:
        >>> int(gaussian_blur(tf.fill([4, 6, 3], tf.constant(7, tf.uint8)), 1.5)[0, 0, 0])
        7
    """
    # The radius of a box with the variance of a third of the Gaussian, a fraction: the two
    # outermost pixels count in part (Gwosdek et al., 2011). Up to a radius of 2 it is below 2.
    variance = tf.convert_to_tensor(radius, tf.float32) ** 2 / 3.0
    whole = tf.floor((tf.sqrt(12.0 * variance + 1.0) - 1.0) / 2.0)
    part = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance)
    part /= 6.0 * (variance - (whole + 1.0) ** 2)
    inner = 1.0 / (2.0 * (whole + part) + 1.0)
    outer = part * inner
    near = tf.where(whole > 0, inner, outer)
    far = tf.where(whole > 0, outer, 0.0)

    x = rows(pixels)
    for step, axis in ((3, 1), (1, 0)):
        for _ in range(3):
            size = x.shape[axis]
            first, last = _part(x, axis, 0, step), _part(x, axis, size - step, step)
            y = tf.concat([first, first, x, last, last], axis=axis)
            taps = [_part(y, axis, step * i, size) for i in range(5)]
            x = inner * taps[2] + near * (taps[1] + taps[3]) + far * (taps[0] + taps[4])
            x = tf.floor(x + 0.4999)  # Pillow keeps whole levels, and rounds halves down
    return from_rows(x, pixels)


def _part(x: tf.Tensor, axis: int, begin: int, size: int) -> tf.Tensor:
    """`size` entries from `begin` on, along an axis of a matrix."""
    return x[begin : begin + size] if axis == 0 else x[:, begin : begin + size]
