"""Why bytes are no image, in words."""

from __future__ import annotations

import tensorflow as tf

from keras_vit import Preprocessing
from keras_vit.decoding import decode_image

# What an operation's message holds, and what it means.
_REASONS = {
    "not a JPEG, PNG, GIF or BMP image": "it is not a JPEG, PNG, GIF or BMP image",
    "cut short": "its header is cut short",
    "max_pixels": "its header announces too many pixels",
}


def undecodable_reason(image_bytes: bytes) -> str:
    """One line that a person understands.

    Args:
        image_bytes: what should be a JPEG, PNG, GIF or BMP.

    Returns:
        The reason why it cannot be decoded; empty if it can.

    Example:
        >>> undecodable_reason(b"GIF8")
        'its header is cut short'
    """
    if not image_bytes:
        return "it is empty"
    try:
        # Without a tf.function: called from inside a pipeline, it would wait for a thread of the
        # pool that the pipeline itself may have filled.
        with tf.device("CPU:0"):
            pixels = decode_image(tf.constant(image_bytes), Preprocessing().max_pixels)
    except tf.errors.InvalidArgumentError as error:
        for part, meaning in _REASONS.items():
            if part in str(error.message):
                return meaning
        return "it is damaged or cut short"
    return "" if tf.size(pixels) else "it has no pixels"
