"""Colour jitter, 3-Augment and random erasing against torchvision's and PIL's formulas."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from training.augmentation import jitter
from training.augmentation.colour import grayscale
from training.augmentation.erasing import random_erasing
from training.augmentation.filters import gaussian_blur, sharpness
from training.augmentation.jitter import color_jitter, three_augment


@pytest.fixture
def picture(photo):
    """Smooth areas with the noise of a camera: uint8 [48, 64, 3]."""
    noise = np.random.default_rng(1).normal(0, 6, (48, 64, 3))
    return np.clip(photo(48, 64, seed=5) + noise, 0, 255).astype(np.uint8)


def over_seeds(function, count):
    """function(seed) for many seeds, in a tf.data graph."""
    dataset = tf.data.Dataset.range(count).map(lambda i: function(tf.stack([11, i])))
    return np.stack(list(dataset.as_numpy_iterator()))


def nearness(ours, expected, levels=1):
    near = np.abs(np.asarray(ours).astype(int) - np.asarray(expected).astype(int)) <= levels
    return near.all(axis=-1).mean()


# === Filters ===


@pytest.mark.parametrize("radius", [0.1, 0.5, 1.0, 1.4, 1.5, 1.99, 2.0])
def test_a_blur_is_that_of_pil(radius, picture):
    expected = Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius))
    assert nearness(gaussian_blur(tf.constant(picture), radius), expected) >= 0.99


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 9, 3), (9, 2, 3)])
def test_a_very_small_picture_is_filtered(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    expected = Image.fromarray(image).filter(ImageFilter.GaussianBlur(2.0))
    assert nearness(gaussian_blur(image, 2.0), expected, levels=2) == 1
    np.testing.assert_array_equal(sharpness(tf.constant(image), 1.9), image)


def test_grey_is_that_of_pil(picture):
    expected = np.asarray(Image.fromarray(picture).convert("L"))
    np.testing.assert_array_equal(grayscale(tf.constant(picture)), np.stack([expected] * 3, -1))


# === 3-Augment ===


def test_three_augment_is_grey_solarised_or_blurred_a_third_each(picture):
    image = Image.fromarray(picture)
    grey = np.stack([np.asarray(image.convert("L"))] * 3, -1)
    solarized = np.asarray(ImageOps.solarize(image, 128))
    blurred = np.stack(
        [np.asarray(image.filter(ImageFilter.GaussianBlur(r / 20))) for r in range(2, 41)]
    )
    counts = dict.fromkeys(("grey", "solarized", "blurred"), 0)
    for out in over_seeds(lambda seed: three_augment(tf.constant(picture), seed), 300):
        if np.array_equal(out, grey):
            counts["grey"] += 1
        elif np.array_equal(out, solarized):
            counts["solarized"] += 1
        else:  # with a radius between two of the list
            error = np.abs(blurred.astype(int) - out).mean(axis=(1, 2, 3)).min()
            assert error < 1.5
            counts["blurred"] += 1
    assert min(counts.values()) >= 75
    assert max(counts.values()) <= 125


def test_the_radius_of_a_blur_is_uniform(picture, monkeypatch):
    monkeypatch.setattr(
        jitter,
        "gaussian_blur",
        lambda _, radius: tf.fill([1, 1, 3], tf.cast(radius * 100, "uint8")),
    )
    white = tf.fill([1, 1, 3], tf.constant(255, tf.uint8))  # grey 255, solarised 0
    radius = over_seeds(lambda seed: three_augment(white, seed), 1500)[:, 0, 0, 0] / 100
    radius = radius[(radius > 0) & (radius < 2.5)]
    assert radius.min() == pytest.approx(0.1, abs=0.03)
    assert radius.max() == pytest.approx(2.0, abs=0.03)
    assert radius.mean() == pytest.approx(1.05, abs=0.1)


# === Colour jitter ===


def test_a_jitter_is_one_of_the_six_orders_of_pils_enhancements(picture):
    kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    orders = []
    for i in range(40):
        seed = tf.constant([11, i], tf.int64)
        ours = color_jitter(tf.constant(picture), seed, 0.4)
        factors = tf.random.stateless_uniform([3], tf.random.split(seed, 2)[1], 0.6, 1.4).numpy()
        possible = {}
        for order in itertools.permutations(range(3)):
            image = Image.fromarray(picture)
            for kind, factor in zip(order, factors, strict=True):
                image = kinds[kind](image).enhance(float(factor))
            possible[order] = nearness(ours, image, levels=2)
        best = max(possible, key=possible.get)
        assert possible[best] >= 0.99
        orders.append(best)
    assert len(set(orders)) == 6


def test_no_jitter_changes_nothing(picture):
    ours = color_jitter(tf.constant(picture), tf.constant([0, 1], tf.int64), 0.0)
    np.testing.assert_array_equal(ours, picture)


def test_the_factors_of_a_jitter_reach_both_ends_and_stay_above_zero(monkeypatch):
    for name in ("brightness", "contrast", "color"):
        monkeypatch.setattr(
            jitter.colour, name, lambda x, factor: x + tf.cast(tf.round(factor * 20), tf.uint8)
        )
    black = tf.zeros([1, 1, 3], tf.uint8)
    for most, low, high in ((0.4, 12, 28), (2.0, 0, 60)):
        sums = over_seeds(lambda seed, m=most: color_jitter(black, seed, m), 800)[:, 0, 0, 0]
        assert sums.min() >= 3 * low
        assert sums.max() <= 3 * high
        assert sums.mean() == pytest.approx(3 * (low + high) / 2, rel=0.03)


# === Random erasing ===


def erased(count, size=(40, 60), mode="const", probability=1.0):
    image = tf.ones([*size, 3])
    return over_seeds(lambda seed: random_erasing(image, seed, probability, mode), count)


def boxes(pictures):
    """Top, left, height and width of the one box of each picture that is not 1."""
    found = []
    for picture in pictures:
        hole = (picture != 1).any(axis=-1)
        rows, columns = np.flatnonzero(hole.any(axis=1)), np.flatnonzero(hole.any(axis=0))
        box = rows[0], columns[0], np.ptp(rows) + 1, np.ptp(columns) + 1
        assert hole.sum() == box[2] * box[3]  # a full rectangle
        found.append(box)
    return np.array(found)


def test_a_box_has_the_area_and_the_aspect_ratio_of_timm():
    top, left, height, width = boxes(erased(600)).T
    area, ratio = height * width / 2400, height / width
    assert 0.015 < area.min() < 0.04
    assert 0.29 < area.max() < 0.36
    assert area.mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.02)
    assert ratio.min() > 0.25
    assert ratio.max() < 4
    assert np.median(np.log(ratio)) == pytest.approx(0, abs=0.15)
    assert top.min() == left.min() == 0
    assert (top + height).max() == 40
    assert (left + width).max() == 60


@pytest.mark.parity
def test_boxes_are_drawn_as_by_timm():
    import peers
    import torch
    from scipy import stats

    peers.timm()
    from timm.data.random_erasing import RandomErasing

    erase = RandomErasing(1.0, device="cpu")
    theirs = [erase(torch.ones(3, 40, 60)).permute(1, 2, 0).numpy() for _ in range(1500)]
    for ours, other in zip(boxes(erased(1500)).T, boxes(theirs).T, strict=True):
        assert stats.ks_2samp(ours, other).pvalue > 0.001


def test_an_erased_box_holds_zeros_or_normal_noise():
    zeros = erased(20)
    assert set(np.unique(zeros)) == {0.0, 1.0}
    noise = np.concatenate([picture[picture != 1] for picture in erased(30, mode="pixel")])
    assert noise.mean() == pytest.approx(0, abs=0.03)
    assert noise.std() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("probability", [0.0, 0.25])
def test_a_box_is_erased_as_often_as_told(probability):
    touched = (erased(400, probability=probability) != 1).any(axis=(1, 2, 3))
    assert touched.mean() == pytest.approx(probability, abs=0.07)


def test_a_picture_that_no_box_fits_stays_as_it_is():
    assert (erased(10, size=(1, 1)) == 1).all()
