"""Where the attention goes."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_vit.explain.steps import block_inputs_model, head_shares
from keras_vit.layers.pooling import AttentionPooling
from keras_vit.vision_transformer import VisionTransformer

_BATCH = 16  # images at a time, where there may be many: attention takes T * T values a head


def class_attention(model: VisionTransformer, images: Any) -> np.ndarray:
    """Where the last attention looks, head by head, for what the classifier sees.

    The attention of the last block from the class token to the patches (with a distillation head
    the mean of its two tokens), from the mean of the patches where the head sees their mean or
    maximum, half of each for "token_avg"; or the attention of the pooling query. "Emerging
    Properties in Self-Supervised Vision Transformers" (Caron et al., 2021) shows these maps in
    Figures 1 and 3.

    Args:
        model: any `VisionTransformer`.
        images: float [N, H, W, C], normalised, as the model takes them.

    Returns:
        float32 [N, heads, grid_h, grid_w]; with what goes to class token and registers, which is
        not returned, each map sums to 1. A twin block has 2 H maps; differential attention has
        differences, which may be negative and sum to `1 - lambda`.

    Raises:
        ValueError: if the images do not fit the model.

    Example:
        >>> model = VisionTransformer((32, 16), 8, hidden_dim=16, depth=2, num_heads=2)
        >>> class_attention(model, keras.ops.zeros([1, 32, 16, 3])).shape
        (1, 2, 4, 2)
    """
    model.check_images(images)
    patches, *_, x, tokens = block_inputs_model(model)(images, training=False)
    pooling = model.get_layer("pooling")
    if isinstance(pooling, AttentionPooling):
        maps = pooling.attention_weights(tokens)  # [N, H, T - skipped]
    else:
        weights = keras.ops.cast(model.blocks[-1].attention_weights(x), "float32")  # [N, H, T, T]
        maps = keras.ops.matmul(head_shares(model, tokens)[:, None], weights)[:, :, 0]
    rows, columns = patches.shape[1:3]
    maps = keras.ops.cast(maps[..., -rows * columns :], "float32")
    return keras.ops.convert_to_numpy(keras.ops.reshape(maps, (len(patches), -1, rows, columns)))


def mean_attention_distance(model: VisionTransformer, images: Any) -> np.ndarray:
    """How far each head of each block looks, in pixels.

    "An Image is Worth 16x16 Words" (Dosovitskiy et al., 2021), Figure 7 right and Figure 11: the
    distance from a query patch to the others, weighted by its attention, in the mean over queries
    and images. Only patches count: attention to class token and registers is left out, and the rest
    of a row scaled to sum to 1. Distances are those between the centres of the patches.

    Args:
        model: any `VisionTransformer`.
        images: float [N, H, W, C], normalised; the paper takes 128.

    Returns:
        float32 [depth, heads]; a twin block has 2 H heads. Differential attention counts where it
        is positive.

    Raises:
        ValueError: if there are no images, or they do not fit the model.

    Example:
        >>> model = VisionTransformer(32, 8, hidden_dim=16, depth=3, num_heads=2)
        >>> mean_attention_distance(model, keras.ops.zeros([1, 32, 32, 3])).shape
        (3, 2)
    """
    model.check_images(images)
    if not len(images):
        raise ValueError("mean_attention_distance needs at least one image.")
    steps = block_inputs_model(model)
    total: Any = 0.0
    for start in range(0, len(images), _BATCH):
        patches, *inputs, _ = steps(images[start : start + _BATCH], training=False)
        distances = _distances(patches.shape[1:3], model.pixels_per_patch)  # [P, P]
        pairs = zip(model.blocks, inputs, strict=True)
        total = total + np.stack(
            [_weighted_mean(block.attention_weights(x), distances) for block, x in pairs]
        )
    return (total / len(images)).astype("float32")


def _weighted_mean(weights: Any, distances: np.ndarray) -> np.ndarray:
    """Attention [N, H, T, T] and distances [P, P] to the sum over images of each head's mean."""
    count = len(distances)
    weights = keras.ops.cast(weights[..., -count:, -count:], "float32")
    weights = keras.ops.maximum(weights, 0.0)  # [N, H, P, P]
    shares = keras.ops.divide_no_nan(weights, keras.ops.sum(weights, axis=-1, keepdims=True))
    means = keras.ops.mean(keras.ops.sum(shares * distances, axis=-1), axis=-1)  # [N, H]
    return keras.ops.convert_to_numpy(keras.ops.sum(means, axis=0))


def _distances(grid: tuple[int, int], patch: tuple[int, int]) -> np.ndarray:
    """Between the centres of all pairs of patches, in pixels, float32 [P, P]."""
    rows, columns = np.indices(grid).reshape(2, -1)
    down = patch[0] * (rows[:, None] - rows)
    across = patch[1] * (columns[:, None] - columns)
    return np.hypot(down, across).astype("float32")
