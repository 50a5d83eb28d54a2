"""Which part of an image training sees: random crops and shifts."""

from __future__ import annotations

import tensorflow as tf

from keras_vit import Preprocessing
from keras_vit.decoding import decode_image

RATIO = (3 / 4, 4 / 3)  # of width to height, as in "Going Deeper with Convolutions"


def decode_inception_crop(
    image_bytes: tf.Tensor,
    seed: tf.Tensor,
    area: tuple[float, float],
    max_pixels: int,
    ratio: tuple[float, float] = RATIO,
) -> tf.Tensor:
    """Decode a random box of an image; of a JPEG nothing else is decoded.

    Args:
        image_bytes: string scalar, an encoded image.
        seed: int64 [2].
        area: as in `inception_crop`, which draws the same box.
        max_pixels: limit on the pixels of the whole image, read from the header.
        ratio: as in `inception_crop`. Default 3/4 to 4/3.

    Returns:
        uint8 [h', w', 3]. The edges of a JPEG's box may differ by a few grey levels from those of
        `inception_crop`: colour is interpolated inside the box alone.

    Raises:
        tf.errors.InvalidArgumentError: if the bytes are not an image, or one with too many pixels.

    Example:
        >>> image_bytes = tf.io.encode_jpeg(tf.zeros([9, 9, 3], tf.uint8))
        >>> seed = tf.constant([0, 1], tf.int64)
        >>> decode_inception_crop(image_bytes, seed, (0.5, 1.0), max_pixels=100).shape[-1]
        3
    """

    def jpeg() -> tf.Tensor:
        shape = tf.io.extract_jpeg_shape(image_bytes)
        announced = tf.cast(shape[0], tf.int64) * tf.cast(shape[1], tf.int64)
        guard = tf.debugging.Assert(
            announced <= max_pixels,
            [f"the image header announces more than max_pixels={max_pixels} pixels:", shape],
        )
        with tf.control_dependencies([] if guard is None else [guard]):
            begin, size = _inception_box(shape, seed, area, ratio)
        window = tf.concat([begin[:2], size[:2]], axis=0)
        return tf.io.decode_and_crop_jpeg(
            image_bytes, window, channels=3, dct_method="INTEGER_ACCURATE"
        )

    def other() -> tf.Tensor:
        return inception_crop(decode_image(image_bytes, max_pixels), seed, area, ratio)

    is_jpeg = tf.equal(tf.strings.substr(image_bytes, 0, 3), b"\xff\xd8\xff")
    return tf.ensure_shape(tf.cond(is_jpeg, jpeg, other), (None, None, 3))


def inception_crop(
    pixels: tf.Tensor,
    seed: tf.Tensor,
    area: tuple[float, float],
    ratio: tuple[float, float] = RATIO,
) -> tf.Tensor:
    """A random box of the image, as in "Going Deeper with Convolutions" (Szegedy et al., 2015).

    Args:
        pixels: uint8 [h, w, 3].
        seed: int64 [2].
        area: smallest and largest share of the image's area.
        ratio: smallest and largest ratio of width to height. Default 3/4 to 4/3.

    Returns:
        uint8 [h', w', 3], at least one pixel.

    Example:
        >>> seed = tf.constant([0, 1], tf.int64)
        >>> inception_crop(tf.zeros([9, 9, 3], tf.uint8), seed, (1.0, 1.0)).shape[-1]
        3
    """
    begin, size = _inception_box(tf.shape(pixels), seed, area, ratio)
    return tf.ensure_shape(tf.slice(pixels, begin, size), (None, None, 3))


def _inception_box(
    shape: tf.Tensor, seed: tf.Tensor, area: tuple[float, float], ratio: tuple[float, float]
) -> tuple[tf.Tensor, tf.Tensor]:
    """A random box in an image of a shape: int32 [3] -> begin and size for `tf.slice`."""
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        tf.zeros([1, 0, 4]),
        seed,
        aspect_ratio_range=ratio,
        area_range=area,
        min_object_covered=0.0,  # else no crop covers less than a tenth
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    return begin, size


def resize_small_crop(
    pixels: tf.Tensor, seed: tf.Tensor, preprocessing: Preprocessing, resize_size: int | None = None
) -> tf.Tensor:
    """Resize the smaller side and crop the input's size at random, as big_vision fine-tunes.

    Args:
        pixels: uint8 [h, w, 3].
        seed: int64 [2].
        preprocessing: its size, its kernel and its antialiasing are kept.
        resize_size: of the smaller side; the image covers a multiple of the input's size if that
            is no square. Default None: 8/7 of the input's smaller side.

    Returns:
        float32 [H, W, 3] in 0 ... 255.

    Raises:
        ValueError: if `resize_size` is less than the smaller side of the input.

    Example:
        >>> seed = tf.constant([0, 1], tf.int64)
        >>> resize_small_crop(tf.zeros([20, 30, 3], tf.uint8), seed, Preprocessing(14)).shape
        TensorShape([14, 14, 3])
    """
    height, width = _resized_sides(preprocessing, resize_size)
    shape = tf.cast(tf.shape(pixels)[:2], tf.float32)
    factor = tf.reduce_max(tf.constant([height, width], tf.float32) / shape)
    sides = tf.cast(tf.round(shape * factor), tf.int32)
    return _random_part(pixels, sides, seed, preprocessing)


def resize_squash_crop(
    pixels: tf.Tensor, seed: tf.Tensor, preprocessing: Preprocessing, resize_size: int | None = None
) -> tf.Tensor:
    """Resize both sides and crop the input's size at random, as vision_transformer fine-tunes.

    Args:
        pixels: uint8 [h, w, 3].
        seed: int64 [2].
        preprocessing: its size, its kernel and its antialiasing are kept.
        resize_size: of the smaller side; the other has the input's aspect ratio. Default None: 8/7
            of the input's smaller side.

    Returns:
        float32 [H, W, 3] in 0 ... 255.

    Raises:
        ValueError: if `resize_size` is less than the smaller side of the input.

    Example:
        >>> seed = tf.constant([0, 1], tf.int64)
        >>> resize_squash_crop(tf.zeros([20, 30, 3], tf.uint8), seed, Preprocessing(14)).shape
        TensorShape([14, 14, 3])
    """
    sides = tf.constant(_resized_sides(preprocessing, resize_size))
    return _random_part(pixels, sides, seed, preprocessing)


def simple_random_crop(
    pixels: tf.Tensor, seed: tf.Tensor, preprocessing: Preprocessing
) -> tf.Tensor:
    """DeiT III's simple random crop: the smaller side has the input's size, 4 pixels of play.

    Args:
        pixels: uint8 [h, w, 3].
        seed: int64 [2].
        preprocessing: its size, its kernel and its antialiasing are kept.

    Returns:
        float32 [H, W, 3] in 0 ... 255, out of the resized image reflected by 4 pixels around it.

    Raises:
        ValueError: if the input is smaller than 5 pixels: nothing to reflect.

    Example:
        >>> seed = tf.constant([0, 1], tf.int64)
        >>> simple_random_crop(tf.zeros([20, 30, 3], tf.uint8), seed, Preprocessing(14)).shape
        TensorShape([14, 14, 3])
    """
    play = 4
    height, width, _ = preprocessing.output_shape
    if min(height, width) <= play:
        raise ValueError(
            f'augmentation.crop="simple_random" reflects {play} pixels: the image size must be '
            f"{play + 1} or more, not {height} x {width}."
        )
    sides = tf.shape(pixels)[:2]
    by_height = tf.stack([height, height * sides[1] // sides[0]])  # whole numbers, as torchvision
    by_width = tf.stack([width * sides[0] // sides[1], width])
    cover = tf.where(height * sides[1] >= width * sides[0], by_height, by_width)
    offset = _random_offset(cover + 2 * play, seed, preprocessing) - play
    # What is reflected lies in the part beside the edge.
    begin = tf.clip_by_value(offset, 0, cover - [height, width])
    part = preprocessing.resize_part(pixels[None], cover, begin)[0]
    for axis, side in enumerate((height, width)):
        places = tf.abs(offset[axis] + tf.range(side))
        last = cover[axis] - 1
        places = last - tf.abs(last - places)
        part = tf.gather(part, places - begin[axis], axis=axis)
    return tf.ensure_shape(part, preprocessing.output_shape)


def _resized_sides(preprocessing: Preprocessing, resize_size: int | None) -> tuple[int, int]:
    """Height and width that the resized image covers."""
    height, width, _ = preprocessing.output_shape
    smaller = min(height, width)
    size = round(smaller * 448 / 384) if resize_size is None else resize_size
    if size < smaller:
        raise ValueError(
            f"augmentation.resize_size must be at least the {smaller} pixels of the input that is "
            f"cropped from it, not {size}."
        )
    return round(height * size / smaller), round(width * size / smaller)


def _random_part(
    pixels: tf.Tensor, sides: tf.Tensor, seed: tf.Tensor, preprocessing: Preprocessing
) -> tf.Tensor:
    """Resize with the kernel of the evaluation, and crop the input's size at random.

    Only what is kept is computed: a panorama of 10 x 10,000 pixels would be gigabytes else.
    """
    offset = _random_offset(sides, seed, preprocessing)
    part = preprocessing.resize_part(pixels[None], sides, offset)[0]
    return tf.ensure_shape(part, preprocessing.output_shape)


def _random_offset(sides: tf.Tensor, seed: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """Where a crop of the input's size begins in an image of some sides: int32 [2]."""
    room = sides - preprocessing.output_shape[:2] + 1
    draws = tf.random.stateless_uniform([2], seed, maxval=tf.int32.max, dtype=tf.int32)
    return draws % room


def shift(pixels: tf.Tensor, seed: tf.Tensor, most: int) -> tf.Tensor:
    """Move an image by up to `most` pixels each way; the edge is repeated.

    Args:
        pixels: [H, W, 3], any number type.
        seed: int64 [2].
        most: at least 0.

    Returns:
        [H, W, 3] of the same type.

    Example:
        >>> seed = tf.constant([0, 1], tf.int64)
        >>> bool(tf.reduce_all(shift(tf.ones([8, 8, 3]), seed, 2) == 1))
        True
    """
    height, width = pixels.shape[:2]
    offset = tf.random.stateless_uniform([2], seed, -most, most + 1, tf.int32)
    rows = tf.clip_by_value(tf.range(height) + offset[0], 0, height - 1)
    columns = tf.clip_by_value(tf.range(width) + offset[1], 0, width - 1)
    return tf.gather(tf.gather(pixels, rows, axis=0), columns, axis=1)
