"""An encoder block on a matrix of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import tensorflow as tf

from keras_vit.layers import LayerScale, MultiHeadSelfAttention, PostNormBlock
from serving.fused.first_tokens import FirstTokensAttention
from serving.fused.layers import (
    Function,
    FusedAttention,
    FusedMLP,
    UnfusedAttention,
    fused_norm,
)

# A block's attentions and MLPs, with the layer scale and the norm that belong to each.
_BRANCHES = {
    "attention": ("scale1", "norm1"),
    "mlp": ("scale2", "norm2"),
    "attention2": ("scale3", "norm3"),
    "mlp2": ("scale4", "norm4"),
}


def block_norms(block: Any) -> list[Any]:
    """The norms that a block itself has.

    Args:
        block: an `EncoderBlock` or one of its kin.

    Returns:
        Its layers whose names begin with "norm".
    """
    layers = block._flatten_layers(include_self=False, recursive=False)
    return [layer for layer in layers if layer.name.startswith("norm")]


def divisible(block: Any) -> bool:
    """Whether a block can take its tokens in several streams.

    Args:
        block: an `EncoderBlock` or one of its kin.

    Returns:
        False where there is no fused form of its attention.

    Example:
        >>> from keras_vit.layers import EncoderBlock
        >>> [divisible(EncoderBlock(2, 32, attention=a)) for a in ("softmax", "differential")]
        [True, False]
    """
    attentions = [getattr(block, name, None) for name in ("attention", "attention2")]
    return all(type(a) is MultiHeadSelfAttention for a in attentions if a is not None)


class FusedBlock:
    """An encoder block on a matrix of tokens.

    Functions with the names of the block's layers go through the block's own `_transform`: what a
    block of this kind does is said there alone.

    Args:
        block: an `EncoderBlock` or one of its kin, built.
        seen: give only so many tokens, from the first. Default None: all.
        scale: factor that its tokens come with, and leave with. Default 1.
        streams: in how many parts its tokens come; more than one if it is `divisible`. Default 1.

    Example:
        >>> from keras_vit.layers import EncoderBlock
        >>> block = EncoderBlock(num_heads=2, mlp_dim=32)
        >>> block.build((None, 10, 8))
        >>> (tokens,), _ = FusedBlock(block, seen=1)([tf.zeros([1, 10, 8])])
        >>> tokens.shape
        TensorShape([1, 1, 8])
    """

    def __init__(
        self, block: Any, seen: int | None = None, scale: float = 1.0, streams: int = 1
    ) -> None:
        self._transform = type(block)._transform
        self._seen = seen
        self.functions: dict[str, Any] = {}
        self.attentions: dict[str, tuple[Any, str | None]] = {}  # with the norm before each
        for layer in block._flatten_layers(include_self=False, recursive=False):
            if layer.name not in _BRANCHES:  # layer scales are folded, drop path is for training
                self.functions[layer.name] = lambda x, training=None: x
        for layer in block_norms(block):
            self.functions[layer.name] = layer if scale == 1 else fused_norm(layer)
        for name, (scale_name, norm) in _BRANCHES.items():
            if not hasattr(block, name):
                continue
            # The parallel block has one scale, for the sum of both branches.
            factor = getattr(block, scale_name, getattr(block, "scale1", None))
            gamma = scale * (np.asarray(factor.gamma) if isinstance(factor, LayerScale) else 1.0)
            if name.startswith("mlp"):
                self.functions[name] = FusedMLP(getattr(block, name), gamma)
                continue
            before = None if isinstance(block, PostNormBlock) else norm
            attention = _fused_attention(getattr(block, name), gamma, seen, streams)
            self.attentions[name] = attention, before

    def __call__(
        self,
        streams: Sequence[tf.Tensor],
        with_maps: bool = False,
        log_sizes: tf.Tensor | None = None,
    ) -> tuple[list[tf.Tensor], Any]:
        """Apply the block.

        Args:
            streams: tokens [B, n, D], in as many parts as shall be computed side by side.
            with_maps: whether attention maps are wanted. Default False.
            log_sizes: of `Merged`, where tokens have been merged, [B, N]. Default None.

        Returns:
            The streams after the block, or the first one's [B, seen, D] alone; and the maps
            [B, heads, N, N], or [B, heads, seen, N], or None.
        """
        batch, width = tf.shape(streams[0])[0], streams[0].shape[-1]
        lengths = [x.shape[1] for x in streams]
        length = None if None in lengths else sum(lengths)
        every = [tf.reshape(x, [-1, width]) for x in streams]  # [B * n, D]
        asking = every
        if self._seen is not None:
            asking, lengths = [tf.reshape(streams[0][:, : self._seen], [-1, width])], [self._seen]

        # What each stream's transform finds in the place of a norm and of the attention after it.
        known: list[dict[str, tf.Tensor]] = [{} for _ in asking]
        maps = []
        for name, (attention, norm) in self.attentions.items():
            before = self.functions[norm] if norm else tf.identity
            asked = [before(x) for x in every]
            queries = asked if self._seen is None else [before(x) for x in asking]
            answers, weights = attention(queries, asked, batch, length, with_maps, log_sizes)
            maps.append(weights)
            for mine, query, answer in zip(known, queries, answers, strict=True):
                mine[name] = answer
                if norm:
                    mine[norm] = query
        outputs = []
        for x, mine, own_length in zip(asking, known, lengths, strict=True):
            functions = self.functions | {name: _constantly(y) for name, y in mine.items()}
            y = self._transform(SimpleNamespace(**functions), x, False, None)
            outputs.append(tf.reshape(y, [batch, own_length or -1, width]))
        return outputs, tf.concat(maps, axis=1) if with_maps else None


def _fused_attention(layer: Any, gamma: Any, seen: int | None, streams: int) -> Any:
    """The form for the tokens that are wanted."""
    if type(layer) is not MultiHeadSelfAttention:
        return UnfusedAttention(layer, gamma, seen is not None)
    if layer.can_skip_keys(seen):
        return FirstTokensAttention(layer, gamma)
    return FusedAttention(layer, gamma, split=seen is not None or streams > 1)


def _constantly(value: tf.Tensor) -> Function:
    """A layer that gives what is known already."""
    return lambda *_, **__: value
