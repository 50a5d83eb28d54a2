"""Token merging: similar patches go on as one token, and each block has fewer of them to compute.

"Token Merging: Your ViT But Faster" (Bolya et al., ICLR 2023). It needs no training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from serving.fused.block import FusedBlock
from serving.fused.streams import side_by_side, stream_lengths

SCHEDULES = ("constant", "decreasing")


@dataclasses.dataclass(frozen=True)
class TokenMerging:
    """How many tokens the blocks of a model merge.

    Args:
        count: how many tokens less a block leaves, in the mean over the blocks; above 0.
        schedule: "constant", or "decreasing": from twice as many in the first block, in equal
            steps, to none in the last. That is faster, and changes answers more. Default
            "constant".

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> TokenMerging(8, "decreasing").counts(5)
        (16, 12, 8, 4, 0)
    """

    count: int
    schedule: str = "constant"

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.count < 1:
            raise ValueError(
                f"Blocks must merge at least 1 token, not {self.count}: give 8, say, or leave "
                f"token merging out."
            )
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {SCHEDULES}, not {self.schedule!r}.")

    def counts(self, depth: int) -> tuple[int, ...]:
        """For each block, as the authors' `parse_r`.

        Args:
            depth: number of blocks.

        Returns:
            As many numbers.
        """
        if self.schedule == "constant" or depth == 1:
            return (self.count,) * depth
        step = 2 * self.count / (depth - 1)
        return tuple(int(2 * self.count - step * index) for index in range(depth))


class Merged(NamedTuple):
    """What the tokens of a batch stand for.

    Args:
        sizes: how many patches each token is the mean of, float [B, N].
        places: at which token each of the original tokens is, int32 [B, N at the start].
        fewer: how many tokens less there are than at the start.
    """

    sizes: tf.Tensor
    places: tf.Tensor
    fewer: int = 0

    @property
    def log_sizes(self) -> tf.Tensor | None:
        """What is added to the attention logits of keys: a token of two patches counts twice."""
        return tf.math.log(self.sizes) if self.fewer else None


def unmerged(x: tf.Tensor) -> Merged:
    """Every token for itself.

    Args:
        x: tokens [B, N, D].

    Returns:
        The `Merged` to start with.

    Example:
        >>> unmerged(tf.zeros([1, 3, 8])).places.numpy().tolist()
        [[0, 1, 2]]
    """
    batch, length = tf.shape(x)[0], x.shape[1]
    places = tf.tile(tf.range(length)[None], [batch, 1])
    return Merged(tf.ones([batch, length], x.dtype), places)


def spread(x: tf.Tensor, merged: Merged) -> tf.Tensor:
    """Give every original token what the one gives that it was merged into.

    Args:
        x: tokens [B, n, D].
        merged: what they stand for.

    Returns:
        [B, N, D], of which a mean is one over all patches, as it is without merging.
    """
    return tf.gather(x, merged.places, batch_dims=1)


def merge(
    x: tf.Tensor,
    metric: tf.Tensor,
    merged: Merged,
    num_prefix_tokens: int,
    count: int,
    streams: int = 1,
) -> tuple[list[tf.Tensor], Merged]:
    """Merge the most similar pairs of patches: bipartite soft matching, section 3 of the paper.

    Every second patch looks for the most similar of the others; the pairs that agree most become
    one token each, the mean of what they stand for. Prefix tokens (class, registers) stay.

    Args:
        x: tokens [B, N, D].
        metric: what similarity is measured by, [B, N, C].
        merged: what the tokens stand for.
        num_prefix_tokens: that come before the patches.
        count: how many tokens less there shall be; at most half of the patches go.
        streams: in how many parts they shall come, each computed by itself. Default 1.

    Returns:
        Parts [B, n, D] of the N - count tokens, prefix tokens first, and what they stand for.

    Example:
        >>> x = tf.reshape(tf.constant([0.0, 1.0, 1.0, 9.0]), [1, 4, 1])
        >>> angles = tf.stack([tf.cos(x[..., 0]), tf.sin(x[..., 0])], -1)
        >>> (joined,), _ = merge(x, angles, unmerged(x), 0, 1)
        >>> joined[0, :, 0].numpy().tolist()
        [9.0, 0.0, 1.0]
    """
    first = num_prefix_tokens
    patches = x.shape[1] - first
    seekers = patches // 2
    count = min(count, seekers)
    if not count:
        return side_by_side(x, streams), merged
    # Gathering copies whole rows; a slice with steps goes through them number by number.
    old_seekers = np.arange(first + 1, first + patches, 2)
    old_partners = np.arange(first, first + patches, 2)
    metric = tf.math.l2_normalize(tf.cast(metric, tf.float32), axis=-1)
    seeking, partner = (tf.gather(metric, i, axis=1) for i in (old_seekers, old_partners))
    likeness = tf.matmul(seeking, partner, transpose_b=True)  # [B, seekers, others]
    choice = tf.argmax(likeness, axis=-1, output_type=tf.int32)  # [B, seekers]
    leaving = tf.math.top_k(tf.reduce_max(likeness, axis=-1), count).indices  # [B, count]
    stays = 1 - tf.reduce_sum(tf.one_hot(leaving, seekers, dtype=tf.int32), 1)  # [B, seekers]

    # The new order: prefix tokens, seekers that stay, in their order, then partners.
    staying = seekers - count
    batch = tf.shape(x)[0]

    def of_all(numbers: np.ndarray) -> tf.Tensor:
        return tf.tile(tf.constant(numbers, tf.int32)[None], [batch, 1])

    among_staying = tf.math.top_k(stays, staying).indices  # of equals, the first come first
    kept = [of_all(np.arange(first)), first + 2 * among_staying + 1, of_all(old_partners)]
    kept = tf.concat(kept, axis=1)  # [B, N - count]: where each was
    gone = first + 2 * leaving + 1  # [B, count]
    chosen = tf.gather(choice, leaving, batch_dims=1)
    old_place, place = first + 2 * chosen, first + staying + chosen  # [B, count], of the chosen

    sizes = tf.gather(merged.sizes, kept, batch_dims=1)  # [B, N - count]
    coming = tf.gather(merged.sizes, gone, batch_dims=1)
    sizes = _add_at(sizes, place, coming)
    # A mean moves towards what joins it by its share: only the chosen tokens change.
    share = coming / tf.gather(sizes, place, batch_dims=1)
    difference = tf.gather(x, gone, batch_dims=1) - tf.gather(x, old_place, batch_dims=1)
    difference *= share[..., None]  # [B, count, D]
    parts, start = [], 0
    for length in stream_lengths(x.shape[1] - count, streams):
        part = tf.gather(x, kept[:, start : start + length], batch_dims=1)
        here = (place >= start) & (place < start + length)
        some = tf.where(here[..., None], difference, tf.zeros_like(difference))
        parts.append(_add_at(part, tf.clip_by_value(place - start, 0, length - 1), some))
        start += length

    before = tf.concat([kept, gone], axis=1)  # [B, N], each of them once
    after = tf.concat([of_all(np.arange(x.shape[1] - count)), place], axis=1)
    moved = _add_at(tf.zeros_like(before), before, after)
    places = tf.gather(moved, merged.places, batch_dims=1)
    return parts, Merged(sizes, places, merged.fewer + count)


def _add_at(x: tf.Tensor, places: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Tokens [B, N, ...] with values [B, n, ...] added at places [B, n], which may be the same."""
    rows = tf.broadcast_to(tf.range(tf.shape(x)[0])[:, None], tf.shape(places))
    return tf.tensor_scatter_nd_add(x, tf.stack([rows, places], axis=-1), values)


def merging_block(
    block: FusedBlock,
    streams: Sequence[tf.Tensor],
    merged: Merged,
    num_prefix_tokens: int,
    count: int,
) -> tuple[list[tf.Tensor], Merged]:
    """Apply an `EncoderBlock` that merges between its attention and its MLP.

    Similarity is that of the keys, in the mean over the heads (Table 1 of the paper).

    Args:
        block: of an `EncoderBlock`, with one `FusedAttention`.
        streams: parts of the tokens, [B, n, D].
        merged: what they stand for.
        num_prefix_tokens: that come before the patches.
        count: how many tokens less there shall be.

    Returns:
        As many parts of the N - count tokens, and what they stand for.
    """
    batch, width = tf.shape(streams[0])[0], streams[0].shape[-1]
    length = sum(x.shape[1] for x in streams)
    attention, _ = block.attentions["attention"]
    norm1, norm2, mlp = (block.functions[name] for name in ("norm1", "norm2", "mlp"))
    rows = [tf.reshape(x, [-1, width]) for x in streams]  # [B * n, D]
    normed = [norm1(x) for x in rows]
    queries, k, v = attention.heads(normed, normed, batch)
    attended = []
    for x, q, stream in zip(rows, queries, streams, strict=True):
        y = x + attention.attend(q, k, v, length, log_sizes=merged.log_sizes)[0]
        attended.append(tf.reshape(y, [batch, stream.shape[1], width]))
    x = tf.concat(attended, axis=1)  # [B, N, D]
    metric = tf.reduce_mean(k, axis=1)
    parts, merged = merge(x, metric, merged, num_prefix_tokens, count, len(streams))
    outputs = []
    for part in parts:
        x = tf.reshape(part, [-1, width])
        x = x + mlp(norm2(x))
        outputs.append(tf.reshape(x, [batch, part.shape[1], width]))
    return outputs, merged
