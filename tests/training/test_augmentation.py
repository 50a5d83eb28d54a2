"""Inception crops, shifts, the whole augmentation and its settings."""

import numpy as np
import pytest
import tensorflow as tf

from keras_vit import Preprocessing
from keras_vit.decoding import decode_image
from training.augmentation.augment import augment_image
from training.augmentation.config import Augmentation
from training.augmentation.crops import decode_inception_crop, inception_crop, shift


def over_seeds(function, count):
    """function(seed) for many seeds, in a tf.data graph."""
    dataset = tf.data.Dataset.range(count).map(lambda i: function(tf.stack([11, i])))
    return list(dataset.as_numpy_iterator())


def crop_sizes(area, count=300, height=90, width=120):
    pixels = tf.zeros([height, width, 3], tf.uint8)
    sizes = over_seeds(lambda seed: tf.shape(inception_crop(pixels, seed, area))[:2], count)
    return np.array(sizes)


# === Crop ===


@pytest.mark.parametrize("area", [(0.05, 1.0), (0.2, 0.5), (0.05, 0.09)])
def test_an_inception_crop_keeps_the_area_and_the_aspect_ratio_that_it_was_told(area):
    height, width = crop_sizes(area).T
    share = height * width / (90 * 120)
    assert share.min() > area[0] - 0.015  # whole pixels
    assert share.max() < area[1] + 0.015
    # Sides are whole numbers: a ratio may be off by half a pixel of each.
    assert ((width - 1) / (height + 1) < 4 / 3).all()
    assert ((width + 1) / (height - 1) > 3 / 4).all()


def test_inception_crops_reach_both_ends_of_their_range():
    height, width = crop_sizes((0.05, 1.0), 600).T
    share = height * width / (90 * 120)
    assert share.min() < 0.08
    assert share.max() > 0.85
    assert (width / height).min() < 0.8
    assert (width / height).max() > 1.25


def test_inception_crops_lie_all_over_the_picture():
    y, x = np.mgrid[:60, :80].astype(np.uint8)
    pixels = tf.constant(np.stack([y, x, x], -1))
    corners = np.array(
        over_seeds(lambda seed: inception_crop(pixels, seed, (0.1, 0.3))[0, 0, :2], 200)
    )
    assert (corners.min(axis=0) <= 3).all()
    assert (corners.max(axis=0) >= (25, 35)).all()


def test_an_inception_crop_is_a_part_of_the_picture(photo):
    image = photo(30, 40)
    # Each pixel tells its place.
    y, x = np.mgrid[:30, :40].astype(np.uint8)
    place = tf.constant(np.stack([y, x, x], -1))
    seed = tf.constant([1, 2], tf.int64)
    where = inception_crop(place, seed, (0.1, 0.9)).numpy()
    crop = inception_crop(tf.constant(image), seed, (0.1, 0.9)).numpy()
    (top, left), (bottom, right) = where[0, 0, :2], where[-1, -1, :2]
    np.testing.assert_array_equal(crop, image[top : bottom + 1, left : right + 1])


def test_an_inception_crop_keeps_another_aspect_ratio_that_it_was_told():
    pixels = tf.zeros([90, 120, 3], tf.uint8)
    sizes = over_seeds(
        lambda seed: tf.shape(inception_crop(pixels, seed, (0.1, 0.3), (1.9, 2.1)))[:2], 100
    )
    height, width = np.array(sizes).T
    assert ((width - 1) / (height + 1) < 2.1).all()
    assert ((width + 1) / (height - 1) > 1.9).all()


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 50)])
def test_an_inception_crop_of_a_very_small_picture_keeps_a_pixel(size):
    assert crop_sizes((0.05, 1.0), 50, *size).min() >= 1


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "BMP"])
def test_a_decoded_inception_crop_is_that_of_the_decoded_picture(image_format, encode, photo):
    image_bytes = encode(photo(60, 90), image_format)
    whole = decode_image(image_bytes, 10_000)
    for i in range(12):
        seed = tf.constant([5, i], tf.int64)
        ours = decode_inception_crop(image_bytes, seed, (0.05, 1.0), 10_000).numpy()
        expected = inception_crop(whole, seed, (0.05, 1.0)).numpy()
        assert ours.shape == expected.shape
        if image_format == "JPEG":  # at its edge, colour is interpolated inside the box alone
            ours, expected = ours[2:-2, 2:-2], expected[2:-2, 2:-2]
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "BMP"])
def test_an_inception_crop_of_too_many_pixels_is_refused(image_format, encode, photo):
    image_bytes = encode(photo(60, 90), image_format)
    with pytest.raises(tf.errors.InvalidArgumentError, match="more than max_pixels=5399"):
        decode_inception_crop(image_bytes, tf.constant([0, 1], tf.int64), (0.05, 0.1), 5399)


@pytest.mark.parametrize("cut", [b"\xff\xd8\xff", b"\xff\xd8\xff\xe0 and so on", b""])
def test_an_inception_crop_of_what_is_no_image_is_refused(cut):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_inception_crop(tf.constant(cut), tf.constant([0, 1], tf.int64), (0.05, 1.0), 100)


# === Shift ===


def test_a_shift_moves_the_picture_and_repeats_its_edge(photo):
    image = photo(9, 12)
    padded = np.pad(image, [(2, 2), (2, 2), (0, 0)], mode="edge")
    possible = {
        padded[row : row + 9, column : column + 12].tobytes(): (row - 2, column - 2)
        for row in range(5)
        for column in range(5)
    }
    shifted = over_seeds(lambda seed: shift(tf.constant(image), seed, 2), 400)
    offsets = [possible[picture.tobytes()] for picture in shifted]
    assert set(offsets) == set(possible.values())  # each of the 25 is drawn


def test_a_shift_of_no_pixels_changes_nothing(photo):
    image = photo(9, 12)
    np.testing.assert_array_equal(shift(image, tf.constant([0, 1], tf.int64), 0), image)


# === augment_image ===


@pytest.fixture
def augment(encode, photo):
    """A function: augmentation, count of seeds -> augmented pictures of one photo."""

    def apply(augmentation, count=1, preprocessing=None):
        preprocessing = preprocessing or Preprocessing(16)
        image_bytes = encode(photo())
        return np.stack(
            over_seeds(
                lambda seed: augment_image(image_bytes, seed, preprocessing, augmentation), count
            )
        )

    return apply


@pytest.mark.parametrize("resize_mode", ["crop", "squash"])
def test_without_changes_it_is_the_evaluation_transform(augment, encode, photo, resize_mode):
    preprocessing = Preprocessing((16, 24), resize_mode=resize_mode, mean=(0.4, 0.5, 0.6))
    expected = preprocessing(encode(photo()))
    np.testing.assert_array_equal(augment(Augmentation(), 1, preprocessing)[0], expected)


def test_a_shift_of_the_whole_augmentation_starts_from_the_evaluation_transform(
    augment, encode, photo
):
    expected = Preprocessing(16)(encode(photo())).numpy()
    shifted = augment(Augmentation(crop="shift", shift_pixels=1), 200)
    assert (shifted == expected).all(axis=(1, 2, 3)).mean() == pytest.approx(1 / 9, abs=0.08)
    # What does not come from an edge is an unchanged part of the picture.
    inner = expected[2:-2, 2:-2]
    for picture in shifted:
        assert any(
            np.array_equal(picture[row : row + 12, column : column + 12], inner)
            for row in (1, 2, 3)
            for column in (1, 2, 3)
        )


def test_a_whole_inception_crop_is_a_squash(encode, photo):
    preprocessing = Preprocessing(16, resize_mode="crop")
    image_bytes = encode(photo(40, 40))
    out = augment_image(
        image_bytes,
        tf.constant([0, 1], tf.int64),
        preprocessing,
        Augmentation(crop="inception", crop_area=(1.0, 1.0)),
    )
    expected = preprocessing.replace(resize_mode="squash", crop_fraction=1.0)(image_bytes)
    # No box but the whole picture has all of its area.
    np.testing.assert_allclose(out, expected, atol=1e-6)


def test_a_flip_happens_half_of_the_time_and_mirrors(augment):
    plain = augment(Augmentation())[0]
    pictures = augment(Augmentation(flip=True), 400)
    flipped = (pictures == plain[:, ::-1]).all(axis=(1, 2, 3))
    assert (flipped | (pictures == plain).all(axis=(1, 2, 3))).all()
    assert 0.42 < flipped.mean() < 0.58


ALL_CHANGES = Augmentation(
    crop="inception", flip=True, randaugment_layers=1, randaugment_magnitude=3.0
)


def test_the_seed_alone_decides_in_eager_and_graph_execution(augment, encode, photo):
    in_graph = augment(ALL_CHANGES, 20)
    assert len({picture.tobytes() for picture in in_graph}) >= 14  # some are all black
    for i, expected in enumerate(in_graph):
        seed = tf.constant([11, i], tf.int64)
        eager = augment_image(encode(photo()), seed, Preprocessing(16), ALL_CHANGES)
        np.testing.assert_allclose(eager, expected, atol=1e-5)


def test_the_augmented_picture_is_normalised_as_in_evaluation(augment):
    preprocessing = Preprocessing(16, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.2))
    pictures = augment(ALL_CHANGES, 40, preprocessing)
    assert pictures.dtype == np.float32
    levels = (pictures * preprocessing.std + preprocessing.mean) * 255
    # RandAugment leaves whole grey levels.
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)
    assert levels.min() > -0.01
    assert levels.max() < 255.01


POLICIES = {
    "three_augment": Augmentation(three_augment=True, color_jitter=0.3),
    "google": Augmentation(randaugment_layers=2),
    "timm": Augmentation(
        randaugment_layers=2, randaugment_kind="timm", randaugment_magnitude=9.0,
        randaugment_std=0.5, randaugment_increasing=True,
    ),
    "augmix": Augmentation(augmix_width=2, augmix_depth=1),
    "jitter": Augmentation(color_jitter=0.4),
    "erasing": Augmentation(random_erasing=1.0),
    "const": Augmentation(random_erasing=1.0, erasing_mode="const"),
    "inception": Augmentation(crop="inception", crop_ratio=(0.9, 1.1)),
    "resize_small": Augmentation(crop="resize_small", resize_size=24),
    "resize_squash": Augmentation(crop="resize_squash"),
    "simple_random": Augmentation(crop="simple_random"),
}  # fmt: skip


@pytest.mark.parametrize("name", POLICIES)
def test_each_setting_changes_the_picture_by_the_seed_alone(augment, encode, photo, name):
    plain, image_bytes = augment(Augmentation())[0], encode(photo())
    pictures = np.stack(
        over_seeds(
            lambda seed: augment_image(image_bytes, seed % 10, Preprocessing(16), POLICIES[name]),
            20,  # each of the first ten twice
        )
    )
    assert pictures.dtype == np.float32
    assert pictures.shape == (20, 16, 16, 3)
    assert np.isfinite(pictures).all()
    np.testing.assert_array_equal(pictures[10:], pictures[:10])
    assert len({picture.tobytes() for picture in pictures}) >= 5
    assert sum(not np.array_equal(picture, plain) for picture in pictures[:10]) >= 5


def test_what_timm_moves_in_has_the_mean_colour(augment):
    preprocessing = Preprocessing(16, mean=(0.1, 0.5, 0.9))
    settings = Augmentation(
        randaugment_layers=1, randaugment_kind="timm", randaugment_magnitude=10.0
    )
    pictures = augment(settings, 60, preprocessing)
    # The mean colour becomes 0, but for rounding to a whole level.
    filled = (np.abs(pictures) < 0.005).all(axis=-1).mean(axis=(1, 2))
    assert (filled > 0.2).sum() >= 3


def test_erasing_comes_after_normalisation(augment):
    preprocessing = Preprocessing(16, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.2))
    pictures = augment(Augmentation(random_erasing=1.0, erasing_mode="const"), 20, preprocessing)
    assert ((pictures == 0).all(axis=-1).mean(axis=(1, 2)) > 0.01).all()


def test_bytes_that_are_no_image_are_refused():
    with pytest.raises(tf.errors.InvalidArgumentError):
        augment_image(
            tf.constant(b"no image"),
            tf.constant([0, 1], tf.int64),
            Preprocessing(8),
            Augmentation(),
        )


# === Settings ===


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("crop", "inceptoin"),
        ("crop_area", (0.0, 1.0)),
        ("crop_area", (0.5, 0.4)),
        ("crop_area", (0.5, 1.1)),
        ("crop_area", (0.5,)),
        ("crop_area", (float("nan"), 1.0)),
        ("shift_pixels", -1),
        ("randaugment_layers", -1),
        ("randaugment_magnitude", -0.5),
        ("mixup", -0.1),
        ("mixup", float("nan")),
        ("randaugment_magnitude", float("inf")),
        ("crop_ratio", (0.0, 1.0)),
        ("crop_ratio", (2.0, 1.0)),
        ("crop_ratio", (1.0, float("inf"))),
        ("resize_size", 0),
        ("repeats", 0),
        ("randaugment_kind", "pil"),
        ("randaugment_std", -0.1),
        ("augmix_width", -1),
        ("augmix_depth", -1),
        ("augmix_severity", 11.0),
        ("color_jitter", -0.1),
        ("random_erasing", 1.1),
        ("erasing_mode", "rand"),
        ("mixup_kind", "keras"),
        ("cutmix", float("nan")),
        ("mix_prob", -0.1),
        ("mix_switch_prob", float("nan")),
    ],
)
def test_a_wrong_setting_is_named(field, value):
    with pytest.raises(ValueError, match=rf"augmentation\.{field} must be"):
        Augmentation(**{field: value})


def test_the_ends_of_the_ranges_are_allowed():
    Augmentation(crop_area=(1.0, 1.0), shift_pixels=0, randaugment_layers=0, mixup=0.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"three_augment": True, "randaugment_layers": 2},
            r"three_augment and augmentation\.randaugment_layers do not go together",
        ),
        ({"randaugment_layers": 1, "augmix_width": 3}, r"augmix_width do not go together"),
        ({"randaugment_std": 0.5}, r"randaugment_std=0\.5 .* set .*randaugment_kind to 'timm'"),
        ({"randaugment_increasing": True}, r"randaugment_kind='google': set"),
        (
            {"randaugment_kind": "timm", "randaugment_magnitude": 15.0},
            r"randaugment_magnitude must be at most 10",
        ),
        ({"cutmix": 1.0}, r"augmentation\.cutmix=1\.0 has no effect .*mixup_kind='big_vision'"),
        ({"mixup": 0.2, "mix_prob": 0.5}, r"mix_prob=0\.5 has no effect"),
        ({"crop": "inception", "resize_size": 256}, r"resize_size=256 has no effect"),
    ],
)
def test_settings_that_contradict_each_other_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**fields)


def test_the_settings_of_deit_go_together():
    Augmentation(
        crop="inception", crop_area=(0.08, 1.0), flip=True, repeats=3, randaugment_layers=2,
        randaugment_kind="timm", randaugment_magnitude=9.0, randaugment_std=0.5,
        randaugment_increasing=True, random_erasing=0.25, mixup=0.8, cutmix=1.0, mixup_kind="timm",
    )  # fmt: skip
