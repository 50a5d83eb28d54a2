"""What `keras-vit explain` shows: the arrays of each method, and their picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from keras_vit import VisionTransformer

_BATCH = 8  # images that the model sees at once


def compute(
    model: VisionTransformer, images: np.ndarray, method: str, class_id: int | None = None
) -> dict[str, np.ndarray]:
    """The arrays of a method.

    Args:
        model: to look into.
        images: float32 [N, H, W, 3], normalised; of no account for positions and filters.
        method: as the command line has it.
        class_id: what attribution explains. Default None: what is predicted for each image.

    Returns:
        The array of that method under its name; for methods that give maps of images of a model
        with a head also "class_ids" int [N], what is explained or predicted, and its probability
        "scores" float32 [N].

    Raises:
        ValueError: from the functions of `keras_vit.explain`.

    Example:
        >>> from keras_vit import VisionTransformer
        >>> model = VisionTransformer(16, 8, hidden_dim=16, depth=1, num_heads=2, num_classes=3)
        >>> arrays = compute(model, np.zeros([2, 16, 16, 3], "float32"), "rollout")
        >>> {name: array.shape for name, array in arrays.items()}
        {'rollout': (2, 2, 2), 'class_ids': (2,), 'scores': (2,)}
    """
    from keras_vit import explain

    if method == "positions":
        return {method: explain.position_similarity(model)}
    if method == "filters":
        kernel = model.get_layer("patch_embedding").projection.kernel
        most = min(kernel.shape[-1], int(np.prod(kernel.shape[:-1])))
        return {method: explain.patch_filters(model, min(28, most))}
    if method == "distance":
        return {method: explain.mean_attention_distance(model, images)}
    chosen: dict[str, np.ndarray] = {}
    if model.num_classes:
        import keras

        scores = keras.ops.convert_to_numpy(
            keras.ops.softmax(model.predict(images, batch_size=_BATCH, verbose=0))
        )
        ids = np.argmax(scores, axis=-1) if class_id is None else np.full(len(images), class_id)
        chosen = {"class_ids": ids, "scores": scores[np.arange(len(images)), ids]}
    if method == "features":
        return {method: explain.feature_map(model, images), **chosen}
    maps = []
    for start in range(0, len(images), _BATCH):
        part = slice(start, start + _BATCH)
        if method == "attribution":
            given = chosen["class_ids"][part].tolist() if chosen else None
            maps.append(explain.attribution(model, images[part], given))
        else:
            function: Any = {
                "rollout": explain.attention_rollout,
                "attention": explain.class_attention,
            }[method]
            maps.append(np.asarray(function(model, images[part])))
    return {method: np.concatenate(maps), **chosen}


def draw(
    model: VisionTransformer,
    images: np.ndarray,
    method: str,
    arrays: dict[str, np.ndarray],
    names: Sequence[str],
) -> Figure:
    r"""The picture of what `compute` gave.

    Args:
        model: that it is of.
        images: as `compute` took them.
        method: as the command line has it.
        arrays: from `compute`.
        names: of the images.

    Returns:
        The figure.

    Example:
        >>> from keras_vit import VisionTransformer
        >>> model = VisionTransformer(16, 8, hidden_dim=16, depth=1, num_heads=2, num_classes=3)
        >>> images = np.zeros([1, 16, 16, 3], "float32")
        >>> arrays = compute(model, images, "attribution", class_id=1)
        >>> draw(model, images, "attribution", arrays, ["cat.jpg"]).get_suptitle()
        'cat.jpg\n1 0.333'
    """
    from keras_vit.explain import pictures, plots

    array = arrays[method]
    if method == "positions":
        return plots.draw_positions(array)
    if method == "filters":
        return plots.draw_filters(array)
    size = (images.shape[1], images.shape[2])
    if method == "distance":
        return plots.draw_distances(array, size)
    label = {"attribution": "relevance", "rollout": "share", "attention": "attention"}.get(
        method, ""
    )
    titles = [Path(name).name for name in names]
    if "class_ids" in arrays:
        pairs = zip(arrays["class_ids"], arrays["scores"], strict=True)
        classes = [f"{model.labels[i] if model.labels else i} {score:.3f}" for i, score in pairs]
        titles = ["\n".join(both) for both in zip(titles, classes, strict=True)]
    seen = pictures.display_images(model, images)
    if method == "attention" and len(images) == 1:
        maps = pictures.fit_maps(model, array[0], size)
        return pictures.draw_heads(seen[0], maps, titles[0], label)
    maps = pictures.fit_maps(model, array.mean(axis=1) if method == "attention" else array, size)
    if len(images) == 1:
        return pictures.draw_overlay(seen[0], maps[0], titles[0], label)
    return pictures.draw_sheet(seen, maps, titles, label)
