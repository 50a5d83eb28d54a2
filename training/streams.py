"""Parts of a batch that are computed at the same time.

A kernel on two threads waits for both. Two halves of a batch, each computed by one thread, need not
wait for each other before the end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


def streams_of_batch(dtype: str) -> int:
    """In how many parts a replica's share of a batch is best computed at the same time.

    Args:
        dtype: that the blocks compute in.

    Returns:
        2 in float32 where one replica has two cores and no accelerator. Elsewhere, where it has not
        been measured, 1.

    Example:
        >>> streams_of_batch("bfloat16")
        1
    """
    alone = tf.distribute.get_strategy().num_replicas_in_sync == 1
    accelerated = any(map(tf.config.list_physical_devices, ("GPU", "TPU")))
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    cores = len(affinity(0)) if affinity else os.cpu_count()
    return 2 if dtype == "float32" and alone and not accelerated and cores == 2 else 1


def give_each_stream_a_thread(streams: int) -> None:
    """Compute every operation of this process by one thread, and as many as streams together.

    Args:
        streams: as of `streams_of_batch`; nothing happens unless there are several.

    Example:
        >>> give_each_stream_a_thread(1)
    """
    if streams == 1:
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(streams)
    except RuntimeError:
        return  # TensorFlow has started: its threads stay as they are, which is a little slower


def split_batch(tensors: Sequence[tf.Tensor], streams: int) -> list[tuple[tf.Tensor, ...]]:
    """Cut a batch into parts.

    Args:
        tensors: [B, ...] each.
        streams: number of parts.

    Returns:
        For each part its share of every tensor; all in one where B is not known, or too small.

    Example:
        >>> [part.shape[0] for (part,) in split_batch([tf.zeros([5, 2])], 2)]
        [2, 3]
    """
    size = tensors[0].shape[0]
    if streams == 1 or size is None or size < streams:
        return [tuple(tensors)]
    lengths = [(size + index) // streams for index in range(streams)]
    return list(zip(*(tf.split(tensor, lengths) for tensor in tensors), strict=True))


def in_streams(function: Callable[[tf.Tensor], Any], images: tf.Tensor, streams: int) -> Any:
    """A function of each image, computed for parts of a batch at the same time.

    Args:
        function: of images [b, ...]; gives one or several tensors [b, ...].
        images: [B, ...].
        streams: number of parts.

    Returns:
        What it gives, [B, ...].

    Example:
        >>> in_streams(lambda x: x + 1.0, tf.zeros([3]), 2).numpy().tolist()
        [1.0, 1.0, 1.0]
    """
    parts = [function(part) for (part,) in split_batch([images], streams)]
    if len(parts) == 1:
        return parts[0]
    return tf.nest.map_structure(lambda *outputs: tf.concat(outputs, axis=0), *parts)
