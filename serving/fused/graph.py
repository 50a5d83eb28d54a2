"""The model as the served graph computes it: the same numbers in fewer and larger operations.

TensorFlow's graph optimiser joins operations only in the shapes that it knows. With tokens as one
matrix [B * N, D], a product takes its bias, its GELU and its residual with it, and a layer norm
with constant scale and offset is one kernel. Factors are multiplied into the kernels. Where the
head sees the class token only, the last block computes it alone, without keys and values of the
others. Attention over long sequences goes image by image, so that no more than one image's maps are
in memory.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_vit import VisionTransformer
from keras_vit.explain.rollout import transition
from keras_vit.explain.steps import head_shares
from keras_vit.layers import (
    EncoderBlock,
    LayerNorm,
    MultiHeadSelfAttention,
    PostNormBlock,
)
from serving.fused.block import FusedBlock, block_norms, divisible
from serving.fused.layers import KERNEL_EPSILON, Function
from serving.fused.stem import FusedStem
from serving.fused.streams import side_by_side
from serving.fused.token_merging import TokenMerging, merging_block, spread, unmerged


@dataclasses.dataclass(frozen=True)
class Parts:
    """What signatures are made of; each takes normalised images [B, H, W, C].

    Args:
        answer: gives what the head sees, [B, D], and logits [B, num_classes].
        rollout: `keras_vit.attention_rollout`, float32 [B, rows, columns].
        streams: how many parts of the tokens are computed at the same time all the way.
    """

    answer: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
    rollout: Function
    streams: int

    def representation(self, images: tf.Tensor) -> tf.Tensor:
        """What the head sees, [B, D]."""
        return self.answer(images)[0]

    def logits(self, images: tf.Tensor) -> tf.Tensor:
        """[B, num_classes]."""
        return self.answer(images)[1]


def fuse(
    model: VisionTransformer, token_merging: TokenMerging | None = None, streams: int = 1
) -> Parts:
    """Write a model anew for serving.

    Args:
        model: any `VisionTransformer` without dropout and LoRA, as `serving_copy` makes them.
        token_merging: which tokens blocks merge. Default None: none, and the parts are equal to the
            Keras model's up to rounding. The rollout never merges.
        streams: in how many parts to compute the tokens at the same time, where the model has a
            fixed input size, no convolutional stem, and no differential attention; elsewhere it is
            one. Default 1.

    Returns:
        Its `Parts`. The blocks have weights of their own; the layers before and after them are the
        model's.

    Raises:
        ValueError: if this model's tokens cannot be merged, with the reason.

    Example:
        >>> model = VisionTransformer(32, 8, hidden_dim=16, depth=1, num_heads=2, num_classes=3)
        >>> fuse(model).logits(tf.zeros([2, 32, 32, 3])).shape
        TensorShape([2, 3])
    """
    if token_merging is not None:
        check_token_merging(model)
    # Where a part of the work would still be one kernel after the other, threads share the kernels.
    if model.has_stem or not all(map(divisible, model.blocks)) or model.image_size is None:
        streams = 1
    seen, scale = model.tokens_seen, _token_scale(model.blocks)
    *first, last = model.blocks
    blocks = [FusedBlock(block, None, scale, streams) for block in first]
    blocks.append(FusedBlock(last, seen, scale, streams))
    stem = FusedStem(model, streams)
    counts = token_merging.counts(len(blocks)) if token_merging else ()

    def encode(images: tf.Tensor, with_maps: bool = False) -> tuple[tf.Tensor, Any, list[Any]]:
        grid, x = stem(images)
        maps = []
        parts = side_by_side(x * tf.constant(scale, x.dtype), streams)
        for block in blocks:
            parts, weights = block(parts, with_maps)
            maps.append(weights)
        x = tf.concat(parts, axis=1)
        return grid, model._finish(x * tf.constant(1 / scale, x.dtype)), maps

    def merged(images: tf.Tensor) -> tuple[Any, ...]:
        _, x = stem(images)
        tokens = unmerged(x)
        parts = side_by_side(x * tf.constant(scale, x.dtype), streams)
        *first, last = blocks
        for block, count in zip(first if seen else blocks, counts, strict=False):
            parts, tokens = merging_block(block, parts, tokens, model.num_prefix_tokens, count)
        if seen:
            (x,), _ = last(parts, log_sizes=tokens.log_sizes)
        else:
            x = spread(tf.concat(parts, axis=1), tokens)
        return model._finish(x * tf.constant(1 / scale, x.dtype))

    def answer(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        _, representation, logits, *_ = merged(images) if counts else encode(images)[1]
        return representation, logits

    def rollout(images: tf.Tensor) -> tf.Tensor:
        (rows, columns), (pooled, *_), maps = encode(images, with_maps=True)
        tokens = head_shares(model, pooled)  # [B, 1, N], or [B, 1, seen]
        for weights in reversed(maps):
            tokens = tf.matmul(tokens, transition(weights))  # [B, 1, N]
        return tf.reshape(tokens[:, 0, model.num_prefix_tokens :], [-1, rows, columns])

    return Parts(answer, rollout, streams)


def check_token_merging(model: VisionTransformer) -> None:
    """Say why a model's tokens cannot be merged.

    Args:
        model: the model.

    Raises:
        ValueError: if they cannot.

    Example:
        >>> model = VisionTransformer(32, 8, hidden_dim=16, depth=1, num_heads=2, num_classes=3)
        >>> check_token_merging(model)
    """
    for block in model.blocks:
        attention = getattr(block, "attention", None)
        if type(block) is not EncoderBlock or type(attention) is not MultiHeadSelfAttention:
            raise ValueError(
                f"Token merging is for blocks that apply attention, then an MLP, each after its "
                f"norm; this model has a {type(block).__name__} with {type(attention).__name__}: "
                f"export it without token_merging."
            )
    if model.image_size is None:
        raise ValueError(
            "Token merging needs to know the number of tokens, but this model takes images of any "
            "size: give image_size."
        )


def _token_scale(blocks: Sequence[Any]) -> float:
    """The factor on the tokens between the blocks with which `fused_norm` is exact."""
    norms = [layer for block in blocks for layer in block_norms(block)]
    epsilons = {norm.epsilon for norm in norms}
    if len(epsilons) != 1 or any(isinstance(block, PostNormBlock) for block in blocks):
        return 1.0
    if any(type(norm) is not LayerNorm for norm in norms):
        return 1.0
    return math.sqrt(KERNEL_EPSILON / epsilons.pop())
