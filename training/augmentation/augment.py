"""From encoded bytes to an augmented input of the model."""

from __future__ import annotations

import tensorflow as tf

from keras_vit import Preprocessing
from keras_vit.decoding import decode_image
from training.augmentation.config import Augmentation
from training.augmentation.crops import (
    decode_inception_crop,
    resize_small_crop,
    resize_squash_crop,
    shift,
    simple_random_crop,
)
from training.augmentation.erasing import random_erasing
from training.augmentation.jitter import color_jitter, three_augment
from training.augmentation.randaugment import rand_augment
from training.augmentation.timm_randaugment import augmix, timm_rand_augment


def augment_image(
    image_bytes: tf.Tensor,
    seed: tf.Tensor,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
) -> tf.Tensor:
    """Decode an image and change it at random.

    In the order of timm and DeiT III: crop, flip, 3-Augment or RandAugment or AugMix, colour
    jitter, normalisation, random erasing.

    Args:
        image_bytes: string scalar, an encoded image.
        seed: int64 [2]; the same seed gives the same result.
        preprocessing: the evaluation transform, whose size, kernel and normalisation are kept.
        augmentation: what to change.

    Returns:
        float32 [H, W, 3], normalised.

    Raises:
        tf.errors.InvalidArgumentError: if the bytes are not an image.
        ValueError: if the crop does not fit the size of the input.

    Example:
        >>> image_bytes = tf.io.encode_png(tf.zeros([9, 9, 3], tf.uint8))
        >>> seed = tf.constant([0, 1], tf.int64)
        >>> augment_image(image_bytes, seed, Preprocessing(8), Augmentation(flip=True)).shape
        TensorShape([8, 8, 3])
    """
    seeds = tf.unstack(tf.random.split(seed, 5))
    pixels = _cropped(image_bytes, seeds[0], preprocessing, augmentation)  # [H, W, 3] in 0 ... 255
    if augmentation.flip:
        pixels = tf.image.stateless_random_flip_left_right(pixels, seeds[1])
    if _works_on_levels(augmentation):
        levels = tf.cast(tf.round(pixels), tf.uint8)
        levels = _policy(levels, seeds[2], preprocessing, augmentation)
        if augmentation.color_jitter:
            levels = color_jitter(levels, seeds[3], augmentation.color_jitter)
        pixels = levels
    image = preprocessing.normalize(pixels)
    if augmentation.random_erasing:
        image = random_erasing(
            image, seeds[4], augmentation.random_erasing, augmentation.erasing_mode
        )
    return image


def _cropped(
    image_bytes: tf.Tensor,
    seed: tf.Tensor,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
) -> tf.Tensor:
    """Decode the part of an image that is used, in the model's size: float32 [H, W, 3]."""
    max_pixels = preprocessing.max_pixels
    if augmentation.crop == "inception":
        pixels = decode_inception_crop(
            image_bytes, seed, augmentation.crop_area, max_pixels, augmentation.crop_ratio
        )  # [h', w', 3]
        return preprocessing.replace(resize_mode="squash", crop_fraction=1.0).resize(pixels)
    pixels = decode_image(image_bytes, max_pixels)  # [h, w, 3]
    if augmentation.crop == "resize_small":
        return resize_small_crop(pixels, seed, preprocessing, augmentation.resize_size)
    if augmentation.crop == "resize_squash":
        return resize_squash_crop(pixels, seed, preprocessing, augmentation.resize_size)
    if augmentation.crop == "simple_random":
        return simple_random_crop(pixels, seed, preprocessing)
    pixels = preprocessing.resize(pixels)
    if augmentation.crop == "shift":
        pixels = shift(pixels, seed, augmentation.shift_pixels)
    return pixels


def _works_on_levels(augmentation: Augmentation) -> bool:
    """Whether a change needs whole grey levels."""
    return bool(
        augmentation.three_augment
        or augmentation.randaugment_layers
        or augmentation.augmix_width
        or augmentation.color_jitter
    )


def _policy(
    levels: tf.Tensor, seed: tf.Tensor, preprocessing: Preprocessing, augmentation: Augmentation
) -> tf.Tensor:
    """The one policy that is on, or none: uint8 [H, W, 3] -> uint8 [H, W, 3]."""
    # timm fills with the mean colour, in whole levels.
    fill = [min(255, round(255 * mean)) for mean in preprocessing.mean]
    layers, magnitude = augmentation.randaugment_layers, augmentation.randaugment_magnitude
    if augmentation.three_augment:
        return three_augment(levels, seed)
    if layers and augmentation.randaugment_kind == "google":
        return rand_augment(levels, seed, layers, magnitude)
    if layers:
        return timm_rand_augment(
            levels,
            seed,
            layers,
            magnitude,
            std=augmentation.randaugment_std,
            increasing=augmentation.randaugment_increasing,
            fill=fill,
        )
    if augmentation.augmix_width:
        return augmix(
            levels,
            seed,
            augmentation.augmix_width,
            augmentation.augmix_depth,
            augmentation.augmix_severity,
            fill,
        )
    return levels
