"""Positions, filters, features and the deletion test."""

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.explain import (
    attribution,
    deletion_curve,
    feature_map,
    patch_filters,
    position_similarity,
)


def images_for(model, batch=2, size=None):
    shape = (batch, *(size or model.image_size), 3)
    return np.random.default_rng(0).uniform(-1, 1, shape).astype("float32")


@pytest.mark.parametrize("arguments", [{}, {"image_size": (8, 20), "class_token": False,
                                            "pooling": "avg"}])  # fmt: skip
def test_similarity_of_positions(tiny_model, arguments):
    model = tiny_model(**arguments)
    table = np.asarray(model.get_layer("position_embedding").table, np.float64)
    table = table.reshape(*model.grid, -1)
    got = position_similarity(model)
    assert got.dtype == np.float32
    rows, columns = model.grid
    for i, j, k, m in [(0, 0, 1, 1), (1, 0, 0, columns - 1), (rows - 1, 1, 0, 2)]:
        a, b = table[i, j], table[k, m]
        want = a @ b / np.sqrt((a @ a) * (b @ b))
        np.testing.assert_allclose(got[i, j, k, m], want, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.einsum("ijij->ij", got), 1, atol=1e-6)


def test_similarity_of_fixed_positions_and_of_none(tiny_model):
    got = position_similarity(tiny_model(position_embedding="sincos2d", image_size=None,
                                         position_grid=(3, 5)))  # fmt: skip
    assert got.shape == (3, 5, 3, 5)
    assert got[0, 0, 0, 1] > got[0, 0, 0, 3]
    with pytest.raises(ValueError, match="adds no positions"):
        position_similarity(tiny_model(position_embedding="none"))


@pytest.mark.parametrize(("arguments", "shape"), [({}, (4, 4, 3)),
                                                  ({"patch_size": (2, 4)}, (2, 4, 3))])  # fmt: skip
def test_filters_are_the_principal_components(tiny_model, arguments, shape):
    model = tiny_model(**arguments)
    kernel = np.asarray(model.get_layer("patch_embedding").projection.kernel, np.float64)
    covariance = np.cov(kernel.reshape(-1, 16))  # [values, values]
    _, axes = np.linalg.eigh(covariance)
    got = patch_filters(model, 6)
    assert got.shape == (6, *shape)
    for index in range(6):
        want = axes[:, -1 - index].reshape(shape)
        want = want * np.sign(want.flat[np.abs(want).argmax()])
        np.testing.assert_allclose(got[index], want, rtol=0, atol=1e-5)
    assert got.reshape(6, -1).max(1) == pytest.approx(np.abs(got.reshape(6, -1)).max(1))


def test_filters_that_are_not_there_are_refused(tiny_model):
    for components in (0, 17, 2.5):
        with pytest.raises(ValueError, match="from 1 to 16"):
            patch_filters(tiny_model(), components)
    with pytest.raises(ValueError, match="convolutional stem"):
        patch_filters(
            tiny_model(stem={"type": "conv", "filters": [4, 8], "strides": [2, 2]}, image_size=64)
        )


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"image_size": (8, 20), "register_tokens": 2},
        {"class_token": False, "pooling": "map"},
        {"dtype": "mixed_bfloat16"},
    ],
)
def test_features_are_three_components_over_all_images(tiny_model, arguments):
    model = tiny_model(**arguments)
    images = images_for(model, batch=18)
    got = feature_map(model, images)
    assert got.shape == (18, *model.grid, 3)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got.min((0, 1, 2)), 0)
    np.testing.assert_array_equal(got.max((0, 1, 2)), 1)
    tokens = keras.Model(model.input, model._pooling_input)(images)
    tokens = np.asarray(keras.ops.cast(tokens, "float32"), np.float64)
    tokens = tokens[:, model.num_prefix_tokens :].reshape(-1, 16)
    _, axes = np.linalg.eigh(np.cov(tokens.T))
    for channel in range(3):
        scores = tokens @ axes[:, -1 - channel]
        assert abs(np.corrcoef(scores, got[..., channel].ravel())[0, 1]) > 1 - 1e-6
    assert np.abs(feature_map(model, images, block=0) - got).max() > 0.01
    np.testing.assert_array_equal(
        feature_map(model, images, block=1), feature_map(model, images, block=-1)
    )


def test_features_of_few_patches_and_other_sizes(tiny_model):
    model = tiny_model(image_size=8, patch_size=8)
    got = feature_map(model, images_for(model, batch=2))  # two tokens: one component
    assert sorted(got[..., 0].ravel()) == [0, 1]
    np.testing.assert_array_equal(got[..., 1:], 0.5)
    model = tiny_model(image_size=None, position_grid=(4, 4))
    assert feature_map(model, images_for(model, size=(8, 24))).shape == (2, 2, 6, 3)
    for block in (2, -3, 0.5):
        with pytest.raises(ValueError, match="from -2 to 1"):
            feature_map(model, images_for(model, size=(8, 24)), block)
    with pytest.raises(ValueError, match="at least one image"):
        feature_map(model, np.zeros((0, 8, 24, 3), "float32"))


class OnePatch:
    """A model that sees only whether the pixels of the patch in row 1, column 2 are lit."""

    num_classes, pixels_per_patch = 2, (4, 2)

    def check_images(self, images):
        pass

    def __call__(self, images, training=None):
        lit = keras.ops.mean(images[:, 4:8, 4:6], (1, 2, 3))
        return keras.ops.stack([lit, -lit], 1)


def test_the_deletion_curve_falls_where_the_map_says():
    images = np.ones((3, 8, 6, 3), "float32")
    maps = np.zeros((3, 2, 3))
    maps[:, 1, 2] = 1
    by_map, by_chance = deletion_curve(OnePatch(), images, 0, maps, fill=0, num_random=200)
    lit = np.exp(1) / (np.exp(1) + np.exp(-1))
    np.testing.assert_allclose(by_map, [lit] + 6 * [0.5], rtol=1e-6)
    np.testing.assert_allclose(by_chance, np.linspace(lit, 0.5, 7), atol=0.02)
    last, _ = deletion_curve(OnePatch(), images, [0, 0, 0], -maps, fill=0)
    np.testing.assert_allclose(last, 6 * [lit] + [0.5], rtol=1e-6)
    images[:, 0] = 0  # the mean is 7 / 8
    *_, mean = deletion_curve(OnePatch(), images, 0, maps)[0]
    np.testing.assert_allclose(mean, 1 / (1 + np.exp(-2 * 7 / 8)), rtol=1e-6)
    np.testing.assert_array_equal(images[:, 1:], 1)  # the caller's own stay as they are


def test_maps_that_do_not_fit_are_refused(tiny_model):
    model = tiny_model()
    with pytest.raises(ValueError, match=r"= \[2, 4, 4\]"):
        deletion_curve(model, images_for(model), 0, np.zeros((2, 4, 5)))
    with pytest.raises(ValueError, match="no head"):
        deletion_curve(tiny_model(num_classes=0), images_for(model), 0, np.zeros((2, 4, 4)))


def test_what_attribution_ranks_highest_is_what_the_answer_was_made_of():
    """A model that learns to name the colour of one patch, wherever it is."""
    keras.utils.set_random_seed(0)
    model = keras_vit.VisionTransformer(
        16, 4, hidden_dim=32, depth=2, num_heads=2, num_classes=3, position_embedding="none"
    )
    rng = np.random.default_rng(0)

    def examples(count):
        images = rng.normal(0, 0.1, (count, 16, 16, 3)).astype("float32")
        labels, rows, columns = rng.integers(0, [[3], [4], [4]], (3, count))
        for image, label, row, column in zip(images, labels, rows, columns, strict=True):
            image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4, label] += 1
        return images, labels, 4 * rows + columns

    images, labels, _ = examples(2048)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    model.fit(images, labels, batch_size=64, epochs=4, verbose=0)

    images, labels, places = examples(64)
    maps = attribution(model, images, labels)
    assert (maps.reshape(64, -1).argmax(1) == places).mean() > 0.9
    by_map, by_chance = deletion_curve(model, images, labels, maps, fill=0)
    assert by_map.mean() < 0.8 * by_chance.mean()
    assert by_map[0] > 0.9
    assert by_map[-1] < 0.6
    np.testing.assert_allclose(by_chance[[0, -1]], by_map[[0, -1]], rtol=1e-5)
