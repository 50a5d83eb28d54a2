"""Operations on the grey levels of an image, each one what Pillow does.

All work on `[H, W * 3]`, one long row for each row of pixels: TensorFlow is ten times slower where
the three channels are an axis of their own, or where it has to select or to gather.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import tensorflow as tf

Number: TypeAlias = "float | tf.Tensor"

# 65536 times 0.299, 0.587 and 0.114 (ITU-R 601), as Pillow has it; sums stay below 2**24 and are
# exact in float32.
_LUMA = np.array([[19595], [38470], [7471]], np.float32)


def invert(pixels: tf.Tensor) -> tf.Tensor:
    """The negative of an image.

    Args:
        pixels: uint8 [H, W, 3].

    Returns:
        uint8 [H, W, 3].

    Example:
        >>> int(invert(tf.fill([1, 1, 3], tf.constant(200, tf.uint8)))[0, 0, 0])
        55
    """
    return 255 - pixels


def posterize(pixels: tf.Tensor, bits: int | tf.Tensor) -> tf.Tensor:
    """Keep the highest bits of each grey level.

    Args:
        pixels: uint8 [H, W, 3].
        bits: how many, 0 to 8.

    Returns:
        uint8 [H, W, 3].

    Example:
        >>> int(posterize(tf.fill([1, 1, 3], tf.constant(255, tf.uint8)), 4)[0, 0, 0])
        240
    """
    kept = tf.cast(256 - tf.bitwise.left_shift(1, 8 - bits), tf.uint8)
    return tf.bitwise.bitwise_and(pixels, kept)


def solarize(pixels: tf.Tensor, threshold: int | tf.Tensor) -> tf.Tensor:
    """Invert the grey levels from a threshold on.

    Args:
        pixels: uint8 [H, W, 3].
        threshold: above 255 nothing is inverted.

    Returns:
        uint8 [H, W, 3].

    Example:
        >>> int(solarize(tf.fill([1, 1, 3], tf.constant(200, tf.uint8)), 128)[0, 0, 0])
        55
    """
    # Compared as floats: a threshold of 256 or more would wrap around in uint8.
    bright = tf.cast(pixels, tf.float32) >= tf.cast(threshold, tf.float32)
    return tf.bitwise.bitwise_xor(pixels, 255 * tf.cast(bright, tf.uint8))


def solarize_add(pixels: tf.Tensor, added: int | tf.Tensor) -> tf.Tensor:
    """Make the darker half of the grey levels brighter.

    Args:
        pixels: uint8 [H, W, 3].
        added: to the levels below 128, 0 or more; the sum stops at 255.

    Returns:
        uint8 [H, W, 3].

    Example:
        >>> int(solarize_add(tf.fill([1, 1, 3], tf.constant(100, tf.uint8)), 40)[0, 0, 0])
        140
    """
    dark = tf.cast(tf.cast(pixels, tf.float32) < 128.0, tf.uint8)
    return pixels + dark * tf.minimum(255 - pixels, tf.cast(tf.minimum(added, 255), tf.uint8))


def auto_contrast(pixels: tf.Tensor) -> tf.Tensor:
    """Stretch each channel to 0 ... 255.

    Args:
        pixels: uint8 [H, W, 3], with a static shape.

    Returns:
        uint8 [H, W, 3]; a channel of one level stays as it is.

    Example:
        >>> auto_contrast(tf.constant([[[10] * 3, [20] * 3]], tf.uint8))[0, :, 0].numpy()
        array([  0, 255], dtype=uint8)
    """
    x = rows(pixels)
    low = tf.reduce_min(tf.reshape(tf.reduce_min(x, axis=0), [-1, 3]), axis=0)  # [3]
    high = tf.reduce_max(tf.reshape(tf.reduce_max(x, axis=0), [-1, 3]), axis=0)
    spread = high > low
    scale = tf.where(spread, tf.math.divide_no_nan(255.0, high - low), 1.0)
    # The epsilon undoes rounding below a whole number before the cast cuts decimals off.
    offset = tf.where(spread, 1e-3 - low * scale, 0.0)
    width = pixels.shape[1]
    return from_rows(x * tf.tile(scale, [width]) + tf.tile(offset, [width]), pixels)


def equalize(pixels: tf.Tensor) -> tf.Tensor:
    """Flatten the histogram of each channel.

    Args:
        pixels: uint8 [H, W, 3], with a static shape.

    Returns:
        uint8 [H, W, 3]; a channel of one level stays as it is.

    Example:
        >>> equalize(tf.zeros([4, 4, 3], tf.uint8)).shape
        TensorShape([4, 4, 3])
    """
    height, width, _ = pixels.shape
    # One histogram for the three channels: each has 256 places of its own.
    places = np.tile(np.array([0, 256, 512], np.int32), width)
    x = tf.reshape(tf.cast(tf.reshape(pixels, [height, -1]), tf.int32) + places, [-1])
    histogram = tf.raw_ops.DenseBincount(
        input=x, size=768, weights=tf.zeros([0], tf.int32), binary_output=False
    )
    histogram = tf.reshape(histogram, [3, 256])
    highest = tf.reduce_max(tf.range(256) * tf.cast(histogram > 0, tf.int32), axis=1)  # [3]
    last = tf.gather(histogram, highest, batch_dims=1)
    step = (height * width - last) // 255
    sums = tf.cumsum(histogram, axis=1, exclusive=True)
    table = (sums + (step // 2)[:, None]) // tf.maximum(step, 1)[:, None]
    table = tf.where((step > 0)[:, None], tf.minimum(table, 255), tf.range(256))
    table = tf.reshape(tf.cast(table, tf.uint8), [-1])
    # gather_nd takes half of the time of gather here.
    return tf.reshape(tf.gather_nd(table, x[:, None]), pixels.shape)


def grayscale(pixels: tf.Tensor) -> tf.Tensor:
    """Luma by ITU-R 601 in all three channels, as Pillow's mode L.

    Args:
        pixels: uint8 [H, W, 3], with a static shape.

    Returns:
        uint8 [H, W, 3].

    Example:
        >>> grayscale(tf.constant([[[255, 0, 0]]], tf.uint8)).numpy()
        array([[[76, 76, 76]]], dtype=uint8)
    """
    return from_rows(_luma(rows(pixels), channels=3), pixels)


def color(pixels: tf.Tensor, factor: Number) -> tf.Tensor:
    """Change the saturation.

    Args:
        pixels: uint8 [H, W, 3], with a static shape.
        factor: 0 for grey, 1 for no change, more for more.

    Returns:
        uint8 [H, W, 3].

    Example:
        >>> color(tf.constant([[[255, 0, 0]]], tf.uint8), 0.0).numpy()
        array([[[76, 76, 76]]], dtype=uint8)
    """
    x = rows(pixels)
    return blend(_luma(x, channels=3), x, factor, pixels)


def contrast(pixels: tf.Tensor, factor: Number) -> tf.Tensor:
    """Move all grey levels away from their mean, or towards it.

    Args:
        pixels: uint8 [H, W, 3], with a static shape.
        factor: 0 for one grey, 1 for no change, more for more.

    Returns:
        uint8 [H, W, 3].

    Example:
        >>> contrast(tf.constant([[[0] * 3, [100] * 3]], tf.uint8), 0.0)[0, :, 0].numpy()
        array([50, 50], dtype=uint8)
    """
    x = rows(pixels)
    mean = tf.floor(tf.reduce_mean(_luma(x, channels=1)) + 0.5)
    return blend(mean, x, factor, pixels)


def brightness(pixels: tf.Tensor, factor: Number) -> tf.Tensor:
    """Multiply the grey levels.

    Args:
        pixels: uint8 [H, W, 3], with a static shape.
        factor: 0 for black, 1 for no change, more for more.

    Returns:
        uint8 [H, W, 3].

    Example:
        >>> int(brightness(tf.fill([1, 1, 3], tf.constant(100, tf.uint8)), 1.5)[0, 0, 0])
        150
    """
    return blend(0.0, rows(pixels), factor, pixels)


def rows(pixels: tf.Tensor) -> tf.Tensor:
    """The view of an image that the operations work on.

    Args:
        pixels: uint8 [H, W, 3], with a static shape.

    Returns:
        float32 [H, W * 3].

    Example:
        >>> rows(tf.zeros([4, 6, 3], tf.uint8)).shape
        TensorShape([4, 18])
    """
    return tf.cast(tf.reshape(pixels, [pixels.shape[0], -1]), tf.float32)


def from_rows(x: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """The way back from `rows`: levels are clipped to 0 ... 255, then decimals are cut off.

    Args:
        x: float32 [H, W * 3].
        like: an image of the shape to give back.

    Returns:
        uint8 [H, W, 3].

    Example:
        >>> from_rows(tf.constant([[-1.0, 2.9, 300.0]]), tf.zeros([1, 1, 3])).numpy()
        array([[[  0,   2, 255]]], dtype=uint8)
    """
    return tf.reshape(tf.cast(tf.clip_by_value(x, 0.0, 255.0), tf.uint8), like.shape)


def blend(degenerate: Number, x: tf.Tensor, factor: Number, like: tf.Tensor) -> tf.Tensor:
    """From a degenerate image (factor 0) through the image itself (1) and beyond.

    Args:
        degenerate: float32 [H, W * 3], or one level.
        x: float32 [H, W * 3].
        factor: 0 or more.
        like: an image of the shape to give back.

    Returns:
        uint8 [H, W, 3].

    Example:
        >>> blend(10.0, tf.constant([[20.0, 20.0, 20.0]]), 1.5, tf.zeros([1, 1, 3])).numpy()
        array([[[25, 25, 25]]], dtype=uint8)
    """
    return from_rows(degenerate + factor * (x - degenerate), like)


def _luma(x: tf.Tensor, channels: int) -> tf.Tensor:
    """Whole grey levels of `rows`, float32: [H, W * 3] -> [H, W * channels]."""
    weighted = tf.matmul(tf.reshape(x, [-1, 3]), np.tile(_LUMA, [1, channels]))
    return tf.reshape(tf.floor((weighted + 32768.0) / 65536.0), [x.shape[0], -1])
