"""Random erasing, after timm."""

from __future__ import annotations

import math

import tensorflow as tf

_AREA = (0.02, 1 / 3)  # of the image
_LOG_RATIO = math.log(1 / 0.3)  # of height to width, both ways
_ATTEMPTS = 10


def random_erasing(
    image: tf.Tensor, seed: tf.Tensor, probability: float, mode: str = "pixel"
) -> tf.Tensor:
    """Erase one box of a normalised image ("Random Erasing", Zhong et al., 2020).

    Args:
        image: float32 [H, W, 3], with a static shape.
        seed: int64 [2].
        probability: chance that a box is erased; it has 2 % to a third of the image's area.
        mode: "pixel" for normal noise, "const" for zeros. Default "pixel".

    Returns:
        float32 [H, W, 3].

    Example:
        >>> seed = tf.constant([0, 1], tf.int64)
        >>> erased = random_erasing(tf.ones([32, 32, 3]), seed, 1.0, "const")
        >>> bool(tf.reduce_any(erased == 0)), bool(tf.reduce_any(erased == 1))
        (True, True)
    """
    image = tf.convert_to_tensor(image)
    height, width, channels = image.shape
    chance_seed, shape_seed, place_seed, noise_seed = tf.unstack(tf.random.split(seed, 4))
    drawn = tf.random.stateless_uniform([2, _ATTEMPTS], shape_seed)
    area = (_AREA[0] + drawn[0] * (_AREA[1] - _AREA[0])) * height * width
    ratio = tf.exp((2.0 * drawn[1] - 1.0) * _LOG_RATIO)
    sides = tf.cast(tf.round(tf.sqrt(tf.stack([area * ratio, area / ratio]))), tf.int32)
    fits = (sides[0] < height) & (sides[1] < width)  # [attempts]
    first = tf.argmax(tf.cast(fits, tf.int32))
    h, w = tf.unstack(sides[:, first], num=2)

    def erase() -> tf.Tensor:
        y, x = tf.unstack(tf.random.stateless_uniform([2], place_seed))
        top = tf.cast(y * tf.cast(height - h + 1, tf.float32), tf.int32)
        left = tf.cast(x * tf.cast(width - w + 1, tf.float32), tf.int32)
        around = [[top, height - top - h], [left, width - left - w], [0, 0]]
        kept = tf.pad(tf.zeros([h, w, channels]), around, constant_values=1.0)
        erased = image * kept
        if mode == "pixel":  # noise for the box alone: it is the slowest part
            noise = tf.random.stateless_normal(tf.stack([h, w, channels]), noise_seed)
            erased += tf.pad(noise, around)
        return tf.ensure_shape(erased, image.shape)

    chosen = tf.random.stateless_uniform([], chance_seed) < probability
    return tf.cond(chosen & tf.reduce_any(fits), erase, lambda: tf.identity(image))
