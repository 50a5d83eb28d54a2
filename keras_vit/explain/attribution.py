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
    last = model.blocks[-1].output
    steps = keras.Model(model.input, [model._patches, *model._block_inputs, last])
    patches, *inputs, x = steps(images, training=False)
    chosen = _check_class_ids(class_ids, len(patches), model.num_classes)

    row, gradient = _head(model, x, chosen)
    # From the last block to the first: what is recorded for the gradient is one block at a time.
    for block, x in zip(reversed(model.blocks), reversed(inputs), strict=True):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            weights = block.attention_weights(x)  # [N, H, T, T]
            y = block(x, training=False, weights=weights)
        slope, gradient = tape.gradient(y, [weights, x], output_gradients=gradient)
        # The row times (I + step) of this block, then of the one before: the row of R at the end.
        row += row @ _relevant(weights, slope)
    maps = row[:, 0, model.num_prefix_tokens :]
    return keras.ops.convert_to_numpy(tf.reshape(maps, patches.shape[:3]))


def _head(
    model: VisionTransformer, x: tf.Tensor, class_ids: np.ndarray | None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Where the way back begins.

    Args:
        model: with a head.
        x: what the last block gives, [N, T, D].
        class_ids: int [N]. None takes those with the largest logits.

    Returns:
        How much of each token is in what the head sees, float32 [N, 1, T], and the gradient of the
        logits with respect to `x`.
    """
    last, pooling = model.blocks[-1].output, model.get_layer("pooling")
    to_tokens = keras.Function(last, model._pooling_input)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        if isinstance(pooling, AttentionPooling):
            tokens = to_tokens(x)  # [N, T, D]
            weights = pooling.attention_weights(tokens)  # [N, H, T - skipped]
            pooled = pooling(tokens, weights=weights)
            logits = keras.Function(pooling.output, model.output)(pooled)
        else:
            weights = None
            logits = keras.Function(last, model.output)(x)
        if class_ids is None:
            class_ids = np.argmax(logits, axis=-1)
        one_hot = tf.one_hot(class_ids, model.num_classes, dtype=logits.dtype)
        selected = tf.reduce_sum(logits * one_hot)
    if weights is None:
        return head_shares(model, to_tokens(x)), tape.gradient(selected, x)
    slope, gradient = tape.gradient(selected, [weights, x])
    row = _relevant(weights[:, :, None], slope[:, :, None])  # [N, 1, T - skipped]
    return tf.pad(row, [[0, 0], [0, 0], [pooling.num_skipped_tokens, 0]]), gradient


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
