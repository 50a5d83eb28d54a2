"""Attention rollout, against numpy in float64 and for every kind of model."""

import keras
import numpy as np
import pytest
from reference import forward

import keras_vit


def images_for(model, batch=2, size=None):
    shape = (batch, *(size or model.image_size), 3)
    return np.random.default_rng(0).uniform(-1, 1, shape).astype("float32")


def rollout_in_numpy(model, images):
    """Abnar & Zuidema (2020), float64 [B, T, T]."""
    attention = []
    forward(model, images, attention)
    product = np.eye(attention[0].shape[-1])
    for weights in attention:
        product = (0.5 * weights.mean(1) + 0.5 * np.eye(weights.shape[-1])) @ product
    return product


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"register_tokens": 3},
        {"image_size": (12, 20), "patch_size": (6, 4)},
        {"image_size": (12, 20), "patch_size": 4, "register_tokens": 2, "depth": 3},
    ],
)
def test_the_class_token_row_is_what_numpy_gives(tiny_model, arguments):
    model = tiny_model(**arguments)
    images = images_for(model)
    row = rollout_in_numpy(model, images)[:, 0, model.num_prefix_tokens :]
    got = np.asarray(keras_vit.attention_rollout(model, images))
    assert got.shape == (2, *model.grid)
    np.testing.assert_allclose(got, row.reshape(got.shape), rtol=0, atol=1e-6)


@pytest.mark.parametrize("prefix", [{}, {"class_token": False}, {"register_tokens": 2}])
def test_without_a_pooled_class_token_it_is_the_mean_of_the_patches(tiny_model, prefix):
    model = tiny_model(pooling="avg", image_size=(12, 20), **prefix)
    images = images_for(model)
    first = model.num_prefix_tokens
    rows = rollout_in_numpy(model, images)[:, first:, first:].mean(1)
    got = np.asarray(keras_vit.attention_rollout(model, images))
    np.testing.assert_allclose(got, rows.reshape(got.shape), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [
        {"pooling": "map", "class_token": False},
        {"distillation_token": True},
        {"block": "parallel"},
        {"block": "twin"},
        {"block": "post_norm", "init_values": 1.0},
        {"attention": "differential", "num_heads": 2},
        {"dtype": "mixed_bfloat16"},
        {"pooling": "max"},
    ],
)
def test_every_kind_of_model_has_one(tiny_model, arguments):
    model = tiny_model(**arguments)
    got = np.asarray(keras_vit.attention_rollout(model, images_for(model)))
    assert got.dtype == np.float32
    assert got.shape == (2, 4, 4)
    assert (got >= 0).all()
    total = got.sum((1, 2))
    assert (total > 0.3).all()
    assert (total < 1 + 1e-2).all()


def test_all_of_a_pooling_query_over_the_patches_is_found_again(tiny_model):
    model = tiny_model(pooling="map", class_token=False)
    got = np.asarray(keras_vit.attention_rollout(model, images_for(model)))
    np.testing.assert_allclose(got.sum((1, 2)), 1, atol=1e-5)


def test_a_model_of_any_size_gives_the_grid_of_the_images(tiny_model):
    model = tiny_model(image_size=None, position_grid=(4, 4))
    images = images_for(model, size=(8, 24))
    assert keras_vit.attention_rollout(model, images).shape == (2, 2, 6)


def test_a_patch_that_all_heads_look_at_stands_out(tiny_model):
    """Queries and keys that agree only on one patch: the map has its peak there."""
    model = tiny_model(depth=1, position_embedding="none")
    attention = model.blocks[0].attention
    kernel = np.zeros(attention.qkv.kernel.shape, "float32")
    kernel[:, 16:32] = np.eye(16)  # keys are the tokens themselves
    attention.qkv.kernel.assign(kernel)
    images = images_for(model, batch=1)
    tokens = model.get_layer("patch_embedding")(images)
    tokens = np.asarray(model.blocks[0].norm1(tokens)).reshape(16, 16)
    bias = np.zeros(48, "float32")
    bias[:16] = 20 * tokens[9]  # every query is the ninth patch
    attention.qkv.bias.assign(bias)
    got = np.asarray(keras_vit.attention_rollout(model, images))[0]
    assert np.unravel_index(got.argmax(), got.shape) == (2, 1)


def test_the_model_stays_as_it_was(tiny_model, tmp_path):
    model = tiny_model()
    images = images_for(model)
    before = keras_vit.attention_rollout(model, images)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(keras_vit.attention_rollout(loaded, images), before, atol=1e-6)
