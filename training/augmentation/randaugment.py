"""RandAugment with the sixteen operations of Google's implementation.

"RandAugment: Practical automated data augmentation with a reduced search space" (Cubuk et al.,
2020); operations and strengths as in big_vision, where a magnitude above 10 overshoots on purpose.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

_FILL = 128  # what comes in from outside the picture, and what a cutout leaves

Operation = Callable[[tf.Tensor, float, tf.Tensor, tf.Tensor], tf.Tensor]


def rand_augment(pixels: tf.Tensor, seed: tf.Tensor, layers: int, magnitude: float) -> tf.Tensor:
    """Apply `layers` operations in a row, each drawn with equal chance.

    Args:
        pixels: uint8 [H, W, 3].
        seed: int64 [2].
        layers: how many, at least 1.
        magnitude: their strength, 0 or more; 10 is the nominal most.

    Returns:
        uint8 [H, W, 3].

    Example:
        >>> seed = tf.constant([0, 1], tf.int64)
        >>> rand_augment(tf.zeros([8, 8, 3], tf.uint8), seed, layers=2, magnitude=10).shape
        TensorShape([8, 8, 3])
    """
    shape = pixels.shape
    for layer_seed in tf.unstack(tf.random.split(seed, layers)):
        choice_seed, sign_seed, place_seed = tf.unstack(tf.random.split(layer_seed, 3))
        choice = tf.random.stateless_uniform([], choice_seed, 0, len(OPERATIONS), tf.int32)
        negate = tf.random.stateless_uniform([], sign_seed) < 0.5
        sign = tf.where(negate, -1.0, 1.0)
        branches = [
            lambda op=op, pixels=pixels, sign=sign, place=place_seed: op(
                pixels, magnitude, sign, place
            )
            for op in OPERATIONS.values()
        ]
        pixels = tf.ensure_shape(tf.switch_case(choice, branches), shape)
    return pixels


# === Operations: uint8 [H, W, 3], magnitude, sign, seed of a place -> uint8 [H, W, 3] ===


def _auto_contrast(pixels: tf.Tensor, *_: object) -> tf.Tensor:
    """Stretch each channel to 0 ... 255."""
    x = tf.cast(pixels, tf.float32)
    low = tf.reduce_min(x, axis=[0, 1])  # [3]
    high = tf.reduce_max(x, axis=[0, 1])
    scale = tf.math.divide_no_nan(255.0, high - low)
    # The epsilon undoes rounding below a whole number before the cast cuts decimals off.
    stretched = _to_uint8((x - low) * scale + 1e-3)
    return tf.where(high > low, stretched, pixels)


def _equalize(pixels: tf.Tensor, *_: object) -> tf.Tensor:
    """Flatten the histogram of each channel, as PIL's ImageOps.equalize does."""

    def one(channel: tf.Tensor) -> tf.Tensor:
        histogram = tf.math.bincount(channel, minlength=256, maxlength=256)  # [256]
        last = tf.boolean_mask(histogram, histogram > 0)[-1]
        step = (tf.reduce_sum(histogram) - last) // 255
        table = (tf.cumsum(histogram, exclusive=True) + step // 2) // tf.maximum(step, 1)
        table = tf.clip_by_value(table, 0, 255)
        return tf.where(step > 0, tf.gather(table, channel), channel)

    channels = tf.unstack(tf.cast(pixels, tf.int32), num=3, axis=-1)
    return tf.cast(tf.stack([one(channel) for channel in channels], axis=-1), tf.uint8)


def _invert(pixels: tf.Tensor, *_: object) -> tf.Tensor:
    return 255 - pixels


def _rotate(pixels: tf.Tensor, magnitude: float, sign: tf.Tensor, *_: object) -> tf.Tensor:
    angle = sign * magnitude / 10 * math.radians(30)
    cos, sin = tf.cos(angle), tf.sin(angle)
    size = tf.cast(tf.shape(pixels)[:2], tf.float32) - 1
    center_y, center_x = size[0] / 2, size[1] / 2
    return _affine(
        pixels,
        [
            [cos, -sin, center_x - cos * center_x + sin * center_y],
            [sin, cos, center_y - sin * center_x - cos * center_y],
        ],
    )


def _posterize(pixels: tf.Tensor, magnitude: float, *_: object) -> tf.Tensor:
    bits = min(int(magnitude / 10 * 4), 8)
    return tf.cast(tf.cast(pixels, tf.int32) // 2 ** (8 - bits) * 2 ** (8 - bits), tf.uint8)


def _solarize(pixels: tf.Tensor, magnitude: float, *_: object) -> tf.Tensor:
    threshold = int(magnitude / 10 * 256)
    return tf.where(tf.cast(pixels, tf.int32) < threshold, pixels, 255 - pixels)


def _solarize_add(pixels: tf.Tensor, magnitude: float, *_: object) -> tf.Tensor:
    added = tf.minimum(tf.cast(pixels, tf.int32) + int(magnitude / 10 * 110), 255)
    return tf.where(pixels < 128, tf.cast(added, tf.uint8), pixels)


def _color(pixels: tf.Tensor, magnitude: float, *_: object) -> tf.Tensor:
    return _blend(_gray(pixels), pixels, magnitude)


def _contrast(pixels: tf.Tensor, magnitude: float, *_: object) -> tf.Tensor:
    # The mean grey level, as PIL takes it. (Google's code divides the number of pixels by 256
    # here, by mistake; its own comment asks for the mean.)
    mean = tf.floor(tf.reduce_mean(tf.cast(_gray(pixels), tf.float32)) + 0.5)
    return _blend(tf.fill(tf.shape(pixels), mean), pixels, magnitude)


def _brightness(pixels: tf.Tensor, magnitude: float, *_: object) -> tf.Tensor:
    return _blend(tf.zeros_like(pixels), pixels, magnitude)


def _sharpness(pixels: tf.Tensor, magnitude: float, *_: object) -> tf.Tensor:
    kernel = tf.constant([[1, 1, 1], [1, 5, 1], [1, 1, 1]], tf.float32) / 13
    kernel = tf.tile(kernel[:, :, None, None], [1, 1, 3, 1])
    smooth = tf.nn.depthwise_conv2d(
        tf.cast(pixels, tf.float32)[None], kernel, [1, 1, 1, 1], "VALID"
    )[0]
    smooth = tf.pad(tf.round(smooth), [[1, 1], [1, 1], [0, 0]])
    inside = tf.pad(
        tf.ones(tf.shape(pixels)[:2] - 2, tf.bool), [[1, 1], [1, 1]], constant_values=False
    )
    # The border has no full neighbourhood and stays as it is.
    blurred = tf.where(inside[..., None], smooth, tf.cast(pixels, tf.float32))
    return _blend(blurred, pixels, magnitude)


def _shear_x(pixels: tf.Tensor, magnitude: float, sign: tf.Tensor, *_: object) -> tf.Tensor:
    return _affine(pixels, [[1.0, sign * magnitude / 10 * 0.3, 0.0], [0.0, 1.0, 0.0]])


def _shear_y(pixels: tf.Tensor, magnitude: float, sign: tf.Tensor, *_: object) -> tf.Tensor:
    return _affine(pixels, [[1.0, 0.0, 0.0], [sign * magnitude / 10 * 0.3, 1.0, 0.0]])


def _translate_x(pixels: tf.Tensor, magnitude: float, sign: tf.Tensor, *_: object) -> tf.Tensor:
    return _affine(pixels, [[1.0, 0.0, sign * magnitude * 10], [0.0, 1.0, 0.0]])


def _translate_y(pixels: tf.Tensor, magnitude: float, sign: tf.Tensor, *_: object) -> tf.Tensor:
    return _affine(pixels, [[1.0, 0.0, 0.0], [0.0, 1.0, sign * magnitude * 10]])


def _cutout(pixels: tf.Tensor, magnitude: float, sign: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    del sign
    half = int(magnitude / 10 * 40)
    height, width = tf.unstack(tf.shape(pixels)[:2])
    y, x = tf.unstack(tf.random.stateless_uniform([2], place))
    y = tf.cast(y * tf.cast(height, tf.float32), tf.int32)
    x = tf.cast(x * tf.cast(width, tf.float32), tf.int32)
    rows, columns = tf.range(height), tf.range(width)
    in_rows = (rows >= y - half) & (rows < y + half)
    in_columns = (columns >= x - half) & (columns < x + half)
    hole = in_rows[:, None, None] & in_columns[None, :, None]
    return tf.where(hole, tf.constant(_FILL, tf.uint8), pixels)


OPERATIONS: dict[str, Operation] = {
    "AutoContrast": _auto_contrast,
    "Equalize": _equalize,
    "Invert": _invert,
    "Rotate": _rotate,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "Color": _color,
    "Contrast": _contrast,
    "Brightness": _brightness,
    "Sharpness": _sharpness,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
    "Cutout": _cutout,
    "SolarizeAdd": _solarize_add,
}


def _gray(pixels: tf.Tensor) -> tf.Tensor:
    """Luma by ITU-R 601 in whole grey levels, float32 [H, W, 3], as PIL's mode L."""
    weights = tf.constant([19595, 38470, 7471])  # 65536 times 0.299, 0.587, 0.114
    luma = tf.reduce_sum(tf.cast(pixels, tf.int32) * weights, -1, keepdims=True)
    gray = tf.bitwise.right_shift(luma + 32768, 16)
    return tf.cast(tf.tile(gray, [1, 1, 3]), tf.float32)


def _blend(degenerate: tf.Tensor, pixels: tf.Tensor, magnitude: float) -> tf.Tensor:
    """From `degenerate` (factor 0) through `pixels` (1) and beyond; factor .18 M + .1."""
    factor = magnitude / 10 * 1.8 + 0.1
    degenerate = tf.cast(degenerate, tf.float32)
    return _to_uint8(degenerate + factor * (tf.cast(pixels, tf.float32) - degenerate))


def _to_uint8(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.clip_by_value(x, 0.0, 255.0), tf.uint8)


def _affine(pixels: tf.Tensor, matrix: list[list[float | tf.Tensor]]) -> tf.Tensor:
    """Where each output pixel comes from: `(x, y) -> matrix @ (x, y, 1)`, nearest neighbour."""
    rows = [tf.cast(value, tf.float32) for row in matrix for value in row]
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=pixels[None],
        transforms=tf.stack([*rows, 0.0, 0.0])[None],
        output_shape=tf.shape(pixels)[:2],
        fill_value=float(_FILL),
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )
    return moved[0]
