"""Gradient-weighted rollout: against numpy in float64, and for every kind of block."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from reference import forward

from keras_vit.explain import attribution
from keras_vit.explain.steps import head_shares
from keras_vit.layers import AttentionPooling

KINDS = [
    {"block": "post_norm", "init_values": 1.0},
    {"block": "parallel", "norm": "rms_norm"},
    {"block": "twin", "init_values": 0.5},
    {"block": "pre_norm", "init_values": 0.5, "qk_norm": True},
    {"attention": "differential", "num_heads": 2},
    {"attention": "differential", "block": "parallel", "num_heads": 2},
    {"scale_attn_norm": True, "scale_mlp_norm": True, "gated_mlp": True, "activation": "silu"},
    {"pre_norm": True, "final_norm": False},
    {"pooling": "avg", "fc_norm": True, "representation_size": 8},
    {"pooling": "max"},
    {"pooling": "token_avg", "register_tokens": 2},
    {"pooling": "map", "class_token": False},
    {"pooling": "map", "register_tokens": 2, "pool_include_prefix": True},
    {"distillation_token": True},
]


def images_for(model, batch=2, size=None):
    shape = (batch, *(size or model.image_size), 3)
    return np.random.default_rng(0).uniform(-1, 1, shape).astype("float32")


def gradient_in_numpy(model, image, index, weights, class_id, epsilon=1e-5):
    """Central differences of a logit over each entry of one attention [1, H, Q, T]."""
    count = weights.size
    nudges = epsilon * np.eye(count).reshape(count, *weights.shape[1:])
    batch = np.concatenate([weights + nudges, weights - nudges])
    logits = forward(model, np.repeat(image, 2 * count, 0), given={index: batch})[:, class_id]
    return ((logits[:count] - logits[count:]) / (2 * epsilon)).reshape(weights.shape)


def attribution_in_numpy(model, image, class_id):
    """Chefer et al. (2021), equations 5 and 6, for one image: float64 [H, W]."""
    attention = []
    forward(model, image, attention)
    steps = []
    for index, weights in enumerate(attention):
        gradient = gradient_in_numpy(model, image, index, weights, class_id)
        steps.append(np.maximum(gradient * weights, 0)[0].mean(0))
    relevance = np.eye(attention[0].shape[-1])
    for step in steps[: len(model.blocks)]:
        relevance = relevance + step @ relevance
    prefix, pooling = model.num_prefix_tokens, model.get_config()["pooling"]
    if pooling == "map":
        row = steps[-1][0] @ relevance[prefix:]
    elif pooling == "avg":
        row = relevance[prefix:].mean(0)
    else:
        row = relevance[: 1 + model.has_distillation_head].mean(0)
    return row[prefix:].reshape(model.grid)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"image_size": (8, 20), "register_tokens": 2, "depth": 3},
        {"image_size": (12, 20), "patch_size": (6, 4), "pooling": "avg"},
        {"class_token": False, "pooling": "avg", "representation_size": 8},
        {"image_size": (8, 20), "class_token": False, "pooling": "map"},
        {"pooling": "map", "register_tokens": 1, "seed": 1},
        {"image_size": (20, 8), "distillation_token": True},
    ],
)
def test_it_is_what_numpy_gives(tiny_model, arguments):
    model = tiny_model(activation="gelu_tanh", **arguments)
    for variable in model.get_layer("head").weights:  # a gradient that can be seen
        variable.assign(10 * variable)
    images = images_for(model)
    got = attribution(model, images, [1, 4])
    assert got.dtype == np.float32
    assert got.shape == (2, *model.grid)
    for i, class_id in enumerate((1, 4)):
        want = attribution_in_numpy(model, images[i : i + 1], class_id)
        np.testing.assert_allclose(got[i], want, rtol=0, atol=1e-5 * want.max())
        assert want.std() > 1e-4 * want.max()  # there is something to be wrong about


class Recorder:
    """Stands where the dropout of the attention weights was, and keeps what goes through."""

    def __init__(self):
        self.seen = []

    def __call__(self, weights, training=None):
        self.seen.append(weights)
        return weights


@pytest.mark.parametrize("arguments", KINDS)
def test_the_gradient_is_that_of_the_whole_model(tiny_model, arguments, monkeypatch):
    """For every kind of block: the model itself is run, and its own attention looked at."""
    model = tiny_model(**arguments)
    images = images_for(model)
    got = attribution(model, images, 2)

    recorder = Recorder()
    for block in model.blocks:
        for name in ("attention", "attention2"):
            if attention := getattr(block, name, None):
                monkeypatch.setattr(attention, "attention_dropout", recorder)
    pooling = model.get_layer("pooling")
    if isinstance(pooling, AttentionPooling):
        own = pooling.attention_weights
        monkeypatch.setattr(
            pooling, "attention_weights", lambda x: recorder(own(x)[:, :, None])[:, :, 0]
        )
    with tf.GradientTape() as tape:
        x = tf.constant(images)
        tape.watch(x)
        logit = tf.reduce_sum(model(x)[:, 2])
    products = [
        np.maximum(weights.numpy() * gradient.numpy(), 0)
        for weights, gradient in zip(
            recorder.seen, tape.gradient(logit, recorder.seen), strict=True
        )
    ]
    if arguments.get("block") == "twin":
        products = [np.concatenate(products[i : i + 2], 1) for i in range(0, len(products), 2)]
    relevance = np.eye(products[0].shape[-1])[None]
    for product in products[: len(model.blocks)]:
        relevance = relevance + product.mean(1) @ relevance
    if isinstance(pooling, AttentionPooling):
        row = products[-1].mean(1) @ relevance[:, pooling.num_skipped_tokens :]
    else:
        row = np.asarray(_shares(model, images)) @ relevance
    want = row[:, 0, model.num_prefix_tokens :].reshape(got.shape)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-7)
    assert (got >= 0).all()
    assert got.std() > 0


def _shares(model, images):
    steps = keras.Model(model.input, model._pooling_input)
    return head_shares(model, steps(images))


@pytest.mark.parametrize("arguments", [{}, *KINDS])
def test_a_block_of_its_own_attention_is_the_block(tiny_model, arguments):
    model = tiny_model(**arguments)
    x = np.random.default_rng(0).normal(size=(2, 7, model.hidden_dim)).astype("float32")
    for block in model.blocks:
        np.testing.assert_allclose(
            block(x, weights=block.attention_weights(x)), block(x), rtol=1e-5, atol=1e-6
        )
        uniform = keras.ops.ones_like(block.attention_weights(x)) / 7
        assert np.abs(block(x, weights=uniform) - block(x)).max() > 1e-4


def test_the_class_is_the_predicted_one_unless_given(tiny_model):
    model = tiny_model()
    images = images_for(model, batch=3)
    predicted = np.argmax(model(images), -1)
    np.testing.assert_array_equal(attribution(model, images), attribution(model, images, predicted))
    other = attribution(model, images, (predicted + 1) % 5)
    assert np.abs(other - attribution(model, images)).max() > 1e-4


def test_images_do_not_meet(tiny_model):
    model = tiny_model()
    images = images_for(model, batch=3)
    one_by_one = [attribution(model, images[i : i + 1], 1)[0] for i in range(3)]
    np.testing.assert_allclose(attribution(model, images, 1), one_by_one, rtol=1e-5, atol=1e-7)


def test_models_of_any_size_and_dtype(tiny_model):
    model = tiny_model(image_size=None, position_grid=(4, 4))
    assert attribution(model, images_for(model, size=(8, 24))).shape == (2, 2, 6)
    single, mixed = tiny_model(), tiny_model(dtype="mixed_bfloat16")
    got = attribution(mixed, images_for(mixed), 1)
    assert got.dtype == np.float32
    want = attribution(single, images_for(single), 1)
    np.testing.assert_allclose(got, want, atol=0.1 * want.max())


def test_what_cannot_be_explained_is_refused(tiny_model):
    model = tiny_model()
    images = images_for(model)
    for class_ids in (5, -1, [0, 1, 2], 0.5, [0, 5]):
        with pytest.raises(ValueError, match=r"class_ids must be"):
            attribution(model, images, class_ids)
    with pytest.raises(ValueError, match="no head"):
        attribution(tiny_model(num_classes=0), images)
    with pytest.raises(ValueError, match="takes 16 x 16 x 3"):
        attribution(model, images[:, :8])
