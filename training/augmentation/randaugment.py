"""RandAugment with the sixteen operations of Google's implementation.

"RandAugment: Practical automated data augmentation with a reduced search space" (Cubuk et al.,
2020); operations and strengths as in big_vision, where a magnitude above 10 overshoots on purpose.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from training.augmentation import colour, geometry
from training.augmentation.colour import Number
from training.augmentation.filters import sharpness

_FILL = 128  # what comes in from outside the picture, and what a cutout leaves

Operation = Callable[[tf.Tensor, float, tf.Tensor, tf.Tensor], tf.Tensor]


def rand_augment(pixels: tf.Tensor, seed: tf.Tensor, layers: int, magnitude: float) -> tf.Tensor:
    """Apply `layers` operations in a row, each drawn with equal chance.

    Args:
        pixels: uint8 [H, W, 3], with a static shape.
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
    pixels = tf.convert_to_tensor(pixels)
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


def _enhanced(change: Callable[[tf.Tensor, float], tf.Tensor]) -> Operation:
    """An operation that takes a factor: 0.1 at no strength, 1.9 at 10."""
    return lambda pixels, magnitude, *_: change(pixels, magnitude / 10 * 1.8 + 0.1)


def _affine(matrix: Callable[[Number], geometry.Matrix]) -> Operation:
    """An operation that moves pixels, by the strength with its sign."""
    return lambda pixels, magnitude, sign, _: geometry.affine_nearest(
        pixels, matrix(sign * magnitude / 10), _FILL
    )


def _posterize(pixels: tf.Tensor, magnitude: float, *_: object) -> tf.Tensor:
    return colour.posterize(pixels, min(int(magnitude / 10 * 4), 8))


def _solarize(pixels: tf.Tensor, magnitude: float, *_: object) -> tf.Tensor:
    return colour.solarize(pixels, int(magnitude / 10 * 256))


def _solarize_add(pixels: tf.Tensor, magnitude: float, *_: object) -> tf.Tensor:
    return colour.solarize_add(pixels, int(magnitude / 10 * 110))


def _rotate(pixels: tf.Tensor, magnitude: float, sign: tf.Tensor, *_: object) -> tf.Tensor:
    angle = sign * magnitude / 10 * math.radians(30)
    cos, sin = tf.cos(angle), tf.sin(angle)
    y, x = ((side - 1) / 2 for side in pixels.shape[:2])  # of the centre
    matrix = (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)
    return geometry.affine_nearest(pixels, matrix, _FILL)


def _cutout(pixels: tf.Tensor, magnitude: float, sign: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    del sign
    half = int(magnitude / 10 * 40)
    height, width, _ = pixels.shape
    y, x = tf.unstack(tf.cast(tf.random.stateless_uniform([2], place) * [height, width], tf.int32))
    row, column = np.arange(height), np.repeat(np.arange(width), 3)
    in_rows = tf.cast((row >= y - half) & (row < y + half), tf.uint8)[:, None]
    in_columns = tf.cast((column >= x - half) & (column < x + half), tf.uint8)
    hole = in_rows * in_columns  # [H, W * 3], as colour.rows
    levels = tf.reshape(pixels, [height, -1])
    return tf.reshape(levels * (1 - hole) + _FILL * hole, pixels.shape)


# The contrast is about the mean grey level, as in PIL. (Google's code divides the number of pixels
# by 256 there, by mistake; its own comment asks for the mean.)
OPERATIONS: dict[str, Operation] = {
    "AutoContrast": lambda pixels, *_: colour.auto_contrast(pixels),
    "Equalize": lambda pixels, *_: colour.equalize(pixels),
    "Invert": lambda pixels, *_: colour.invert(pixels),
    "Rotate": _rotate,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "Color": _enhanced(colour.color),
    "Contrast": _enhanced(colour.contrast),
    "Brightness": _enhanced(colour.brightness),
    "Sharpness": _enhanced(sharpness),
    "ShearX": _affine(lambda strength: (1.0, 0.3 * strength, 0.0, 0.0, 1.0, 0.0)),
    "ShearY": _affine(lambda strength: (1.0, 0.0, 0.0, 0.3 * strength, 1.0, 0.0)),
    "TranslateX": _affine(lambda strength: (1.0, 0.0, 100 * strength, 0.0, 1.0, 0.0)),
    "TranslateY": _affine(lambda strength: (1.0, 0.0, 0.0, 0.0, 1.0, 100 * strength)),
    "Cutout": _cutout,
    "SolarizeAdd": _solarize_add,
}
