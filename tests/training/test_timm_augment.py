"""timm's RandAugment and AugMix: every operation against PIL, how they are drawn, timm itself."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from training.augmentation import timm_randaugment
from training.augmentation.timm_randaugment import (
    OPERATIONS,
    augmix,
    augmix_names,
    rand_augment_names,
    timm_rand_augment,
)

FILL = (124, 116, 104)
LEVELS = (0.0, 3.7, 9.0, 10.0)


@pytest.fixture
def picture(photo):
    """Smooth areas with the noise of a camera: uint8 [48, 64, 3]."""
    noise = np.random.default_rng(1).normal(0, 6, (48, 64, 3))
    return np.clip(photo(48, 64, seed=5) + noise, 0, 255).astype(np.uint8)


def apply(name, image, level, sign, bicubic=True, translation=0.45):
    settings = (
        tf.constant(level / 10), tf.constant(sign), tf.constant(bicubic),
        tf.constant(FILL, tf.float32), translation,
    )  # fmt: skip
    return OPERATIONS[name](tf.constant(image), settings).numpy()


def transformed(matrix):
    def reference(image, level, sign, resample):
        size, data = image.size, matrix(sign * level / 10, *image.size)
        return image.transform(size, Image.Transform.AFFINE, data, resample, fillcolor=FILL)

    return reference


def enhanced(kind, factor):
    return lambda image, level, sign, _: kind(image).enhance(factor(level, sign))


def posterized(image, bits):
    if bits == 0:  # PIL refuses to
        return Image.new("RGB", image.size)
    return ImageOps.posterize(image, bits)


def plain(level, sign):
    return 0.18 * level + 0.1


def increasing(level, sign):
    return max(0.1, 1 + sign * 0.09 * level)


REFERENCES = {
    "AutoContrast": lambda image, *_: ImageOps.autocontrast(image),
    "Equalize": lambda image, *_: ImageOps.equalize(image),
    "Invert": lambda image, *_: ImageOps.invert(image),
    "Rotate": lambda image, level, sign, resample: image.rotate(
        sign * 3 * level, resample, fillcolor=FILL
    ),
    "Posterize": lambda image, level, *_: posterized(image, int(0.4 * level)),
    "PosterizeIncreasing": lambda image, level, *_: posterized(image, 4 - int(0.4 * level)),
    "Solarize": lambda image, level, *_: ImageOps.solarize(image, int(25.6 * level)),
    "SolarizeIncreasing": lambda image, level, *_: ImageOps.solarize(
        image, 256 - int(25.6 * level)
    ),
    "SolarizeAdd": lambda image, level, *_: image.point(
        [min(255, i + int(11 * level)) if i < 128 else i for i in range(256)] * 3
    ),
    **{
        name + suffix: enhanced(getattr(ImageEnhance, name), factor)
        for name in ("Color", "Contrast", "Brightness", "Sharpness")
        for suffix, factor in (("", plain), ("Increasing", increasing))
    },
    "ShearX": transformed(lambda strength, w, h: (1, 0.3 * strength, 0, 0, 1, 0)),
    "ShearY": transformed(lambda strength, w, h: (1, 0, 0, 0.3 * strength, 1, 0)),
    "TranslateXRel": transformed(lambda strength, w, h: (1, 0, 0.45 * strength * w, 0, 1, 0)),
    "TranslateYRel": transformed(lambda strength, w, h: (1, 0, 0, 0, 1, 0.45 * strength * h)),
}
MOVES = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")


def assert_near(ours, expected):
    near = np.abs(ours.astype(int) - np.asarray(expected).astype(int)) <= 1
    assert near.all(axis=-1).mean() >= 0.99


def test_every_operation_has_a_reference():
    assert set(OPERATIONS) == set(REFERENCES)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_equals_its_reference(name, level, sign, picture):
    ours = apply(name, picture, level, sign)
    expected = REFERENCES[name](Image.fromarray(picture), level, sign, Image.Resampling.BICUBIC)
    assert ours.dtype == np.uint8
    assert ours.shape == picture.shape
    assert_near(ours, expected)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", MOVES)
def test_a_move_can_be_bilinear(name, level, picture):
    ours = apply(name, picture, level, 1.0, bicubic=False)
    expected = REFERENCES[name](Image.fromarray(picture), level, 1.0, Image.Resampling.BILINEAR)
    assert_near(ours, expected)


def test_what_comes_in_from_outside_has_the_colour_of_the_fill(picture):
    moved = apply("TranslateXRel", picture, 10.0, 1.0)
    np.testing.assert_array_equal(moved[:, -20:], np.broadcast_to(FILL, (48, 20, 3)))


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 9, 3), (9, 2, 3)])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_takes_a_very_small_picture(name, shape):
    assert apply(name, np.full(shape, 9, np.uint8), 9.0, 1.0).shape == shape


# === How the operations are drawn ===


def over_seeds(function, count):
    """function(seed) for many seeds, in a tf.data graph."""
    dataset = tf.data.Dataset.range(count).map(lambda i: function(tf.stack([11, i])))
    return np.stack(list(dataset.as_numpy_iterator()))


@pytest.fixture
def replaced(monkeypatch):
    """Put `operation(number of the name, pixels, settings)` in the place of each."""

    def replace(operation):
        operations = {
            name: lambda pixels, settings, n=n: tf.cast(operation(n, pixels, settings), tf.uint8)
            for n, name in enumerate(OPERATIONS)
        }
        monkeypatch.setattr(timm_randaugment, "OPERATIONS", operations)

    return replace


def drawn(count=1500, layers=1, magnitude=9.0, start=200, **options):
    pixels = tf.fill([1, 1, 3], tf.constant(start, tf.uint8))
    return over_seeds(
        lambda seed: timm_rand_augment(pixels, seed, layers, magnitude, **options), count
    )[:, 0, 0, 0]


@pytest.mark.parametrize("increasing", [False, True])
def test_half_of_the_operations_is_left_out_and_the_others_are_equally_likely(replaced, increasing):
    numbers = {name: n for n, name in enumerate(OPERATIONS)}
    names = rand_augment_names(increasing)
    replaced(lambda n, *_: tf.fill([1, 1, 3], n))
    numbers_drawn = drawn(3000, increasing=increasing)
    assert (numbers_drawn == 200).mean() == pytest.approx(0.5, abs=0.03)
    counts = {name: (numbers_drawn == numbers[name]).sum() for name in names}
    assert len(counts) == 15
    assert min(counts.values()) >= 65
    assert max(counts.values()) <= 135


def test_the_names_are_those_of_timm():
    assert [name for name in rand_augment_names(True) if "Increasing" in name] == [
        "BrightnessIncreasing", "ColorIncreasing", "ContrastIncreasing", "PosterizeIncreasing",
        "SharpnessIncreasing", "SolarizeIncreasing",
    ]  # fmt: skip
    assert not any("Increasing" in name for name in rand_augment_names(False))
    assert set(rand_augment_names(True)) - set(augmix_names()) == {"Invert", "SolarizeAdd"}


def test_the_strength_is_normal_and_held_in_its_range(replaced):
    replaced(lambda n, pixels, settings: tf.fill([1, 1, 3], tf.round(settings[0] * 100)))
    fixed = drawn(magnitude=7.0)
    assert set(fixed.tolist()) == {200, 70}
    strengths = drawn(magnitude=5.0, std=1.0)
    strengths = strengths[strengths != 200] / 10
    assert strengths.mean() == pytest.approx(5.0, abs=0.15)
    assert strengths.std() == pytest.approx(1.0, abs=0.15)
    strengths = drawn(magnitude=9.5, std=2.0)
    strengths = strengths[strengths != 200]
    assert strengths.max() == 100
    assert (strengths == 100).mean() == pytest.approx(0.40, abs=0.06)  # P(N(9.5, 2) > 10)


def test_signs_and_kernels_are_drawn_half_of_the_time_by_themselves(replaced):
    replaced(lambda n, pixels, s: tf.fill([1, 1, 3], s[1] + 1 + 4 * tf.cast(s[2], tf.float32)))
    values = drawn(2000)
    counts = [(values[values != 200] == value).mean() for value in (0, 2, 4, 6)]
    assert counts == pytest.approx([0.25] * 4, abs=0.05)


def test_the_seed_alone_decides_in_eager_and_graph_execution(picture):
    image = tf.constant(picture[:16, :20])

    def change(seed):
        return timm_rand_augment(image, seed, 2, 9.0, std=0.5, increasing=True, fill=FILL)

    in_graph = over_seeds(change, 25)
    eager = [change(tf.constant([11, i], tf.int64)).numpy() for i in range(25)]
    near = np.abs(in_graph.astype(int) - np.stack(eager)) <= 1
    assert near.mean() > 0.999
    assert len({out.tobytes() for out in in_graph}) > 10


# === AugMix ===


def test_augmix_is_a_blend_with_the_weighted_chains(replaced):
    # Every operation gives white: a mixture of chains is white, whatever their weights.
    replaced(lambda n, pixels, _: tf.fill([2, 2, 3], 255))
    black = tf.zeros([2, 2, 3], tf.uint8)
    levels = over_seeds(lambda seed: augmix(black, seed, 3, 0, 3.0), 600)[:, 0, 0, 0]
    share = levels / 255
    assert share.mean() == pytest.approx(0.5, abs=0.04)
    assert share.var() == pytest.approx(1 / 12, abs=0.02)  # uniform


def test_augmix_weights_are_those_of_a_dirichlet_distribution(replaced, monkeypatch):
    # Each operation adds 1: a chain of 1 to 3 operations ends at 1 to 3 (times 60).
    replaced(lambda n, pixels, _: tf.cast(pixels, tf.int32) + 60)
    monkeypatch.setattr(timm_randaugment.colour, "blend", lambda a, mixed, share, like: mixed)
    black = tf.zeros([1, 1, 3], tf.uint8)
    one = over_seeds(lambda seed: augmix(black, seed, 1, 0, 3.0), 300)[:, 0, 0]
    assert sorted(np.unique(one)) == [60, 120, 180]
    for value in (60, 120, 180):
        assert (one == value).mean() == pytest.approx(1 / 3, abs=0.09)
    fixed = over_seeds(lambda seed: augmix(black, seed, 4, 2, 3.0), 20)[:, 0, 0]
    np.testing.assert_array_equal(fixed, 120)
    # var = (sum of squared weights = 1/2 for three) * (variance of a chain).
    three = over_seeds(lambda seed: augmix(black, seed, 3, 0, 3.0), 600)[:, 0, 0]
    assert three.mean() == pytest.approx(120, abs=5)
    assert three.var() == pytest.approx(0.5 * 2400, rel=0.2)


def test_augmix_draws_the_strength_of_each_operation(replaced, monkeypatch):
    replaced(lambda n, pixels, s: tf.fill([1, 1, 3], tf.round(s[0] * 500)))
    monkeypatch.setattr(timm_randaugment.colour, "blend", lambda a, mixed, share, like: mixed)
    black = tf.zeros([1, 1, 3], tf.uint8)
    strength = over_seeds(lambda seed: augmix(black, seed, 1, 1, 4.0), 600)[:, 0, 0] / 50
    assert strength.mean() == pytest.approx(2.0, abs=0.15)
    assert strength.max() <= 4.0
    assert strength.min() < 0.1


def test_augmix_of_a_picture_changes_it_a_little(picture):
    mixed = over_seeds(lambda seed: augmix(tf.constant(picture), seed, 3, 0, 3.0, FILL), 20)
    assert mixed.dtype == np.uint8
    difference = np.abs(mixed.astype(int) - picture).mean(axis=(1, 2, 3))
    assert 1 < difference.mean() < 40


# === timm itself ===


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["BILINEAR", "BICUBIC"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_equals_that_of_timm(name, level, kind, picture, monkeypatch):
    import peers

    peers.timm()
    from timm.data import auto_augment

    for sign, chance in ((1.0, 0.0), (-1.0, 1.0)):
        monkeypatch.setattr(auto_augment.random, "random", lambda chance=chance: chance)
        parameters = {"img_mean": FILL, "interpolation": getattr(Image.Resampling, kind)}
        operation = auto_augment.AugmentOp(name, prob=1.0, magnitude=level, hparams=parameters)
        if "Posterize" in name and operation.level_fn(level, {})[0] == 0:
            continue  # PIL refuses to
        expected = operation(Image.fromarray(picture))
        assert_near(apply(name, picture, level, sign, kind == "BICUBIC"), expected)


@pytest.mark.parity
def test_the_lists_are_those_of_timm():
    import peers

    peers.timm()
    from timm.data import auto_augment

    assert set(rand_augment_names(True)) == set(auto_augment._RAND_INCREASING_TRANSFORMS)
    assert set(rand_augment_names(False)) == set(auto_augment._RAND_TRANSFORMS)
    assert set(augmix_names()) == set(auto_augment._AUGMIX_TRANSFORMS)
