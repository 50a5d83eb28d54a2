"""Every named step, and the maps of single layers, against numpy in float64."""

import keras
import numpy as np
import pytest
from reference import forward

import keras_vit
from keras_vit.explain import class_attention, mean_attention_distance

STEM = {"type": "conv", "filters": [4, 8], "strides": [2, 2]}
KINDS = [
    ({}, ["prefix_tokens", "norm"], 2),
    ({"pre_norm": True, "register_tokens": 2}, ["prefix_tokens", "pre_norm", "norm"], 2),
    ({"class_token": False, "pooling": "map"}, ["norm", "pooling_attention"], 2),
    ({"pooling": "avg", "fc_norm": True}, ["prefix_tokens", "norm"], 2),
    ({"distillation_token": True, "final_norm": False}, ["prefix_tokens"], 2),
    ({"block": "twin", "dropout_rate": 0.5}, ["prefix_tokens", "norm"], 4),
    ({"attention": "differential", "representation_size": 8}, ["prefix_tokens", "norm"], 2),
    ({"num_classes": 0, "dtype": "mixed_bfloat16"}, ["prefix_tokens", "norm"], 2),
    ({"stem": STEM, "image_size": 64, "patch_size": 4}, ["stem", "prefix_tokens", "norm"], 2),
]


def images_for(model, batch=2, size=None):
    shape = (batch, *(size or model.image_size), 3)
    return np.random.default_rng(0).uniform(-1, 1, shape).astype("float32")


def attention_in_numpy(model, images):
    attention = []
    forward(model, images, attention)
    return attention


@pytest.mark.parametrize(("arguments", "extra", "heads"), KINDS)
def test_every_step_has_its_name_and_shape(tiny_model, arguments, extra, heads):
    model = tiny_model(position_embedding="none", **arguments)
    images = images_for(model)
    steps = keras_vit.intermediates(model, images)
    always = ["patch_embedding", "pooling", "pre_logits", "logits"]
    blocks = ["attention_00", "block_00", "attention_01", "block_01"]
    assert sorted(steps) == sorted([*always, *blocks, *extra])
    tokens = 16 + model.num_prefix_tokens
    assert steps["patch_embedding"].shape == (2, 4, 4, 16)
    for name in ("attention_00", "attention_01"):
        assert steps[name].shape == (2, heads, tokens, tokens)
        if "attention" not in arguments:
            sums = np.asarray(keras.ops.cast(steps[name], "float32")).sum(-1)
            np.testing.assert_allclose(sums, 1, atol=2e-2 if "dtype" in arguments else 1e-5)
    for name in {"prefix_tokens", "pre_norm", "block_00", "block_01"} & set(steps):
        assert steps[name].shape == (2, tokens, 16)
    np.testing.assert_array_equal(steps["logits"], model(images))
    representation = model.representation_model()(images)
    np.testing.assert_array_equal(*(keras.ops.cast(x, "float32") for x in
                                    (steps["pre_logits"], representation)))  # fmt: skip
    order = list(steps)
    assert order.index("attention_01") == order.index("block_01") - 1
    assert order[-2:] == ["pre_logits", "logits"]


@pytest.mark.parametrize("arguments", [{}, {"image_size": (8, 20), "register_tokens": 2}])
def test_the_attention_is_what_numpy_gives(tiny_model, arguments):
    model = tiny_model(**arguments)
    images = images_for(model)
    steps = keras_vit.intermediates(model, images)
    for index, want in enumerate(attention_in_numpy(model, images)):
        np.testing.assert_allclose(steps[f"attention_{index:02d}"], want, rtol=0, atol=1e-5)
    positions = model.get_layer("position_embedding").table
    np.testing.assert_allclose(
        steps["position_embedding"] - steps["patch_embedding"],
        np.broadcast_to(np.reshape(positions, (1, *model.grid, 16)), (2, *model.grid, 16)),
        atol=1e-5,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"image_size": (8, 20), "register_tokens": 2},
        {"image_size": (20, 8), "distillation_token": True},
        {"class_token": False, "pooling": "avg"},
        {"image_size": (8, 20), "pooling": "avg"},
        {"image_size": (8, 20), "class_token": False, "pooling": "map"},
        {"pooling": "map", "register_tokens": 1},
    ],
)
def test_class_attention_is_what_numpy_gives(tiny_model, arguments):
    model = tiny_model(activation="gelu_tanh", **arguments)
    images = images_for(model)
    prefix, last = model.num_prefix_tokens, attention_in_numpy(model, images)[-1]
    if model.has_distillation_head:
        want = last[:, :, :2, prefix:].mean(2)
    elif arguments.get("pooling") == "map":
        want = last[:, :, 0]
    elif arguments.get("pooling") == "avg":
        want = last[:, :, prefix:, prefix:].mean(2)
    else:
        want = last[:, :, 0, prefix:]
    got = class_attention(model, images)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want.reshape(2, 2, *model.grid), rtol=0, atol=1e-5)
    assert (got >= 0).all()
    if arguments.get("pooling") == "map" or not prefix:
        np.testing.assert_allclose(got.sum((2, 3)), 1, atol=1e-5)


@pytest.mark.parametrize(("arguments", "_", "heads"), KINDS)
def test_every_kind_of_model_has_maps_and_distances(tiny_model, arguments, _, heads):
    model = tiny_model(**arguments)
    images = images_for(model)
    assert class_attention(model, images).shape == (2, heads, 4, 4)
    distances = mean_attention_distance(model, images)
    assert distances.shape == (2, heads)
    assert (distances > 0).all()
    side = images.shape[1]
    assert (distances < side).all()


@pytest.mark.parametrize(
    "arguments",
    [{}, {"image_size": (12, 20), "patch_size": (6, 4), "register_tokens": 2, "depth": 3}],
)
def test_the_distance_is_what_numpy_gives(tiny_model, arguments):
    model = tiny_model(**arguments)
    images = images_for(model, batch=18)  # more than are looked at together
    prefix, (rows, columns) = model.num_prefix_tokens, model.grid
    height, width = model.patch_size
    centres = [(y * height, x * width) for y in range(rows) for x in range(columns)]
    between = np.array([[np.hypot(a - c, b - d) for c, d in centres] for a, b in centres])
    want = []
    for weights in attention_in_numpy(model, images):
        weights = weights[:, :, prefix:, prefix:]
        weights = weights / weights.sum(-1, keepdims=True)
        want.append((weights * between).sum(-1).mean((0, 2)))
    got = mean_attention_distance(model, images)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_the_distance_of_heads_that_look_at_themselves_and_at_all_alike(tiny_model):
    model = tiny_model(class_token=False, pooling="avg", position_embedding="none", depth=1,
                       num_heads=1)  # fmt: skip
    attention = model.blocks[0].attention
    attention.qkv.bias.assign(np.zeros(48))
    attention.qkv.kernel.assign(np.zeros((16, 48)))  # every logit is zero
    images = images_for(model)
    grid = np.indices((4, 4)).reshape(2, -1).T * 4.0
    everywhere = np.linalg.norm(grid[:, None] - grid, axis=-1).mean()
    np.testing.assert_allclose(mean_attention_distance(model, images), [[everywhere]], 1e-5)
    kernel = np.zeros((16, 48), "float32")
    kernel[:, :32] = 100 * np.tile(np.eye(16), 2)  # query and key are the token itself
    attention.qkv.kernel.assign(kernel)
    model.blocks[0].norm1.gamma.assign(np.ones(16))  # all of one length
    model.blocks[0].norm1.beta.assign(np.zeros(16))
    np.testing.assert_allclose(mean_attention_distance(model, images), 0, atol=1e-3)


def test_images_that_do_not_fit_are_refused(tiny_model):
    model = tiny_model()
    for function in (keras_vit.intermediates, class_attention, mean_attention_distance,
                     keras_vit.attention_rollout):  # fmt: skip
        with pytest.raises(ValueError, match="takes 16 x 16 x 3"):
            function(model, np.zeros((1, 8, 16, 3), "float32"))
    with pytest.raises(ValueError, match="at least one image"):
        mean_attention_distance(model, np.zeros((0, 16, 16, 3), "float32"))
    any_size = tiny_model(image_size=None, position_grid=(4, 4))
    images = images_for(any_size, size=(8, 24))
    assert class_attention(any_size, images).shape == (2, 2, 2, 6)
    assert mean_attention_distance(any_size, images).shape == (2, 2)
