"""Which patches an answer was made of: attention rollout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_vit.explain.steps import block_inputs_model, head_shares
from keras_vit.vision_transformer import VisionTransformer


def attention_rollout(model: VisionTransformer, images: Any) -> Any:
    """How much of each patch is in what the head sees, through all the blocks.

    "Quantifying Attention Flow in Transformers" (Abnar & Zuidema, 2020): in each block the mean of
    the heads' attention `A` and the residual make `(A + I) / 2`, rows summing to 1, and the
    product of these over the blocks says how much of each input token is in each output token.
    The rows of the tokens that the head sees are taken: the class token (for a model with a
    distillation head the mean of its two tokens), the mean of the patches where the head sees
    their mean or maximum, or the attention of the pooling query.

    Args:
        model: any `VisionTransformer`.
        images: float [N, H, W, C], normalised, as the model takes them.

    Returns:
        float32 tensor [N, grid_h, grid_w], not negative; with what is in class token and registers,
        which is not returned, each map sums to 1.

    Raises:
        ValueError: if the images do not fit the model.

    Example:
        >>> model = VisionTransformer((32, 16), 8, hidden_dim=16, depth=2, num_heads=2)
        >>> attention_rollout(model, keras.ops.zeros([1, 32, 16, 3])).shape
        TensorShape([1, 4, 2])
    """
    return rollout_function(model)(images)


def rollout_function(model: VisionTransformer) -> Callable[[Any], Any]:
    """`attention_rollout` for one model, to be called often or traced into a graph.

    Args:
        model: any `VisionTransformer`.

    Returns:
        A function: images [N, H, W, C] -> float32 [N, grid_h, grid_w].

    Example:
        >>> model = VisionTransformer(16, 8, hidden_dim=16, depth=2, num_heads=2)
        >>> rollout_function(model)(keras.ops.zeros([1, 16, 16, 3])).shape
        TensorShape([1, 2, 2])
    """
    steps = block_inputs_model(model)

    def rollout(images: Any) -> Any:
        model.check_images(images)
        patches, *block_inputs, last = steps(images, training=False)
        tokens = head_shares(model, last)  # [N, 1, T]
        for block, x in zip(reversed(model.blocks), reversed(block_inputs), strict=True):
            tokens = keras.ops.matmul(tokens, transition(block.attention_weights(x)))
        rows, columns = keras.ops.shape(patches)[1:3]
        return keras.ops.reshape(tokens[:, 0, model.num_prefix_tokens :], (-1, rows, columns))

    return rollout


def transition(weights: Any) -> Any:
    """What tokens become of in a block, with its residual.

    Args:
        weights: attention of the first t tokens to all, [N, H, t, T].

    Returns:
        float32 [N, t, T]; each row sums to 1.

    Example:
        >>> transition(keras.ops.ones([1, 2, 4, 4]) / 4)[0, 0, :2]
        <tf.Tensor: shape=(2,), dtype=float32, numpy=array([0.625, 0.125], dtype=float32)>
    """
    mean = keras.ops.mean(keras.ops.cast(weights, "float32"), axis=1)  # [N, t, T]
    rows, columns = keras.ops.shape(mean)[1:]
    # Only differential attention goes below zero: what is taken away is not a part of the sum.
    mixed = keras.ops.maximum(mean, 0.0) + keras.ops.eye(rows, columns)
    return mixed / keras.ops.sum(mixed, axis=-1, keepdims=True)
