"""How much a map says about an answer: hide what it ranks highest, and watch the class go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_vit.vision_transformer import VisionTransformer

_BATCH = 64  # images at a time


def deletion_curve(
    model: VisionTransformer,
    images: Any,
    class_ids: int | Sequence[int],
    maps: np.ndarray,
    fill: float | None = None,
    num_random: int = 5,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """The probability of a class while the patches of an image are hidden one after the other.

    The deletion test of "RISE: Randomized Input Sampling for Explanation of Black-box Models"
    (Petsiuk et al., 2018), patch by patch. The mean of a curve is the area under it: the lower
    against that of a random order, the more the map says about the answer.

    Args:
        model: a `VisionTransformer` with a head.
        images: float [N, H, W, C], normalised, as the model takes them.
        class_ids: the class of each image, int [N], or one for all.
        maps: [N, grid_h, grid_w], as `attribution` gives; the highest patch is hidden first.
        fill: what the values of a hidden patch become, in normalised units. Default None: the mean
            colour of the image.
        num_random: random orders for each image. Default 5.
        seed: of these orders. Default 0.

    Returns:
        Two curves, float32 [grid_h * grid_w + 1], the mean over the images of the probability with
        0, 1, 2, … patches hidden: in the order of the maps, and in random order.

    Raises:
        ValueError: if the model has no head, or the maps do not fit the images.

    Example:
        >>> model = VisionTransformer(16, 8, hidden_dim=16, depth=1, num_heads=2, num_classes=4)
        >>> images, maps = np.ones([2, 16, 16, 3]), np.zeros([2, 2, 2])
        >>> [curve.tolist() for curve in deletion_curve(model, images, 1, maps, fill=0)]
        [[0.25, 0.25, 0.25, 0.25, 0.25], [0.25, 0.25, 0.25, 0.25, 0.25]]
    """
    if not model.num_classes:
        raise ValueError("deletion_curve follows a class, but this model has no head.")
    model.check_images(images)
    images, maps = np.asarray(images, "float32"), np.asarray(maps)
    height, width = model.pixels_per_patch
    grid = (images.shape[1] // height, images.shape[2] // width)
    if maps.shape != (len(images), *grid) or not len(images):
        raise ValueError(
            f"maps must be [N, grid_h, grid_w] = {[len(images), *grid]} for these images, and N at "
            f"least 1; their shape is {list(maps.shape)}."
        )
    classes = np.broadcast_to(np.asarray(class_ids), (len(images),))

    colours = images.mean(axis=(1, 2)) if fill is None else np.full(len(images), fill)

    @tf.function(input_signature=[tf.TensorSpec([None, *images.shape[1:]])], autograph=False)
    def probabilities(batch: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(tf.cast(model(batch, training=False), tf.float32))

    def curve(order: np.ndarray) -> np.ndarray:
        """The mean probability with 0, 1, 2, … patches of the order [N, P] hidden."""
        hidden, means = images.copy(), []
        for step in range(order.shape[1] + 1):
            if step:
                rows, columns = np.unravel_index(order[:, step - 1], grid)
                places = zip(rows * height, columns * width, colours, strict=True)
                for image, (row, column, colour) in zip(hidden, places, strict=True):
                    image[row : row + height, column : column + width] = colour
            parts = range(0, len(hidden), _BATCH)
            scores = np.concatenate([probabilities(hidden[i : i + _BATCH]) for i in parts])
            means.append(scores[np.arange(len(hidden)), classes].mean())
        return np.array(means, "float32")

    rng = np.random.default_rng(seed)
    order = np.argsort(-maps.reshape(len(images), -1), axis=1, kind="stable")
    by_chance = [curve(rng.permuted(order, axis=1)) for _ in range(num_random)]
    return curve(order), np.mean(by_chance, axis=0, dtype="float32")
