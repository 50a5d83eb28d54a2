"""RandAugment's operations against PIL and numpy, and how they are drawn."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from training.augmentation import randaugment
from training.augmentation.randaugment import OPERATIONS, rand_augment

MAGNITUDES = (2.0, 10.0, 15.0, 20.0)
PLACE = tf.constant([3, 4], tf.int64)


def moved(image, x_from, y_from):
    """Nearest neighbour at integer coordinates, 128 outside; halves are rounded away from 0."""
    height, width, _ = image.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    columns, rows = (
        (np.sign(v) * np.floor(np.abs(v) + np.float32(0.5))).astype(int)
        for v in (x_from(x, y), y_from(x, y))
    )
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    out = np.full_like(image, 128)
    out[inside] = image[rows[inside], columns[inside]]
    return out


def rotated(image, magnitude, sign):
    height, width, _ = image.shape
    center_x, center_y = (width - 1) / 2, (height - 1) / 2
    angle = np.deg2rad(sign * 3 * magnitude)
    cos, sin = np.cos(angle), np.sin(angle)
    return moved(
        image,
        lambda x, y: cos * (x - center_x) - sin * (y - center_y) + center_x,
        lambda x, y: sin * (x - center_x) + cos * (y - center_y) + center_y,
    )


def cut_out(image, magnitude, sign):
    height, width, _ = image.shape
    y, x = tf.random.stateless_uniform([2], PLACE).numpy() * (height, width)
    half = int(4 * magnitude)
    out = image.copy()
    out[max(int(y) - half, 0) : int(y) + half, max(int(x) - half, 0) : int(x) + half] = 128
    return out


def with_pil(function):
    return lambda image, magnitude, sign: np.asarray(function(Image.fromarray(image), magnitude))


def enhanced(kind):
    return with_pil(lambda image, magnitude: kind(image).enhance(0.18 * magnitude + 0.1))


def posterized(image, magnitude, sign):
    bits = int(0.4 * magnitude)
    if bits == 0:  # PIL refuses to
        return np.zeros_like(image)
    return np.asarray(ImageOps.posterize(Image.fromarray(image), min(bits, 8)))


def sheared(sign, magnitude):
    return np.float32(sign * 0.03 * magnitude)


REFERENCES = {
    "AutoContrast": with_pil(lambda image, _: ImageOps.autocontrast(image)),
    "Equalize": with_pil(lambda image, _: ImageOps.equalize(image)),
    "Invert": with_pil(lambda image, _: ImageOps.invert(image)),
    "Rotate": rotated,
    "Posterize": posterized,
    "Solarize": with_pil(lambda image, m: ImageOps.solarize(image, int(25.6 * m))),
    "Color": enhanced(ImageEnhance.Color),
    "Contrast": enhanced(ImageEnhance.Contrast),
    "Brightness": enhanced(ImageEnhance.Brightness),
    "Sharpness": enhanced(ImageEnhance.Sharpness),
    "ShearX": lambda image, m, sign: moved(
        image, lambda x, y: x + sheared(sign, m) * y, lambda x, y: y
    ),
    "ShearY": lambda image, m, sign: moved(
        image, lambda x, y: x, lambda x, y: y + sheared(sign, m) * x
    ),
    "TranslateX": lambda image, m, sign: moved(
        image, lambda x, y: x + sign * 10 * m, lambda x, y: y
    ),
    "TranslateY": lambda image, m, sign: moved(
        image, lambda x, y: x, lambda x, y: y + sign * 10 * m
    ),
    "Cutout": cut_out,
    "SolarizeAdd": lambda image, m, sign: np.where(
        image < 128, np.minimum(image.astype(int) + int(11 * m), 255), image
    ),
}


def test_every_operation_has_a_reference():
    assert len(OPERATIONS) == 16
    assert set(OPERATIONS) == set(REFERENCES)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_equals_its_reference(name, magnitude, sign, photo):
    # Smooth areas with the noise of a camera.
    noise = np.random.default_rng(1).normal(0, 6, (48, 64, 3))
    image = np.clip(photo(48, 64, seed=5) + noise, 0, 255).astype(np.uint8)
    ours = OPERATIONS[name](tf.constant(image), magnitude, tf.constant(sign), PLACE)
    expected = REFERENCES[name](image, magnitude, sign)
    assert ours.dtype == tf.uint8
    assert ours.shape == image.shape
    near = np.abs(ours.numpy().astype(int) - expected.astype(int)) <= 1
    assert near.all(axis=-1).mean() >= 0.99


def test_a_threshold_above_255_solarises_nothing(photo):
    image = photo(48, 64)
    for magnitude in (10.0, 15.0, 20.0):  # 256, 384 and 512 would be 0, 128 and 0 in uint8
        ours = OPERATIONS["Solarize"](tf.constant(image), magnitude, 1.0, PLACE)
        np.testing.assert_array_equal(ours, image)


@pytest.mark.parametrize("magnitude", [20.0, 30.0])
def test_eight_bits_and_more_posterise_nothing(magnitude, photo):
    image = photo(48, 64)
    ours = OPERATIONS["Posterize"](tf.constant(image), magnitude, 1.0, PLACE)
    np.testing.assert_array_equal(ours, image)


@pytest.mark.parametrize("name", ["Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"])
def test_the_sign_turns_a_move_around(name, photo):
    image = tf.constant(photo(48, 64))
    there, back = (OPERATIONS[name](image, 2.0, tf.constant(sign), PLACE) for sign in (1.0, -1.0))
    assert np.any(there != back)


@pytest.mark.parametrize("name", ["AutoContrast", "Equalize"])
def test_a_picture_of_one_colour_stays_as_it_is(name):
    image = np.full((8, 8, 3), 77, np.uint8)
    np.testing.assert_array_equal(OPERATIONS[name](image, 10.0, 1.0, PLACE), image)


def test_cutouts_lie_in_other_places_for_other_seeds(photo):
    image = tf.constant(photo(48, 64))
    cuts = [
        OPERATIONS["Cutout"](image, 2.0, 1.0, tf.constant([0, seed], tf.int64)).numpy().tobytes()
        for seed in range(10)
    ]
    assert len(set(cuts)) == 10


@pytest.fixture
def augmented():
    """A function: image, count of seeds -> rand_augment in a tf.data map, one result a seed."""

    def apply(image, count, layers=2, magnitude=15.0):
        seeds = tf.data.Dataset.range(count).map(
            lambda i: rand_augment(tf.constant(image), tf.stack([7, i]), layers, magnitude)
        )
        return np.stack(list(seeds.as_numpy_iterator()))

    return apply


@pytest.mark.parametrize("shape", [(8, 8, 3), (24, 10, 3), (10, 24, 3)])
def test_shape_and_dtype_are_kept(shape, photo):
    image = photo(*shape[:2])
    for i in range(40):  # draws each operation
        out = rand_augment(image, tf.constant([5, i], tf.int64), 2, 10.0)
        assert out.shape == shape
        assert out.dtype == tf.uint8


def test_the_seed_alone_decides_in_eager_and_graph_execution(augmented, photo):
    image = photo(16, 20)
    in_graph = augmented(image, 30)
    eager = [rand_augment(image, tf.constant([7, i], tf.int64), 2, 15.0) for i in range(30)]
    np.testing.assert_array_equal(eager, in_graph)
    assert len({picture.tobytes() for picture in in_graph}) > 20


def replaced_operations(monkeypatch, operation):
    """Put `operation(number, pixels, magnitude, sign, place)` in the place of each."""
    replaced = {
        name: lambda *args, number=number: tf.cast(operation(number, *args), tf.uint8)
        for number, name in enumerate(OPERATIONS)
    }
    monkeypatch.setattr(randaugment, "OPERATIONS", replaced)


def test_every_operation_is_drawn_about_equally_often(monkeypatch, augmented):
    replaced_operations(monkeypatch, lambda number, pixels, *_: tf.fill([1, 1, 3], number))
    drawn = augmented(np.zeros((1, 1, 3), np.uint8), 1600, layers=1)[:, 0, 0, 0]
    counts = np.bincount(drawn, minlength=16)
    assert len(counts) == 16
    assert counts.min() >= 65
    assert counts.max() <= 135


def test_the_layers_are_applied_in_a_row_and_draw_independently(monkeypatch, augmented):
    replaced_operations(
        monkeypatch, lambda number, pixels, *_: tf.cast(pixels, tf.int32) * 16 + number
    )
    codes = augmented(np.zeros((1, 1, 3), np.uint8), 1600, layers=2)[:, 0, 0, 0]
    assert len(set(codes.tolist())) > 245  # of the 256 pairs


def test_both_signs_are_drawn_half_of_the_time(monkeypatch, augmented):
    replaced_operations(
        monkeypatch, lambda number, pixels, magnitude, sign, place: tf.fill([1, 1, 3], sign + 1)
    )
    signs = augmented(np.zeros((1, 1, 3), np.uint8), 1000, layers=1)[:, 0, 0, 0]
    assert set(signs.tolist()) == {0, 2}
    assert 0.44 < (signs == 2).mean() < 0.56


@pytest.mark.parametrize("name", ["ShearX", "ShearY"])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_shear_takes_the_pixels_of_exact_arithmetic(name, sign):
    # At magnitude 10 each tenth row comes from half-way between two pixels.
    image = np.random.default_rng(0).integers(0, 256, (64, 31, 3), np.uint8)
    seed = tf.constant([0, 1], tf.int64)
    sheared = OPERATIONS[name](tf.constant(image), 10.0, tf.constant(float(sign)), seed)
    turned = image if name == "ShearX" else image.transpose(1, 0, 2)
    height, width, _ = turned.shape
    tenths = 10 * np.arange(width) + 3 * sign * np.arange(height)[:, None]
    inside = (tenths > -5) & (tenths < 10 * width - 5)
    columns = np.clip((tenths + 5) // 10, 0, width - 1)
    expected = turned[np.arange(height)[:, None], columns]
    expected = np.where(inside[..., None], expected, 128)
    if name == "ShearY":
        expected = expected.transpose(1, 0, 2)
    np.testing.assert_array_equal(sheared, expected)
