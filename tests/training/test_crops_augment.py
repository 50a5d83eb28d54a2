"""The crops of fine-tuning and of DeiT III against the two steps of their sources."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_vit import Preprocessing
from training.augmentation.crops import resize_small_crop, resize_squash_crop, simple_random_crop


def over_seeds(function, count):
    """function(seed) for many seeds, in a tf.data graph."""
    dataset = tf.data.Dataset.range(count).map(lambda i: function(tf.stack([11, i])))
    return list(dataset.as_numpy_iterator())


def places(crops, resized):
    """Where each crop was cut out of the resized picture."""
    found = []
    windows = np.lib.stride_tricks.sliding_window_view(resized, crops[0].shape)[:, :, 0]
    for crop in crops:
        difference = np.abs(windows - crop).max(axis=(2, 3, 4))
        place = np.unravel_index(difference.argmin(), difference.shape)
        assert difference[place] <= 1  # PIL rounds to whole levels
        found.append(place)
    return np.array(found)


def resized_by_pil(image, height, width):
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized).astype(np.float32)


CASES = {
    # function, size of the picture, size of the input, options: size that it is resized to
    "small": (resize_small_crop, (60, 90), (28, 28), {}, (33, 50)),
    "small, told": (resize_small_crop, (90, 60), (28, 28), {"resize_size": 40}, (60, 40)),
    "small, not square": (resize_small_crop, (60, 90), (24, 48), {"resize_size": 30}, (40, 60)),
    "squash": (resize_squash_crop, (60, 90), (28, 28), {}, (33, 33)),
    "squash, told": (resize_squash_crop, (60, 90), (28, 28), {"resize_size": 40}, (40, 40)),
    "simple": (simple_random_crop, (61, 91), (28, 28), {}, (28, 41)),  # torchvision: rounded down
    "simple, upright": (simple_random_crop, (91, 61), (28, 28), {}, (41, 28)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_crop_is_a_random_part_of_the_resized_picture(name, photo):
    function, size, target, options, resized_size = CASES[name]
    image = photo(*size)
    crops = over_seeds(
        lambda seed: function(tf.constant(image), seed, Preprocessing(target), **options), 300
    )
    assert crops[0].shape == (*target, 3)
    assert crops[0].dtype == np.float32
    resized = resized_by_pil(image, *resized_size)
    if function is simple_random_crop:
        resized = np.pad(resized, [(4, 4), (4, 4), (0, 0)], mode="reflect")
    found = places(crops, resized)
    most = np.array(resized.shape[:2]) - target
    np.testing.assert_array_equal(found.min(axis=0), 0)
    np.testing.assert_array_equal(found.max(axis=0), most)
    assert found.mean(axis=0) == pytest.approx(most / 2, abs=1.2)


@pytest.mark.parametrize("function", [resize_small_crop, resize_squash_crop])
def test_the_default_is_448_for_384(function, photo):
    image = photo(20, 20)
    seed = tf.constant([0, 1], tf.int64)
    by_default = function(tf.constant(image), seed, Preprocessing(384))
    told = function(tf.constant(image), seed, Preprocessing(384), 448)
    np.testing.assert_array_equal(by_default, told)


@pytest.mark.parametrize("function", [resize_small_crop, resize_squash_crop])
def test_a_size_to_crop_from_that_is_too_small_is_refused(function, photo):
    with pytest.raises(ValueError, match=r"resize_size must be at least the 28 pixels .* not 27"):
        function(tf.constant(photo()), tf.constant([0, 1], tf.int64), Preprocessing(28), 27)


def test_a_simple_crop_of_a_tiny_input_is_refused(photo):
    with pytest.raises(ValueError, match="must be 5 or more, not 4 x 9"):
        simple_random_crop(
            tf.constant(photo()), tf.constant([0, 1], tf.int64), Preprocessing((4, 9))
        )


@pytest.mark.parametrize("function", [resize_small_crop, simple_random_crop])
def test_of_a_long_strip_only_what_is_kept_is_computed(function):
    strip = tf.fill([1, 1_000_000, 3], tf.constant(7, tf.uint8))  # 49 GB in the size of the crop
    seed = tf.constant([0, 1], tf.int64)
    part = function(strip, seed, Preprocessing(64))
    np.testing.assert_allclose(part, np.full([64, 64, 3], 7), atol=1e-3)
