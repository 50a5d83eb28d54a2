"""What a model has learned about positions and patches, and what it makes of an image."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_vit.vision_transformer import VisionTransformer

_BATCH = 16  # images at a time, where there may be many


def position_similarity(model: VisionTransformer) -> np.ndarray:
    """How alike the positions of any two patches are.

    "An Image is Worth 16x16 Words" (Dosovitskiy et al., 2021), Figure 7 centre: the cosine
    similarity of the position embeddings, without those of class token and registers.

    Args:
        model: a `VisionTransformer` with positions, learned or "sincos2d".

    Returns:
        float32 [grid_h, grid_w, grid_h, grid_w] in [-1, 1]: `[i, j]` is the map of the patch in row
        i and column j. The grid is that of the position table, `model.grid`.

    Raises:
        ValueError: if the model adds no positions to its patches.

    Example:
        >>> model = VisionTransformer((32, 16), 8, hidden_dim=16, depth=1, num_heads=2)
        >>> position_similarity(model).shape
        (4, 2, 4, 2)
    """
    layers = {layer.name: layer for layer in model.layers}
    if "position_embedding" not in layers:
        raise ValueError(
            "The model adds no positions to its patches (position_embedding='none'), so there is "
            "no similarity of positions to show: use a model with 'learned' ones."
        )
    table = keras.ops.convert_to_numpy(layers["position_embedding"].table)[0].astype("float64")
    lengths = np.linalg.norm(table, axis=-1, keepdims=True)  # [P, 1]
    unit = np.divide(table, lengths, out=np.zeros_like(table), where=lengths > 0)
    similarity = np.clip(unit @ unit.T, -1, 1)
    return similarity.reshape(model.grid * 2).astype("float32")


def patch_filters(model: VisionTransformer, components: int = 28) -> np.ndarray:
    """The principal components of the filters of the patch embedding.

    "An Image is Worth 16x16 Words" (Dosovitskiy et al., 2021), Figure 7 left, shows the first 28:
    the D filters, less their mean, are a D-fold sample of vectors of `patch_h * patch_w * C`.

    Args:
        model: a `VisionTransformer` without a stem.
        components: how many, the largest variance first; at most D and `patch_h * patch_w * C`.
            Default 28.

    Returns:
        float32 [components, patch_h, patch_w, C], orthonormal; the largest value of each is
        positive.

    Raises:
        ValueError: if there are not as many components, or the model has a stem.

    Example:
        >>> model = VisionTransformer(32, 8, hidden_dim=16, depth=1, num_heads=2)
        >>> patch_filters(model, components=5).shape
        (5, 8, 8, 3)
    """
    if any(layer.name == "stem" for layer in model.layers):
        raise ValueError(
            "The patches of this model are cut from the feature map of its convolutional stem, "
            "so they have no filters over pixels: use a model without a stem."
        )
    kernel = model.get_layer("patch_embedding").projection.kernel  # [ph, pw, C, D]
    filters = keras.ops.convert_to_numpy(kernel).astype("float64")
    vectors = filters.reshape(-1, filters.shape[-1]).T  # [D, ph * pw * C]
    if not isinstance(components, int) or not 1 <= components <= min(vectors.shape):
        raise ValueError(
            f"components must be an int from 1 to {min(vectors.shape)}: the model has "
            f"{vectors.shape[0]} filters of {vectors.shape[1]} values; {components!r} was given."
        )
    axes, _ = _principal_axes(vectors)
    return axes[:components].reshape(components, *filters.shape[:3]).astype("float32")


def feature_map(model: VisionTransformer, images: Any, block: int | None = None) -> np.ndarray:
    """The features of the patches as colours: their first three principal components.

    As in "DINOv2: Learning Robust Visual Features without Supervision" (Oquab et al., 2023),
    Figure 1: the components are those of all patches of all images together, so one colour means
    one thing in all of them.

    Args:
        model: any `VisionTransformer`.
        images: float [N, H, W, C], normalised, as the model takes them.
        block: the block after which to look, from 0, or from -1 backwards. Default None: what the
            pooling sees, after the final norm if that comes before the pooling.

    Returns:
        float32 [N, grid_h, grid_w, 3] in [0, 1]: each component from its smallest to its largest
        value; 0.5 where it does not vary.

    Raises:
        ValueError: if there is no such block, no image, or the images do not fit the model.

    Example:
        >>> model = VisionTransformer((32, 16), 8, hidden_dim=16, depth=2, num_heads=2)
        >>> feature_map(model, keras.ops.zeros([3, 32, 16, 3])).shape
        (3, 4, 2, 3)
    """
    model.check_images(images)
    depth = len(model.blocks)
    if block is not None and not (isinstance(block, int) and -depth <= block < depth):
        raise ValueError(f"block must be None or an int from {-depth} to {depth - 1}, not {block}.")
    if not len(images):
        raise ValueError("feature_map needs at least one image.")
    tokens = model._pooling_input if block is None else model.blocks[block].output
    steps = keras.Model(model.input, [model._patches, tokens])
    features: list[np.ndarray] = []
    for start in range(0, len(images), _BATCH):
        patches, tokens = steps(images[start : start + _BATCH], training=False)
        tokens = keras.ops.cast(tokens[:, model.num_prefix_tokens :], "float32")  # [N, P, D]
        features.append(keras.ops.convert_to_numpy(tokens))
    rows, columns = patches.shape[1:3]
    vectors = np.concatenate(features).reshape(-1, model.hidden_dim).astype("float64")
    axes, spread = _principal_axes(vectors)
    # Beyond the rank of the features there is only rounding, which must not be stretched to [0, 1].
    axes = axes[:3][spread[:3] > 1e-6 * max(spread[0], 1e-6)]
    colours = np.full((len(vectors), 3), 0.5)
    scores = vectors @ axes.T
    low, high = scores.min(axis=0), scores.max(axis=0)
    colours[:, : len(axes)] = (scores - low) / (high - low)
    return colours.reshape(len(images), rows, columns, 3).astype("float32")


def _principal_axes(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit axes [K, D] of vectors [N, D] about their mean, and the spread [K], largest first."""
    centred = vectors - vectors.mean(axis=0)
    if len(centred) > centred.shape[1]:
        centred = np.linalg.qr(centred, mode="r")  # has the same axes, and far fewer rows
    _, spread, axes = np.linalg.svd(centred, full_matrices=False)
    # A component has no sign of its own: the largest value is made positive.
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    return axes * np.where(largest < 0, -1.0, 1.0), spread
