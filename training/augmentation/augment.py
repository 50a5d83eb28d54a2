"""From encoded bytes to an augmented input of the model."""

from __future__ import annotations

import tensorflow as tf

from keras_vit import Preprocessing
from keras_vit.decoding import decode_image
from training.augmentation.config import Augmentation
from training.augmentation.randaugment import rand_augment


def augment_image(
    image_bytes: tf.Tensor,
    seed: tf.Tensor,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
) -> tf.Tensor:
    """Decode an image and change it at random.

    Args:
        image_bytes: string scalar, an encoded image.
        seed: int64 [2]; the same seed gives the same result.
        preprocessing: the evaluation transform, whose size, kernel and normalisation are kept.
        augmentation: what to change.

    Returns:
        float32 [H, W, 3], normalised.

    Raises:
        tf.errors.InvalidArgumentError: if the bytes are not an image.

    Example:
        >>> image_bytes = tf.io.encode_png(tf.zeros([9, 9, 3], tf.uint8))
        >>> seed = tf.constant([0, 1], tf.int64)
        >>> augment_image(image_bytes, seed, Preprocessing(8), Augmentation(flip=True)).shape
        TensorShape([8, 8, 3])
    """
    seeds = tf.unstack(tf.random.split(seed, 3))
    max_pixels = preprocessing.max_pixels
    if augmentation.crop == "inception":
        area = augmentation.crop_area
        pixels = decode_inception_crop(image_bytes, seeds[0], area, max_pixels)  # [h', w', 3]
        preprocessing = preprocessing.replace(resize_mode="squash", crop_fraction=1.0)
    else:
        pixels = decode_image(image_bytes, max_pixels)  # [h, w, 3]
    # Back to pixels: RandAugment and the fill of a shift work on grey levels.
    pixels = preprocessing.resize(pixels)  # [H, W, 3] in 0 ... 255
    if augmentation.crop == "shift":
        pixels = shift(pixels, seeds[0], augmentation.shift_pixels)
    if augmentation.flip:
        pixels = tf.image.stateless_random_flip_left_right(pixels, seeds[1])
    if augmentation.randaugment_layers:
        levels = tf.cast(tf.round(pixels), tf.uint8)
        pixels = rand_augment(
            levels, seeds[2], augmentation.randaugment_layers, augmentation.randaugment_magnitude
        )
    return preprocessing.normalize(pixels)


def decode_inception_crop(
    image_bytes: tf.Tensor, seed: tf.Tensor, area: tuple[float, float], max_pixels: int
) -> tf.Tensor:
    """Decode a random box of an image; of a JPEG nothing else is decoded.

    Args:
        image_bytes: string scalar, an encoded image.
        seed: int64 [2].
        area: as in `inception_crop`, which draws the same box.
        max_pixels: limit on the pixels of the whole image, read from the header.

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
            begin, size = _inception_box(shape, seed, area)
        window = tf.concat([begin[:2], size[:2]], axis=0)
        return tf.io.decode_and_crop_jpeg(
            image_bytes, window, channels=3, dct_method="INTEGER_ACCURATE"
        )

    def other() -> tf.Tensor:
        return inception_crop(decode_image(image_bytes, max_pixels), seed, area)

    is_jpeg = tf.equal(tf.strings.substr(image_bytes, 0, 3), b"\xff\xd8\xff")
    return tf.ensure_shape(tf.cond(is_jpeg, jpeg, other), (None, None, 3))


def inception_crop(pixels: tf.Tensor, seed: tf.Tensor, area: tuple[float, float]) -> tf.Tensor:
    """A random box of the image, as in "Going Deeper with Convolutions" (Szegedy et al., 2015).

    Args:
        pixels: uint8 [h, w, 3].
        seed: int64 [2].
        area: smallest and largest share of the image's area; the aspect ratio is 3/4 to 4/3.

    Returns:
        uint8 [h', w', 3], at least one pixel.

    Example:
        >>> seed = tf.constant([0, 1], tf.int64)
        >>> inception_crop(tf.zeros([9, 9, 3], tf.uint8), seed, (1.0, 1.0)).shape[-1]
        3
    """
    begin, size = _inception_box(tf.shape(pixels), seed, area)
    return tf.ensure_shape(tf.slice(pixels, begin, size), (None, None, 3))


def _inception_box(
    shape: tf.Tensor, seed: tf.Tensor, area: tuple[float, float]
) -> tuple[tf.Tensor, tf.Tensor]:
    """A random box in an image of a shape: int32 [3] -> begin and size for `tf.slice`."""
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        tf.zeros([1, 0, 4]),
        seed,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=area,
        min_object_covered=0.0,  # else no crop covers less than a tenth
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    return begin, size


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


def mixup(
    images: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor, beta: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Blend each image of a batch with its neighbour, and their targets alike.

    "mixup: Beyond Empirical Risk Minimization" (Zhang et al., 2018) as big_vision does it: one
    `a ~ Beta(beta, beta)` for the batch, `a = max(a, 1 - a)`, the partner one place further.

    Args:
        images: float [B, H, W, 3].
        targets: float [B, num_classes].
        seed: int64 [2].
        beta: above 0.

    Returns:
        The blended images and targets, of the same shapes.

    Example:
        >>> seed = tf.constant([0, 1], tf.int64)
        >>> images, targets = mixup(tf.zeros([2, 4, 4, 3]), tf.eye(2), seed, 0.2)
        >>> tf.reduce_sum(targets).numpy().round(3)
        np.float32(2.0)
    """
    x, y = tf.unstack(tf.random.stateless_gamma([2], seed, alpha=[beta, beta]))
    # Both gammas can underflow to zero for a small beta: nothing is mixed then.
    a = tf.math.divide_no_nan(x, x + y)
    a = tf.maximum(a, 1.0 - a)
    return (
        a * images + (1 - a) * tf.roll(images, 1, axis=0),
        a * targets + (1 - a) * tf.roll(targets, 1, axis=0),
    )
