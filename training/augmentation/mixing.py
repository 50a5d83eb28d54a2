"""Blending the images of a batch: mixup and CutMix."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from training.augmentation.config import Augmentation


def mix_batch(
    images: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor, augmentation: Augmentation
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mix a batch as the settings say.

    Args:
        images: float32 [B, H, W, 3], B at least 1.
        targets: float32 [B, num_classes], smoothed already where they are to be.
        seed: int64 [2].
        augmentation: `mixup`, `cutmix` and what goes with them; with both 0 nothing changes.

    Returns:
        The mixed images and targets, of the same shapes.

    Example:
        >>> seed = tf.constant([0, 1], tf.int64)
        >>> settings = Augmentation(mixup_kind="timm", mixup=0.8, cutmix=1.0)
        >>> images, targets = mix_batch(tf.zeros([3, 4, 4, 3]), tf.eye(3), seed, settings)
        >>> tf.reduce_sum(targets, axis=1).numpy().round(3)
        array([1., 1., 1.], dtype=float32)
    """
    if not augmentation.mixup and not augmentation.cutmix:
        return images, targets
    if augmentation.mixup_kind == "big_vision":
        return mixup(images, targets, seed, augmentation.mixup)
    return mix_pairs(
        images,
        targets,
        seed,
        mixup_beta=augmentation.mixup,
        cutmix_beta=augmentation.cutmix,
        prob=augmentation.mix_prob,
        switch_prob=augmentation.mix_switch_prob,
    )


def mixup(
    images: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor, beta: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Blend each image of a batch with its neighbour, and their targets alike.

    "mixup: Beyond Empirical Risk Minimization" (Zhang et al., 2018) as big_vision does it: one
    `a ~ Beta(beta, beta)` for the batch, `a = max(a, 1 - a)`, the partner one place further.

    Args:
        images: float [B, H, W, 3].
        targets: float [B, num_classes].
        seed: int64 [2].
        beta: above 0.

    Returns:
        The blended images and targets, of the same shapes.

    Example:
        >>> seed = tf.constant([0, 1], tf.int64)
        >>> images, targets = mixup(tf.zeros([2, 4, 4, 3]), tf.eye(2), seed, 0.2)
        >>> tf.reduce_sum(targets).numpy().round(3)
        np.float32(2.0)
    """
    a = _beta(seed, beta)
    a = tf.maximum(a, 1.0 - a)
    return (
        a * images + (1 - a) * tf.roll(images, 1, axis=0),
        a * targets + (1 - a) * tf.roll(targets, 1, axis=0),
    )


def mix_pairs(
    images: tf.Tensor,
    targets: tf.Tensor,
    seed: tf.Tensor,
    *,
    mixup_beta: float,
    cutmix_beta: float,
    prob: float = 1.0,
    switch_prob: float = 0.5,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mix the images of a batch in pairs: mixup, or a box of the partner ("CutMix", Yun et al.).

    One draw for the batch, as timm's `Mixup` in its mode "batch".

    Args:
        images: float32 [B, H, W, 3], B at least 1.
        targets: float32 [B, num_classes].
        seed: int64 [2].
        mixup_beta: Beta parameter of mixup; 0 for none.
        cutmix_beta: Beta parameter of CutMix; 0 for none. One of both is above 0.
        prob: chance that the batch is mixed at all. Default 1.
        switch_prob: chance of CutMix rather than mixup where both are on. Default 0.5.

    Returns:
        The mixed images and targets, of the same shapes. The share of a target is the share of the
        image's area that is left.

    Raises:
        ValueError: if both betas are 0.

    Example:
        >>> seed = tf.constant([0, 1], tf.int64)
        >>> _, targets = mix_pairs(tf.zeros([2, 8, 8, 3]), tf.eye(2), seed, mixup_beta=0.0,
        ...                        cutmix_beta=1.0)
        >>> bool(targets[0, 1] == targets[1, 0])
        True
    """
    if not mixup_beta and not cutmix_beta:
        raise ValueError("mix_pairs needs a mixup_beta or a cutmix_beta above 0; both are 0.")
    seeds = tf.unstack(tf.random.split(seed, 4))
    mix_draw, switch_draw = tf.unstack(tf.random.stateless_uniform([2], seeds[0]))
    height, width = images.shape[1:3]
    keep: tf.Tensor  # share of each image's own pixels: scalar, or [H, W * 3]
    if not cutmix_beta:
        share = keep = _beta(seeds[1], mixup_beta)
    else:
        keep = _outside_of_a_box(seeds[2], _beta(seeds[3], cutmix_beta), height, width)
        share = tf.reduce_mean(keep)
        if mixup_beta:
            cut = switch_draw < switch_prob
            blended = _beta(seeds[1], mixup_beta)
            share, keep = tf.where(cut, share, blended), tf.where(cut, keep, blended)
    mixed = mix_draw < prob
    share, keep = tf.where(mixed, share, 1.0), tf.where(mixed, keep, 1.0)

    # timm's partner is the mirror image of the place in the batch. Neighbours do as well in a
    # shuffled batch, and a process that holds a part of it needs at most one more at each end.
    # The last of an odd batch stays with itself.
    size = tf.shape(images)[0]
    partner = tf.minimum(tf.bitwise.bitwise_xor(tf.range(size), 1), size - 1)
    own = tf.reshape(images, [-1, height, width * 3])  # slow if the channels are an axis
    other = tf.gather(own, partner)
    return (
        tf.reshape(own * keep + other * (1.0 - keep), tf.shape(images)),
        targets * share + tf.gather(targets, partner) * (1.0 - share),
    )


def _beta(seed: tf.Tensor, beta: float) -> tf.Tensor:
    """A number from Beta(beta, beta), float32."""
    x, y = tf.unstack(tf.random.stateless_gamma([2], seed, alpha=[beta, beta]))
    # Both gammas can underflow to zero for a small beta: nothing is mixed then.
    return 1.0 - tf.math.divide_no_nan(y, x + y)


def _outside_of_a_box(seed: tf.Tensor, share: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """1 outside and 0 inside of a box with `1 - share` of the area: float32 [H, W * 3].

    Its centre lies anywhere in the image; what sticks out is cut off.
    """
    ratio = tf.sqrt(1.0 - share)
    centers = tf.random.stateless_uniform([2], seed)

    def span(center: tf.Tensor, side: int) -> tuple[tf.Tensor, tf.Tensor]:
        length = tf.cast(ratio * side, tf.int32)
        middle = tf.cast(center * side, tf.int32)
        return middle - length // 2, middle + (length + 1) // 2

    row, column = np.arange(height)[:, None], np.repeat(np.arange(width), 3)
    (top, bottom), (left, right) = span(centers[0], height), span(centers[1], width)
    inside = (row >= top) & (row < bottom) & (column >= left) & (column < right)
    return 1.0 - tf.cast(inside, tf.float32)
