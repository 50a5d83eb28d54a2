"""Which patches speak for a class: attention rollout weighted by gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_vit.explain.steps import head_shares
from keras_vit.layers.pooling import AttentionPooling
from keras_vit.vision_transformer import VisionTransformer


def attribution(
    model: VisionTransformer, images: Any, class_ids: int | Sequence[int] | None = None
) -> np.ndarray:
    """How much the attention to each patch raises the logit of a class.

    "Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder
    Transformers" (Chefer et al., 2021), equations 5 and 6: from `R = I`, each block with attention
    `A` adds `mean_h(relu(dy/dA * A)) @ R`, where `y` is the logit. The rows of the tokens that the
    head sees are taken, as in `attention_rollout`. The query of attention pooling is one more token
    that only looks: its row starts at zero, as in equation 10 but without normalisation.

    The gradient is exact for every kind of block; the two attentions of a twin block count as
    heads of one, and for differential attention `A` is the difference.

    Args:
        model: a `VisionTransformer` with a head.
        images: float [N, H, W, C], normalised, as the model takes them.
        class_ids: the class of each image, int [N], or one for all, in [0, num_classes). Default
            None: the class with the largest logit.

    Returns:
        float32 [N, grid_h, grid_w], not negative; all zero if no attention raises the logit. Where
        the head sees the mean of the patches, each value holds the patch's own share of `R = I`,
        `1 / (grid_h * grid_w)`.

    Raises:
        ValueError: if the model has no head, a class is out of range, or the images do not fit.

    Example:
        >>> model = VisionTransformer((32, 16), 8, hidden_dim=16, depth=2, num_heads=2)
        >>> attribution(model, keras.ops.zeros([2, 32, 16, 3]), class_ids=[3, 999]).shape
        (2, 4, 2)
    """
    if not model.num_classes:
        raise ValueError(
            "attribution explains the logit of a class, but this model has no head "
            "(num_classes=0): use attention_rollout or class_attention."
        )
    model.check_images(images)
    start = keras.Model(model.input, [model._patches, model._block_inputs[0]])
    patches, x = start(images, training=False)
    chosen = _check_class_ids(class_ids, len(patches), model.num_classes)

    pooling = model.get_layer("pooling")
    has_query = isinstance(pooling, AttentionPooling)
    last = model.blocks[-1].output
    attentions = []
    # Only what comes after the first attention is recorded, and no gradient of a variable.
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        for block in model.blocks:
            weights = block.attention_weights(x)  # [N, H, T, T]
            tape.watch(weights)
            attentions.append(weights)
            x = block(x, training=False, weights=weights)
        tokens = keras.Function(last, model._pooling_input)(x)  # [N, T, D]
        if has_query:
            weights = pooling.attention_weights(tokens)[:, :, None]  # [N, H, 1, T - skipped]
            tape.watch(weights)
            attentions.append(weights)
            pooled = pooling(tokens, weights=weights[:, :, 0])
            logits = keras.Function(pooling.output, model.output)(pooled)
        else:
            logits = keras.Function(last, model.output)(x)
        if chosen is None:
            chosen = np.argmax(logits, axis=-1)
        selected = tf.reduce_sum(logits * tf.one_hot(chosen, model.num_classes, dtype=logits.dtype))
    gradients = tape.gradient(selected, attentions)

    length = tokens.shape[1]
    relevance = tf.eye(length, batch_shape=[len(patches)])  # [N, T, T]
    steps = [_relevant(*pair) for pair in zip(attentions, gradients, strict=True)]
    for step in steps[: len(model.blocks)]:
        relevance += step @ relevance
    if has_query:
        row = steps[-1] @ relevance[:, pooling.num_skipped_tokens :]  # [N, 1, T]
    else:
        row = head_shares(model, tokens) @ relevance
    maps = row[:, 0, model.num_prefix_tokens :]
    return keras.ops.convert_to_numpy(tf.reshape(maps, patches.shape[:3]))


def _relevant(weights: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
    """Equation 5: the mean over the heads of what raises the logit, float32 [N, T, T]."""
    product = tf.cast(weights, tf.float32) * tf.cast(gradient, tf.float32)
    return tf.reduce_mean(tf.nn.relu(product), axis=1)


def _check_class_ids(class_ids: Any, batch: int, num_classes: int) -> np.ndarray | None:
    """One class for each image, int [N]."""
    if class_ids is None:
        return None
    given = np.asarray(class_ids)
    if given.dtype.kind not in "iu" or given.shape not in ((), (batch,)):
        raise ValueError(
            f"class_ids must be one int for each of the {batch} images, or one for all, "
            f"not {class_ids!r}."
        )
    if given.size and not (given.min() >= 0 and given.max() < num_classes):
        raise ValueError(
            f"class_ids must be in [0, {num_classes}), the outputs of the model, not {class_ids!r}."
        )
    return np.broadcast_to(given, (batch,))
