"""Colour jitter, and the 3-Augment of DeiT III."""

from __future__ import annotations

import tensorflow as tf

from training.augmentation import colour
from training.augmentation.filters import gaussian_blur


def color_jitter(pixels: tf.Tensor, seed: tf.Tensor, most: float) -> tf.Tensor:
    """Change brightness, contrast and saturation in a random order, as torchvision's ColorJitter.

    Args:
        pixels: uint8 [H, W, 3], with a static shape.
        seed: int64 [2].
        most: each factor is drawn from `1 - most` (at least 0) to `1 + most`.

    Returns:
        uint8 [H, W, 3].

    Example:
        >>> seed = tf.constant([0, 1], tf.int64)
        >>> color_jitter(tf.zeros([8, 8, 3], tf.uint8), seed, 0.4).shape
        TensorShape([8, 8, 3])
    """
    pixels = tf.convert_to_tensor(pixels)
    order_seed, factor_seed = tf.unstack(tf.random.split(seed, 2))
    order = tf.argsort(tf.random.stateless_uniform([3], order_seed))
    factors = tf.random.stateless_uniform([3], factor_seed, max(0.0, 1.0 - most), 1.0 + most)
    for place in range(3):
        branches = [
            lambda change=change, pixels=pixels, factor=factors[place]: change(pixels, factor)
            for change in (colour.brightness, colour.contrast, colour.color)
        ]
        pixels = tf.ensure_shape(tf.switch_case(order[place], branches), pixels.shape)
    return pixels


def three_augment(pixels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Make an image grey, solarise it or blur it, each with a chance of a third.

    From "DeiT III: Revenge of the ViT" (Touvron et al., 2022), which adds colour jitter of 0.3.

    Args:
        pixels: uint8 [H, W, 3], with a static shape.
        seed: int64 [2].

    Returns:
        uint8 [H, W, 3].

    Example:
        >>> seed = tf.constant([0, 1], tf.int64)
        >>> three_augment(tf.zeros([8, 8, 3], tf.uint8), seed).shape
        TensorShape([8, 8, 3])
    """
    pixels = tf.convert_to_tensor(pixels)
    choice_seed, radius_seed = tf.unstack(tf.random.split(seed, 2))
    branches = [
        lambda: colour.grayscale(pixels),
        lambda: colour.solarize(pixels, 128),
        lambda: gaussian_blur(pixels, tf.random.stateless_uniform([], radius_seed, 0.1, 2.0)),
    ]
    choice = tf.random.stateless_uniform([], choice_seed, 0, len(branches), tf.int32)
    return tf.ensure_shape(tf.switch_case(choice, branches), pixels.shape)
