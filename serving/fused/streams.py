"""Tokens in parts that are computed at the same time.

A kernel on two threads waits for both, and a ViT has a hundred and thirty kernels, which are short
when there is one image. Two halves of the tokens, each computed by one thread, wait for each other
only where keys and values of all tokens are needed: once in a block.
"""

from __future__ import annotations

import tensorflow as tf


def stream_lengths(length: int, streams: int) -> list[int]:
    """How many tokens each part has.

    Args:
        length: number of tokens, N.
        streams: number of parts, at least 1.

    Returns:
        Numbers above 0 that differ by one at most; fewer than `streams` if there are fewer tokens.

    Example:
        >>> stream_lengths(197, 2)
        [99, 98]
    """
    streams = min(streams, length)
    least, larger = divmod(length, streams)
    return [least + (index < larger) for index in range(streams)]


def side_by_side(x: tf.Tensor, streams: int) -> list[tf.Tensor]:
    """Cut tokens into parts.

    Args:
        x: tokens [B, N, D].
        streams: number of parts, at least 1.

    Returns:
        Tensors [B, n, D], or `x` alone where N is not known.

    Example:
        >>> [part.shape[1] for part in side_by_side(tf.zeros([1, 197, 8]), 2)]
        [99, 98]
    """
    if x.shape[1] is None or streams == 1:
        return [x]
    return tf.split(x, stream_lengths(x.shape[1], streams), axis=1)
