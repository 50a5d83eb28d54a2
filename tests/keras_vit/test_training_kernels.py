"""What training computes in one pass equals what Keras computes in many."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_vit.layers import BLOCKS, LayerNorm, PatchEmbedding, RMSNorm
from keras_vit.layers.mlp import ACTIVATIONS
from keras_vit.layers.pooling import AttentionPooling
from keras_vit.layers.training_kernels import (
    activation_kernel,
    dense_kernel,
    norm_kernel,
    softmax_kernel,
    use_training_kernels,
)


def random(*shape, dtype="float32"):
    return tf.cast(np.random.default_rng(len(shape)).normal(size=shape), dtype)


def value_and_gradients(function, *inputs):
    """What comes out, and the gradients of a sum with uneven weights."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = function(*inputs)
        total = tf.reduce_sum(tf.cast(y, tf.float32) * random(*y.shape))
    return [y, *tape.gradient(total, inputs)]


def assert_same(found, expected, tolerance):
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        a, b = tf.cast(a, tf.float32).numpy(), tf.cast(b, tf.float32).numpy()
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, np.abs(b).max()))


@pytest.fixture(params=["float32", "bfloat16"])
def precision(request):
    return request.param, {"float32": 2e-6, "bfloat16": 2e-2}[request.param]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name, precision):
    dtype, tolerance = precision
    x = tf.concat([random(2, 5, 8), tf.constant([-12.0, 0.0, 12.0, 1e-3] * 2, shape=[1, 1, 8])
                   * tf.ones([2, 1, 1])], axis=1)  # fmt: skip
    x = tf.cast(x, dtype)
    found = value_and_gradients(activation_kernel(name), x)
    exact = value_and_gradients(ACTIVATIONS[name], tf.cast(x, tf.float32))
    assert_same(found, [tf.cast(t, dtype) for t in exact], tolerance)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_of_a_sum_with_a_bias(name, precision):
    dtype, tolerance = precision
    x, bias = random(2, 5, 8, dtype=dtype), random(8, dtype=dtype)
    found = value_and_gradients(activation_kernel(name), x, bias)
    wide = [tf.cast(t, tf.float32) for t in (x, bias)]
    exact = value_and_gradients(lambda x, bias: ACTIVATIONS[name](x + bias), *wide)
    assert_same(found, [tf.cast(t, dtype) for t in exact], tolerance)


@pytest.mark.parametrize("use_bias", [True, False])
def test_products(use_bias, precision):
    dtype, tolerance = precision
    given = [random(6, 5, dtype=dtype), random(5, 4, dtype=dtype) * 2]
    given += [random(4, dtype=dtype)] * use_bias

    def product(x, weights, bias=None):
        return dense_kernel(x, weights, bias)

    wide = [tf.cast(t, tf.float32) for t in given]
    exact = value_and_gradients(lambda x, w, bias=0.0: x @ w + bias, *wide)
    found = value_and_gradients(tf.function(product), *given)
    assert_same(found, [tf.cast(t, dtype) for t in exact], tolerance)


@pytest.mark.parametrize("kernel", ["dense", "activation"])
def test_the_gradient_of_a_bias_is_summed_in_float32(kernel):
    """In bfloat16, TensorFlow's own stops growing at 256 times what is added."""
    x, weights = tf.zeros([4096, 2], tf.bfloat16), tf.zeros([2, 3], tf.bfloat16)
    bias = tf.zeros(3 if kernel == "dense" else 2, tf.bfloat16)
    with tf.GradientTape() as tape:
        tape.watch(bias)
        if kernel == "dense":
            y = dense_kernel(x, weights, bias)
        else:
            y = activation_kernel("silu")(x, bias)
    expected = 4096.0 if kernel == "dense" else 2048.0  # the slope of silu at 0 is 1/2
    np.testing.assert_allclose(tf.cast(tape.gradient(y, bias), tf.float32), expected, rtol=4e-3)


def test_so_are_those_of_attention_pooling():
    tokens = random(4, 1024, 8)
    gradients = []
    for dtype in ("float32", "mixed_bfloat16"):
        keras.utils.set_random_seed(0)
        layer = AttentionPooling(num_heads=2, mlp_dim=16, dtype=dtype)
        layer.build(tokens.shape)
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(tf.cast(layer(tokens, training=True), tf.float32))
        gradients.append(tape.gradient(total, layer.v.bias.value))
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=0.05, atol=0.5)


def test_the_bias_stays_out_of_products_in_bfloat16():
    """oneDNN's kernel with a bias is half as fast there: the graph optimiser must not join them."""
    function = tf.function(lambda x, w, b: dense_kernel(x, w, b) * 2)
    given = [random(6, 5, dtype="bfloat16"), random(5, 4, dtype="bfloat16")]
    graph = function.get_concrete_function(*given, random(4, dtype="bfloat16")).graph
    assert "MatMul" not in {op.type for op in graph.get_operations()}


@pytest.mark.parametrize(("patch_size", "side"), [(4, 12), ((2, 4), 13), (5, 5)])
@pytest.mark.parametrize("use_bias", [True, False])
def test_patches_as_a_product(patch_size, side, use_bias):
    layer = PatchEmbedding(6, patch_size, use_bias=use_bias, allow_remainder=True)
    images = random(2, side, 12, 3)
    layer.build(images.shape)

    def plain(images, *weights, training=False):
        with keras.StatelessScope(list(zip(layer.weights, weights, strict=True))):
            return layer(images, training=training)

    weights = [random(*w.shape) for w in layer.weights]
    exact = value_and_gradients(plain, images, *weights)
    found = value_and_gradients(functools.partial(plain, training=True), images, *weights)
    assert_same(found, exact, 2e-6)
    for shape in ([None, side, 12, 3], [None, None, None, 3]):
        traced = tf.function(lambda x: layer(x, training=True), [tf.TensorSpec(shape)])
        np.testing.assert_allclose(traced(images), layer(images), atol=1e-5)
        expected = layer.compute_output_shape(tuple(shape))
        assert tuple(traced.get_concrete_function().output_shapes) == expected


@pytest.mark.parametrize("norm", [LayerNorm, RMSNorm])
@pytest.mark.parametrize("epsilon", [1e-6, 1e-2])
def test_norms(norm, epsilon, precision):
    dtype, tolerance = precision
    layer = norm(epsilon=epsilon)
    x = random(2, 3, 8, dtype=dtype) * 3 + 1
    layer.build(x.shape)
    weights = [tf.constant(random(8 + i)[:8]) for i in range(len(layer.weights))]

    def plain(x, *values):
        with keras.StatelessScope(list(zip(layer.weights, values, strict=True))):
            return layer(tf.cast(x, tf.float32), training=False)

    def kernel(x, gamma, beta=None):
        return norm_kernel(x, gamma, beta, layer.epsilon)

    exact = value_and_gradients(plain, tf.cast(x, tf.float32), *weights)
    exact[:2] = [tf.cast(t, dtype) for t in exact[:2]]
    assert_same(value_and_gradients(kernel, x, *weights), exact, tolerance)


def test_softmax(precision):
    dtype, tolerance = precision
    logits = random(2, 3, 5, 5, dtype=dtype) * 4
    exact = value_and_gradients(tf.nn.softmax, tf.cast(logits, tf.float32))
    found = value_and_gradients(softmax_kernel, logits)
    assert_same(found, [tf.cast(t, dtype) for t in exact], tolerance)


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_train_as_they_predict(name, norm, remat):
    block = BLOCKS[name](2, 16, norm=norm, qk_norm=True, scale_attn_norm=True, name="block")
    x = random(2, 5, 8)
    block.build(x.shape)
    for index, variable in enumerate(block.trainable_variables):
        variable.assign_add(0.1 * np.random.default_rng(index).normal(size=variable.shape))
    block.remat = remat

    @tf.function
    def gradients(training):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = block(x, training=training)
            total = tf.reduce_sum(y * random(*y.shape))
        return [y, *tape.gradient(total, [x, *(v.value for v in block.trainable_variables)])]

    assert use_training_kernels(True) == (not tf.config.list_logical_devices("GPU"))
    assert_same(gradients(True), gradients(False), 1e-5)


def test_a_batch_of_any_size_and_any_number_of_tokens():
    block = BLOCKS["pre_norm"](2, 16)
    block.build((None, None, 8))

    @tf.function(input_signature=[tf.TensorSpec([None, None, 8])])
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(block(x, training=True) ** 2)
        return tape.gradient(y, x)

    for shape in ((1, 3, 8), (4, 7, 8)):
        assert gradient(random(*shape)).shape == shape
