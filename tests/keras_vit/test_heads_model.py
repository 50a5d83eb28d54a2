"""The model without work on tokens that no head sees: the same logits and the same gradients."""

import numpy as np
import pytest
import tensorflow as tf

from keras_vit import VisionTransformer
from keras_vit.layers import EncoderBlock

KINDS = [
    {},
    {"block": "post_norm", "init_values": 0.5},
    {"block": "parallel", "register_tokens": 2, "init_values": 0.5},
    {"block": "twin", "qk_norm": True},
    {"attention": "differential", "scale_attn_norm": True, "scale_mlp_norm": True},
    {"distillation_token": True},
    {"qkv_bias": False},
    {"pooling": "avg"},
    {"pooling": "map", "class_token": False},
    {"image_size": None, "position_embedding": "sincos2d"},
]


def _model(**arguments):
    arguments = {"image_size": 32, "patch_size": 8, "depth": 2} | arguments
    model = VisionTransformer(hidden_dim=16, num_heads=2, num_classes=3, **arguments)
    random = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign_add(random.normal(0, 0.3, variable.shape))
    return model


def _images():
    return np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype(np.float32)


@pytest.mark.parametrize("arguments", KINDS, ids=str)
@pytest.mark.parametrize("training", [False, True])
def test_it_gives_the_logits_of_the_model(arguments, training):
    model, images = _model(**arguments), _images()
    heads = model.heads_model()
    assert len(heads.outputs) == 1 + model.has_distillation_head
    expected = model(images, training=training)
    mean = np.mean(tf.nest.flatten(heads(images, training=training)), axis=0)
    np.testing.assert_allclose(mean, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arguments", KINDS, ids=str)
@pytest.mark.parametrize("remat", [False, True])
def test_it_gives_the_gradients_of_the_model(arguments, remat):
    model, images = _model(**arguments), _images()
    heads = model.heads_model()
    for block in model.blocks:
        block.remat = remat
    variables = [variable.value for variable in model.trainable_variables]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.math.sin(model(images, training=True)))
    expected = tape.gradient(loss, variables)
    with tf.GradientTape() as tape:
        logits = tf.nest.flatten(heads(images, training=True))
        loss = tf.reduce_sum(tf.math.sin(tf.add_n(logits) / len(logits)))
    for found, wanted in zip(tape.gradient(loss, variables), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


def test_the_last_block_computes_only_the_tokens_that_are_seen():
    model = _model(distillation_token=True)
    calls = []
    model.blocks[-1].mlp.call = lambda x, training=None: calls.append(x.shape) or x
    model.heads_model()(_images())
    assert calls == [(2, 2, 16)]


def test_a_block_knows_the_shape_of_the_first_tokens():
    block = EncoderBlock(num_heads=2, mlp_dim=32)
    model = VisionTransformer(32, 8, hidden_dim=16, depth=1, num_heads=2)
    assert block(model._block_inputs[0], seen=3).shape == (None, 3, 16)
    assert block(tf.zeros([1, 17, 16]), seen=3).shape == (1, 3, 16)


def test_weights_in_the_place_of_attention_may_come_with_tokens_seen():
    block = EncoderBlock(num_heads=2, mlp_dim=32)
    x = tf.random.stateless_normal([1, 5, 8], [0, 1])
    block.build(x.shape)
    weights = block.attention_weights(x)
    np.testing.assert_allclose(block(x, weights=weights, seen=2), block(x)[:, :2], atol=1e-5)
