"""Decoding images inside a TensorFlow graph, guarded by what their header says."""

from __future__ import annotations

import functools
from collections.abc import Callable

import tensorflow as tf


def decode_image(
    image_bytes: tf.Tensor, max_pixels: int, recover_truncated: bool = False
) -> tf.Tensor:
    """Decode one JPEG, PNG, GIF (first frame) or BMP to RGB, after a look at its header.

    Args:
        image_bytes: string scalar.
        max_pixels: limit on height x width, read from the header before anything is decoded.
        recover_truncated: whether a JPEG that is cut short is decoded as far as it goes, the rest
            grey. Default False.

    Returns:
        uint8 [h, w, 3].

    Raises:
        tf.errors.InvalidArgumentError: if the format is unknown, the file is damaged, or the
            header announces more than `max_pixels` pixels.

    Example:
        >>> decode_image(tf.io.encode_png(tf.zeros([4, 6, 3], tf.uint8)), max_pixels=100).shape
        TensorShape([4, 6, 3])
    """
    if tf.executing_eagerly():
        return _decode(image_bytes, max_pixels, recover_truncated)
    return _traced(max_pixels, recover_truncated)(tf.ensure_shape(image_bytes, ()))


@functools.cache
def _traced(max_pixels: int, recover_truncated: bool) -> Callable[[tf.Tensor], tf.Tensor]:
    """The decoder as one function of the graph: tracing it takes half a second, each time."""

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
    def decode_image(image_bytes: tf.Tensor) -> tf.Tensor:
        return _decode(image_bytes, max_pixels, recover_truncated)

    with tf.init_scope():  # or it would keep the graph of its first caller
        return decode_image.get_concrete_function()


def _decode(image_bytes: tf.Tensor, max_pixels: int, recover_truncated: bool) -> tf.Tensor:
    tf.ensure_shape(image_bytes, ())

    def starts_with(magic: bytes) -> tf.Tensor:
        return tf.equal(tf.strings.substr(image_bytes, 0, len(magic)), magic)

    def within_limit(height: tf.Tensor, width: tf.Tensor) -> list[tf.Operation]:
        return check_size(height, width, max_pixels)

    def jpeg() -> tf.Tensor:
        height, width, _ = tf.unstack(tf.io.extract_jpeg_shape(image_bytes), num=3)
        with tf.control_dependencies(within_limit(height, width)):
            # The accurate transform is the one that PIL uses.
            return tf.io.decode_jpeg(
                image_bytes,
                channels=3,
                dct_method="INTEGER_ACCURATE",
                try_recover_truncated=recover_truncated,
            )

    def png() -> tf.Tensor:
        width, height = _header_ints(image_bytes, offset=16, width=4, big_endian=True)
        with tf.control_dependencies(within_limit(height, width)):
            return tf.io.decode_png(image_bytes, channels=3)

    def gif() -> tf.Tensor:
        width, height = _header_ints(image_bytes, offset=6, width=2, big_endian=False)
        frame, (frame_height, frame_width) = _first_gif_frame(image_bytes)
        limits = within_limit(height, width) + within_limit(frame_height, frame_width)
        with tf.control_dependencies(limits):
            return tf.io.decode_image(frame, channels=3, expand_animations=False)

    def bmp() -> tf.Tensor:
        width, height = _header_ints(image_bytes, offset=18, width=4, big_endian=False)
        # The height is negative in a file that is stored top-down: two's complement.
        height = tf.where(height < 2**31, height, height - 2**32)
        with tf.control_dependencies(within_limit(height, width)):
            pixels = tf.io.decode_bmp(image_bytes, channels=0)  # [h, w, 1 or 3 or 4]
        has_palette = tf.equal(tf.shape(pixels)[-1], 1)
        return tf.cond(
            has_palette,
            lambda: tf.gather(_bmp_palette(image_bytes), tf.cast(pixels[..., 0], tf.int32)),
            lambda: pixels[..., :3],
        )

    def unknown() -> tf.Tensor:
        with tf.control_dependencies(_require(False, "not a JPEG, PNG, GIF or BMP image")):
            return tf.zeros([0, 0, 3], tf.uint8)

    formats: list[tuple[bytes, Callable[[], tf.Tensor]]] = [
        (b"\xff\xd8\xff", jpeg),
        (b"\x89PNG\r\n\x1a\n", png),
        (b"GIF8", gif),
        (b"BM", bmp),
    ]
    found = tf.stack([*(starts_with(magic) for magic, _ in formats), True])
    # Not `tf.case`: its branches stand one inside the other, and take twice as long to prepare.
    first = tf.argmax(tf.cast(found, tf.int32), output_type=tf.int32)
    pixels = tf.switch_case(first, [*(decode for _, decode in formats), unknown])
    return tf.ensure_shape(pixels, (None, None, 3))


def check_size(height: tf.Tensor, width: tf.Tensor, max_pixels: int) -> list[tf.Operation]:
    """Refuse an image that is too large to decode or to resize.

    Args:
        height: int scalar; negative in a BMP that is stored top-down.
        width: int scalar.
        max_pixels: limit on height x width; either side may have 65,535, as in a JPEG.

    Returns:
        Operations that fail with an InvalidArgumentError, to depend on.

    Example:
        >>> check_size(tf.constant(3), tf.constant(4), max_pixels=12)
        []
    """
    height, width = (tf.abs(tf.cast(side, tf.int64)) for side in (height, width))
    message = f"the image has more than max_pixels={max_pixels} pixels, or a side above 65535:"
    fits = (height * width <= max_pixels) & (tf.maximum(height, width) <= 65535)
    return _require(fits, message, height, width)


def _require(condition: tf.Tensor | bool, *data: tf.Tensor | str) -> list[tf.Operation]:
    """Operations that fail unless the condition holds; none where it was checked at once.

    `tf.debugging.Assert` would put its one operation into two functions and a choice between them.
    """
    check = tf.raw_ops.Assert(condition=condition, data=data)
    return [] if check is None else [check]


def _first_gif_frame(image_bytes: tf.Tensor) -> tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor]]:
    """A GIF cut off after its first frame, and that frame's height and width.

    The decoder would unpack every frame, and a frame of 4 GB fits into a file of 2 MB. An offset
    behind the end of a damaged file is an error of the slice that uses it.
    """
    data = tf.io.decode_raw(image_bytes, tf.uint8)

    def byte(position: tf.Tensor | int) -> tf.Tensor:
        return tf.cast(data[position], tf.int32)

    def colours(flags: tf.Tensor) -> tf.Tensor:
        """Bytes of the table of colours that the flags announce."""
        size = 3 * tf.bitwise.left_shift(2, tf.bitwise.bitwise_and(flags, 7))
        return tf.where(flags >= 128, size, 0)

    # Comments, delays, loops come before the frame.
    position = _after_gif_blocks(data, 13 + colours(byte(10)), _BEFORE_BLOCK)
    with tf.control_dependencies(_require(byte(position) == 0x2C, "the GIF has no frame")):
        width = byte(position + 5) + 256 * byte(position + 6)
    height = byte(position + 7) + 256 * byte(position + 8)
    pixels = position + 11 + colours(byte(position + 9))
    end = _after_gif_blocks(data, pixels, _IN_BLOCK)
    return tf.strings.substr(image_bytes, 0, end) + b"\x3b", (height, width)


_BEFORE_BLOCK, _IN_BLOCK = 0, 1  # what the next byte of a GIF is: a block's kind, or a length
_GIF_WINDOW = 16384  # bytes


def _after_gif_blocks(data: tf.Tensor, position: tf.Tensor, state: int) -> tf.Tensor:
    """The position after a chain of blocks, each led by its length; a length of 0 ends it.

    Step by step a file of a million tiny blocks would take minutes. So all steps of a window of
    the file are taken at once: with where one step leads from each of its bytes, two, four, eight
    follow by looking that up in itself.

    Args:
        data: the file, uint8 [size].
        position: where the chain begins.
        state: `_BEFORE_BLOCK` to pass over all extensions from here on, `_IN_BLOCK` to pass over
            the one chain whose first length is here.
    """
    through_extensions = state == _BEFORE_BLOCK

    def places(positions: tf.Tensor, states: int) -> tf.Tensor:
        return 2 * positions + states

    def pass_window(
        position: tf.Tensor, state: tf.Tensor, _: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        window = tf.cast(data[position : position + _GIF_WINDOW], tf.int32)  # [W]
        size = tf.size(window)
        here = tf.range(size)
        stay = places(here, _BEFORE_BLOCK)
        is_extension = tf.equal(window, 0x21) & through_extensions
        before = tf.where(is_extension, places(here + 2, _IN_BLOCK), stay)
        ends = tf.equal(window, 0)
        inside = tf.where(
            ends, places(here + 1, _BEFORE_BLOCK), places(here + 1 + window, _IN_BLOCK)
        )
        steps = tf.reshape(tf.stack([before, inside], axis=1), [-1])  # [2 W]
        # Behind the window no step is taken; the longest leads 256 bytes on.
        steps = tf.concat([steps, tf.range(2 * size, 2 * (size + 256))], axis=0)
        (steps,) = tf.while_loop(
            lambda steps: tf.not_equal(steps[steps[state]], steps[state]),
            lambda steps: (tf.gather(steps, steps),),
            (steps,),
        )
        place = steps[state]
        return position + place // 2, place % 2, place // 2 < size

    position, _, _ = tf.while_loop(
        lambda position, state, found: ~found & (position < tf.size(data)),
        pass_window,
        (position, tf.constant(state), tf.constant(False)),
    )
    return position


def _header_ints(
    image_bytes: tf.Tensor, offset: int, width: int, big_endian: bool
) -> tuple[tf.Tensor, tf.Tensor]:
    """Two unsigned integers of `width` bytes each, int64, as a header holds them at `offset`."""
    # Said by us: the operation's own message would quote the bytes, which need not be text.
    complete = tf.strings.length(image_bytes) >= offset + 2 * width
    with tf.control_dependencies(_require(complete, "the image header is cut short")):
        raw = tf.io.decode_raw(tf.strings.substr(image_bytes, offset, 2 * width), tf.uint8)
    digits = tf.reshape(tf.cast(raw, tf.int64), [2, width])
    powers = [256**i for i in range(width)]
    weights = tf.constant(powers[::-1] if big_endian else powers, tf.int64)
    first, second = tf.unstack(tf.reduce_sum(digits * weights, axis=1))
    return first, second


def _bmp_palette(image_bytes: tf.Tensor) -> tf.Tensor:
    """The colours of an 8-bit BMP, uint8 [256, 3]; unused entries are black."""
    pixel_offset, header_size = _header_ints(image_bytes, 10, width=4, big_endian=False)
    start = 14 + header_size
    length = tf.clip_by_value(pixel_offset - start, 0, 1024) // 4 * 4
    raw = tf.io.decode_raw(tf.strings.substr(image_bytes, start, length), tf.uint8)
    colours = tf.reshape(raw, [-1, 4])[:, 2::-1]  # stored as blue, green, red, unused
    return tf.pad(colours, [[0, 256 - tf.shape(colours)[0]], [0, 0]])
