"""RandAugment and AugMix with the operations of timm.

They differ from Google's: strengths end at 10 and may be drawn for each operation, moves are
interpolated, what comes in from outside has the mean colour, and translations are shares of a side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import tensorflow as tf

from training.augmentation import colour, geometry
from training.augmentation.colour import Number
from training.augmentation.filters import sharpness

# What an operation is given besides the pixels: its strength in 0 ... 1, a sign, whether moves are
# bicubic, the colour of what comes in, and the largest translation as a share of the side.
Settings = tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, float]
Operation = Callable[[tf.Tensor, Settings], tf.Tensor]

_TRANSLATION = 0.45
_AUGMIX_TRANSLATION = 0.3
_ALWAYS = ("AutoContrast", "Equalize", "Invert", "Rotate", "SolarizeAdd", "ShearX", "ShearY",
           "TranslateXRel", "TranslateYRel")  # fmt: skip
_VARYING = ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness")
_NOT_IN_AUGMIX = ("Invert", "SolarizeAdd")


def timm_rand_augment(
    pixels: tf.Tensor,
    seed: tf.Tensor,
    layers: int,
    magnitude: float,
    *,
    std: float = 0.0,
    increasing: bool = False,
    fill: Sequence[float] = (128, 128, 128),
) -> tf.Tensor:
    """Draw `layers` operations with equal chance, and apply each of them with a chance of 0.5.

    Args:
        pixels: uint8 [H, W, 3], with a static shape.
        seed: int64 [2].
        layers: how many, at least 1.
        magnitude: their strength, 0 to 10.
        std: standard deviation of the strength, which is drawn for each operation and held in
            0 ... 10. Default 0.
        increasing: use the operations that change more with more strength ("inc1"). Default False.
        fill: levels of what comes in from outside. Default grey.

    Returns:
        uint8 [H, W, 3]. `rand-m9-mstd0.5-inc1` is layers=2, magnitude=9, std=0.5 and increasing.

    Example:
        >>> seed = tf.constant([0, 1], tf.int64)
        >>> timm_rand_augment(tf.zeros([8, 8, 3], tf.uint8), seed, 2, 9.0, std=0.5).shape
        TensorShape([8, 8, 3])
    """
    names = rand_augment_names(increasing)
    for layer_seed in tf.unstack(tf.random.split(seed, layers)):
        seeds = tf.unstack(tf.random.split(layer_seed, 3))
        level = magnitude + std * tf.random.stateless_normal([], seeds[0])
        drawn = tf.random.stateless_uniform([], seeds[1], 0, 2 * len(names), tf.int32)
        # The upper half of the numbers stands for an operation that is left out.
        pixels = _apply(
            pixels, tf.minimum(drawn, len(names)), level, seeds[2], names, fill, _TRANSLATION
        )
    return pixels


def augmix(
    pixels: tf.Tensor,
    seed: tf.Tensor,
    width: int,
    depth: int,
    severity: float,
    fill: Sequence[float] = (128, 128, 128),
) -> tf.Tensor:
    """Blend an image with a random mixture of chains of operations (Hendrycks et al., 2020).

    Args:
        pixels: uint8 [H, W, 3], with a static shape.
        seed: int64 [2].
        width: how many chains, at least 1.
        depth: operations in a chain; 0 draws 1 to 3 for each.
        severity: the most strength, 0 to 10; each operation draws its own.
        fill: levels of what comes in from outside. Default grey.

    Returns:
        uint8 [H, W, 3]. timm's `augmix-m3-w3-d-1` is width=3, depth=0, severity=3.

    Example:
        >>> seed = tf.constant([0, 1], tf.int64)
        >>> augmix(tf.zeros([8, 8, 3], tf.uint8), seed, width=3, depth=0, severity=3.0).shape
        TensorShape([8, 8, 3])
    """
    pixels = tf.convert_to_tensor(pixels)
    names = augmix_names()
    weight_seed, share_seed, chain_seed = tf.unstack(tf.random.split(seed, 3))
    # Dirichlet and Beta with all parameters 1: exponentials in proportion, and a uniform number.
    weights = -tf.math.log1p(-tf.random.stateless_uniform([width], weight_seed))
    weights = weights / tf.reduce_sum(weights)
    share = tf.random.stateless_uniform([], share_seed)

    def layer(i: tf.Tensor, image: tf.Tensor, seed: tf.Tensor) -> tuple:
        seed, *seeds = tf.unstack(tf.random.split(seed, 4))
        level = severity * tf.random.stateless_uniform([], seeds[0])
        choice = tf.random.stateless_uniform([], seeds[1], 0, len(names), tf.int32)
        image = _apply(image, choice, level, seeds[2], names, fill, _AUGMIX_TRANSLATION)
        return i + 1, image, seed

    def chain(i: tf.Tensor, mixed: tf.Tensor, seed: tf.Tensor) -> tuple:
        seed, depth_seed, layer_seed = tf.unstack(tf.random.split(seed, 3))
        length = depth or tf.random.stateless_uniform([], depth_seed, 1, 4, tf.int32)
        _, image, _ = tf.while_loop(lambda j, *_: j < length, layer, (0, pixels, layer_seed))
        return i + 1, mixed + weights[i] * colour.rows(image), seed

    # Loops, not copies: the graph holds the operations once.
    start = (0, tf.zeros_like(colour.rows(pixels)), chain_seed)
    _, mixed, _ = tf.while_loop(lambda i, *_: i < width, chain, start)
    # Weights that sum up to a bit less than 1 must not cut a level off.
    mixed = tf.floor(tf.minimum(mixed + 1e-3, 255.0))
    return colour.blend(colour.rows(pixels), mixed, share, pixels)


def rand_augment_names(increasing: bool) -> list[str]:
    """The operations of timm's RandAugment.

    Args:
        increasing: those that change more with more strength, or those of Google's strengths.

    Returns:
        Keys of `OPERATIONS`.

    Example:
        >>> rand_augment_names(increasing=True)[-2:]
        ['SharpnessIncreasing', 'SolarizeIncreasing']
    """
    suffix = "Increasing" if increasing else ""
    return [name for name in OPERATIONS if name in _ALWAYS] + sorted(
        name + suffix for name in _VARYING
    )


def augmix_names() -> list[str]:
    """The operations of timm's AugMix.

    Returns:
        Keys of `OPERATIONS`.

    Example:
        >>> len(augmix_names())
        13
    """
    return [name for name in rand_augment_names(True) if name not in _NOT_IN_AUGMIX]


def _apply(
    pixels: tf.Tensor,
    choice: tf.Tensor,
    level: tf.Tensor,
    seed: tf.Tensor,
    names: list[str],
    fill: Sequence[float],
    translation: float,
) -> tf.Tensor:
    """Apply the operation of a number, or none for `len(names)`."""
    pixels = tf.convert_to_tensor(pixels)
    strength = tf.clip_by_value(level / 10, 0.0, 1.0)
    negative, bicubic = tf.unstack(tf.random.stateless_uniform([2], seed) < 0.5)
    settings = (
        strength, tf.where(negative, -1.0, 1.0), bicubic, tf.constant(fill, tf.float32), translation
    )  # fmt: skip
    branches = [partial(OPERATIONS[name], pixels, settings) for name in names]
    branches.append(partial(tf.identity, pixels))
    return tf.ensure_shape(tf.switch_case(choice, branches), pixels.shape)


# === Operations: uint8 [H, W, 3], settings -> uint8 [H, W, 3] ===


def _enhanced(change: Callable[[tf.Tensor, Number], tf.Tensor]) -> Operation:
    """An operation that takes a factor: 0.1 at no strength, 1.9 at full."""
    return lambda pixels, settings: change(pixels, settings[0] * 1.8 + 0.1)


def _enhanced_increasing(change: Callable[[tf.Tensor, Number], tf.Tensor]) -> Operation:
    """An operation that takes a factor: 1 at no strength, 0.1 or 1.9 at full."""
    return lambda pixels, settings: change(
        pixels, tf.maximum(1.0 + settings[1] * settings[0] * 0.9, 0.1)
    )


def _whole(value: tf.Tensor) -> tf.Tensor:
    return tf.cast(value, tf.int32)  # cut off, as Python's int


def _rotate(pixels: tf.Tensor, settings: Settings) -> tf.Tensor:
    strength, sign, bicubic, fill, _ = settings
    return geometry.rotate(pixels, sign * strength * 30, bicubic, fill)


def _shear(axis: int) -> Operation:
    def apply(pixels: tf.Tensor, settings: Settings) -> tf.Tensor:
        strength, sign, bicubic, fill, _ = settings
        middles = np.arange(pixels.shape[1 - axis], dtype=np.float32) + 0.5
        return geometry.slide(pixels, sign * strength * 0.3 * middles, axis, bicubic, fill)

    return apply


def _translate(axis: int) -> Operation:
    def apply(pixels: tf.Tensor, settings: Settings) -> tf.Tensor:
        strength, sign, bicubic, fill, share = settings
        offsets = tf.fill([pixels.shape[1 - axis]], sign * strength * share * pixels.shape[axis])
        return geometry.slide(pixels, offsets, axis, bicubic, fill)

    return apply


OPERATIONS: dict[str, Operation] = {
    "AutoContrast": lambda pixels, _: colour.auto_contrast(pixels),
    "Equalize": lambda pixels, _: colour.equalize(pixels),
    "Invert": lambda pixels, _: colour.invert(pixels),
    "Rotate": _rotate,
    "Posterize": lambda pixels, s: colour.posterize(pixels, _whole(s[0] * 4)),
    "PosterizeIncreasing": lambda pixels, s: colour.posterize(pixels, 4 - _whole(s[0] * 4)),
    "Solarize": lambda pixels, s: colour.solarize(pixels, _whole(s[0] * 256)),
    "SolarizeIncreasing": lambda pixels, s: colour.solarize(pixels, 256 - _whole(s[0] * 256)),
    "SolarizeAdd": lambda pixels, s: colour.solarize_add(pixels, _whole(s[0] * 110)),
    "Color": _enhanced(colour.color),
    "ColorIncreasing": _enhanced_increasing(colour.color),
    "Contrast": _enhanced(colour.contrast),
    "ContrastIncreasing": _enhanced_increasing(colour.contrast),
    "Brightness": _enhanced(colour.brightness),
    "BrightnessIncreasing": _enhanced_increasing(colour.brightness),
    "Sharpness": _enhanced(sharpness),
    "SharpnessIncreasing": _enhanced_increasing(sharpness),
    "ShearX": _shear(axis=1),
    "ShearY": _shear(axis=0),
    "TranslateXRel": _translate(axis=1),
    "TranslateYRel": _translate(axis=0),
}
