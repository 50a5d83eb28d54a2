"""The options beyond the paper: each is saved, differentiable, and works at reduced precision."""

import numpy as np
import pytest
import tensorflow as tf

import keras_vit
from keras_vit.lora import add_lora

GATED = {"gated_mlp": True, "activation": "silu"}
CASES = {
    "registers and layer scale": {"register_tokens": 2, "init_values": 0.5},
    "positions for patches only": {"no_embed_class": True, "register_tokens": 1},
    "distillation": {"distillation_token": True},
    "distillation without its head": {"distillation_token": True, "distillation_head": False},
    "norms everywhere": {
        "qk_norm": True, "scale_attn_norm": True, "scale_mlp_norm": True, "pre_norm": True,
        "patch_norm": True,
    },
    "RMS norm, no biases": {
        "norm": "rms_norm", "qkv_bias": False, "proj_bias": False, "patch_bias": False,
    },
    "no final norm": {"final_norm": False},
    "norm after the pooling": {"fc_norm": True, "pooling": "avg"},
    "gated MLP": GATED | {"mlp_dim": 24},
    "quick GELU": {"activation": "quick_gelu"},
    "post-norm": {"block": "post_norm", "init_values": 0.1},
    "parallel": {"block": "parallel", "qkv_bias": False, "init_values": 0.1},
    "twin": {"block": "twin", "init_values": 0.1},
    "differential": {"attention": "differential"},
    "parallel differential": {"block": "parallel", "attention": "differential", "qk_norm": True},
    "attention pooling": {"pooling": "map", "class_token": False},
    "attention pooling over all": {"pooling": "map", "pool_include_prefix": True},
    "maximum": {"pooling": "max"},
    "mean of mean and maximum": {"pooling": "avgmax"},
    "token and mean": {"pooling": "token_avg"},
    "resnetv2": {"stem": {"type": "resnetv2", "depths": (1, 1)}, "patch_size": 1},
    "resnetv2 root": {"stem": {"type": "resnetv2", "depths": ()}, "patch_size": 2},
    "resnetd": {"stem": {"type": "resnetd", "depths": (1, 1)}, "patch_size": 1},
    "conv": {"stem": {"type": "conv", "filters": (8, 8), "strides": (2, 2)}, "patch_size": 1},
    "remainder": {"image_size": (18, 19), "allow_remainder": True},
}  # fmt: skip


def images_for(model, seed=0):
    shape = (2, *(model.image_size or (16, 16)), 3)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype("float32")


@pytest.mark.parametrize("case", CASES)
def test_saved_and_opened_bit_by_bit(tiny_model, tmp_path, case):
    model = tiny_model(**CASES[case])
    for variable in model.non_trainable_variables:  # the statistics of batch normalisation too
        if variable.path.endswith(("moving_mean", "moving_variance")):
            variable.assign(variable + 0.3)
    model.save(tmp_path / "model.keras")
    again = keras_vit.load_model(tmp_path)
    x = images_for(model)
    np.testing.assert_array_equal(again(x), model(x))
    first, second = again.get_config(), model.get_config()
    assert {**first, "stem": 0} == {**second, "stem": 0}


@pytest.mark.parametrize("case", CASES)
def test_every_parameter_gets_a_gradient(tiny_model, case):
    model = tiny_model(**CASES[case])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.cast(model(images_for(model), training=True), "float32") ** 3)
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert gradient is not None, variable.path
        assert np.any(np.asarray(gradient) != 0), variable.path


@pytest.mark.parametrize("case", CASES)
def test_mixed_precision(tiny_model, case):
    model = tiny_model(**CASES[case])
    mixed = keras_vit.VisionTransformer.from_config(
        model.get_config() | {"dtype": "mixed_bfloat16"}
    )
    mixed.set_weights(model.get_weights())
    outputs = mixed(images_for(model))
    assert outputs.dtype == "float32"
    scale = np.std(model(images_for(model)))
    np.testing.assert_allclose(outputs, model(images_for(model)), atol=0.3 * scale + 0.1)


@pytest.mark.parametrize("case", ["twin", "parallel differential", "attention pooling", "resnetd"])
def test_lora_freezes_all_but_its_updates(tiny_model, case):
    model = tiny_model(**CASES[case])
    add_lora(model, 2)
    paths = {variable.path.rsplit("/", 1)[-1] for variable in model.trainable_variables}
    assert paths == {"lora_kernel_a", "lora_kernel_b", "kernel", "bias"}  # the last two of the head
    heads = [v for v in model.trainable_variables if v.path.startswith("head/")]
    assert len(heads) == 2


@pytest.mark.parametrize(
    "case", ["registers and layer scale", "attention pooling", "resnetv2 root"]
)
def test_any_image_size(tiny_model, case):
    options = CASES[case] | {"image_size": None, "position_grid": (4, 4)}
    if "stem" in options:
        options["position_grid"] = (2, 2)
    model = tiny_model(**options)
    fixed = tiny_model(**CASES[case])
    fixed.set_weights(model.get_weights())
    x = images_for(fixed)
    np.testing.assert_allclose(model(x), fixed(x), atol=1e-5)
    wide = np.zeros([1, 32, 48, 3], "float32")
    graph = tf.function(model, input_signature=[tf.TensorSpec([None, None, None, 3])])
    np.testing.assert_allclose(graph(wide), model(wide), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"block": "swin"}, "block must be one of"),
        ({"norm": "batch"}, "norm must be one of"),
        ({"attention": "linear"}, "attention must be"),
        ({"stem": {"type": "vgg"}}, "must be one of"),
        ({"distillation_token": True, "pooling": "avg"}, "needs class_token"),
        ({"attention": "differential", "num_heads": 16}, "halves each head"),
        ({"position_resampling": "nearest"}, "resampling must be one of"),
        ({"position_grid": (3, 3)}, r"position_grid=\(3, 3\) is not the \(4, 4\)"),
    ],
)
def test_wrong_arguments_are_named(tiny_model, arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(**arguments)
