"""The model against a numpy reference, and its properties."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from reference import forward

import keras_vit
from keras_vit.layers import DropPath
from keras_vit.layers.position_embedding import sincos2d_table

REFERENCE_CASES = {
    "class token": {},
    "average pooling": {"class_token": False, "pooling": "avg"},
    "average pooling beside a class token": {"pooling": "avg"},
    "no qkv bias": {"qkv_bias": False},
    "a qk_scale": {"qk_scale": 0.3},
    "representation": {"representation_size": 7},
    "tanh gelu": {"activation": "gelu_tanh"},
    "no head": {"num_classes": 0},
    "no positions": {"position_embedding": "none"},
    "patch norm, no patch bias": {"patch_norm": True, "patch_bias": False},
    "registers": {"register_tokens": 2},
    "rectangles": {"image_size": (12, 20), "patch_size": (6, 4)},
    "mlp_dim": {"mlp_dim": 24},
    "mlp_ratio and epsilon": {"mlp_ratio": 2.5, "norm_epsilon": 1e-3},
}


def images_for(model, batch=3, seed=0):
    shape = (batch, *model.image_size, 3)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype("float32")


@pytest.mark.parametrize("case", REFERENCE_CASES)
def test_forward_agrees_with_numpy(tiny_model, case):
    model = tiny_model(**REFERENCE_CASES[case])
    images = images_for(model)
    np.testing.assert_allclose(model(images), forward(model, images), rtol=0, atol=1e-5)


def test_sincos_table_follows_the_published_formula():
    table = sincos2d_table((2, 3), 8)
    y, x, k = 1, 2, 1
    omega = 10_000.0 ** -(k / (8 // 4 - 1))
    row = table[y * 3 + x]
    expected = [np.sin(x * omega), np.cos(x * omega), np.sin(y * omega), np.cos(y * omega)]
    np.testing.assert_allclose(row[[k, 2 + k, 4 + k, 6 + k]], expected)


def test_sincos_positions_leave_the_class_token_alone(tiny_model):
    model = tiny_model(position_embedding="sincos2d")
    layer = model.get_layer("position_embedding")
    added = np.asarray(layer(np.zeros([1, 4, 4, 16], "float32"))).reshape(16, 16)
    np.testing.assert_allclose(added, sincos2d_table((4, 4), 16), atol=1e-6)
    assert not layer.trainable_variables
    assert model.get_layer("prefix_tokens").positions is None


def test_every_parameter_gets_a_gradient(tiny_model):
    model = tiny_model(representation_size=6, patch_norm=True, drop_path_rate=0.1)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(images_for(model), training=False) ** 2)
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert gradient is not None, variable.path
        # A key's bias shifts a whole row of logits, which softmax ignores: those may be zero.
        assert np.any(np.asarray(gradient) != 0), variable.path


def test_initial_values_are_those_of_the_paper_code():
    keras.utils.set_random_seed(0)
    model = keras_vit.VisionTransformer(32, 4, hidden_dim=64, depth=1, num_heads=4)
    values = {v.path: np.asarray(v) for v in model.variables}
    assert not values["head/kernel"].any()
    assert not values["head/bias"].any()
    assert not values["prefix_tokens/class_token"].any()
    assert not values["block_00/attention/qkv/bias"].any()
    assert values["position_embedding/position_embedding"].std() == pytest.approx(0.02, rel=0.05)
    # Glorot for each of the three square matrices: uniform within sqrt(6 / (D + D)).
    limit = np.sqrt(6 / (64 + 64))
    qkv = values["block_00/attention/qkv/kernel"]
    assert np.abs(qkv).max() == pytest.approx(limit, rel=0.01)
    assert np.abs(values["block_00/attention/projection/kernel"]).max() == pytest.approx(
        limit, rel=0.01
    )
    bias = values["block_00/mlp/fc1/bias"]
    assert 0 < np.abs(bias).max() < 1e-5
    # LeCun: variance 1 / fan-in, the fan-in being the pixels of a patch.
    patch = values["patch_embedding/projection/kernel"]
    assert patch.std() == pytest.approx(np.sqrt(1 / (4 * 4 * 3)), rel=0.05)


def test_logits_are_zero_at_the_start():
    model = keras_vit.VisionTransformer(16, 4, hidden_dim=8, depth=1, num_heads=2, num_classes=3)
    assert not np.asarray(model(images_for(model))).any()


def test_config_round_trip(tiny_model):
    model = tiny_model(
        image_size=(12, 20),
        patch_size=4,
        labels="abcde",
        preprocessing=keras_vit.Preprocessing(image_size=(12, 20), resize_mode="squash"),
    )
    again = keras_vit.VisionTransformer.from_config(model.get_config())
    assert again.get_config() == model.get_config()
    assert again.labels == ("a", "b", "c", "d", "e")
    assert again.preprocessing == model.preprocessing


def test_saved_file_opens_in_a_fresh_process(tiny_model, tmp_path):
    model = tiny_model(labels="vwxyz", drop_path_rate=0.2, dropout_rate=0.1)
    model.preprocessing = model.preprocessing.replace(mean=(0.1, 0.2, 0.3), crop_fraction=0.5)
    images = images_for(model)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", images)
    script = (
        "import keras_vit, keras, numpy as np, sys\n"
        "model = keras.models.load_model(sys.argv[1] + '/model.keras')\n"
        "assert model.labels == tuple('vwxyz')\n"
        "assert model.preprocessing.mean == (0.1, 0.2, 0.3)\n"
        "assert model.preprocessing.crop_fraction == 0.5\n"
        "np.save(sys.argv[1] + '/logits.npy', model(np.load(sys.argv[1] + '/images.npy')))\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), model(images))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_reduced_precision(tiny_model, tmp_path, policy):
    model = tiny_model(dtype=policy)
    exact = tiny_model()
    model.set_weights(exact.get_weights())
    images = images_for(model)
    logits = model(images)
    assert logits.dtype == ("bfloat16" if policy == "bfloat16" else "float32")
    assert model.blocks[0].attention.qkv.compute_dtype == policy.removeprefix("mixed_")
    assert model.get_layer("norm").compute_dtype == policy.removeprefix("mixed_")
    np.testing.assert_allclose(np.asarray(logits, "float32"), exact(images), atol=0.1)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.blocks[1].mlp.fc1.dtype_policy.name == policy
    np.testing.assert_array_equal(
        np.asarray(again(images), "float32"), np.asarray(logits, "float32")
    )


def test_the_same_seed_gives_the_same_model(tiny_model):
    options = {"dropout_rate": 0.1, "attention_dropout_rate": 0.1, "drop_path_rate": 0.2}
    first, second = tiny_model(seed=3, **options), tiny_model(seed=3, **options)
    images = images_for(first)
    np.testing.assert_array_equal(first(images, training=True), second(images, training=True))
    assert np.any(np.asarray(first(images, training=True)) != np.asarray(first(images)))


def test_the_same_seed_gives_the_same_model_in_another_process():
    script = (
        "import keras, keras_vit, numpy as np\n"
        "keras.utils.set_random_seed(7)\n"
        "m = keras_vit.VisionTransformer(16, 4, hidden_dim=8, depth=2, num_heads=2)\n"
        "print(sum(float(np.abs(w).sum()) * (i + 1) for i, w in enumerate(m.get_weights())))\n"
    )
    runs = [
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1] != b""


def test_no_two_kernels_start_alike():
    model = keras_vit.VisionTransformer(16, 4, hidden_dim=8, depth=3, num_heads=2)
    drawn = [
        np.asarray(v)
        for block in model.blocks
        for v in block.trainable_variables
        if v.path.endswith(("kernel", "mlp/fc1/bias", "mlp/fc2/bias"))
    ]
    assert len({array.tobytes() for array in drawn}) == len(drawn) == 3 * 6


def test_stochastic_depth_rises_linearly():
    model = keras_vit.VisionTransformer(
        16, 4, hidden_dim=8, depth=4, num_heads=2, drop_path_rate=0.3
    )
    rates = [block.drop_path1.rate for block in model.blocks]
    np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3])


def test_drop_path_drops_whole_examples_and_keeps_the_mean():
    layer = DropPath(0.25, seed=0)
    x = np.ones([4000, 3, 2], "float32")
    y = np.asarray(layer(x, training=True))
    assert set(np.unique(y)) == {0.0, np.float32(1 / 0.75)}
    assert (y == y[:, :1, :1]).all()
    assert y.mean() == pytest.approx(1, abs=0.03)


def test_summary_and_representation(tiny_model, capsys):
    model = tiny_model(representation_size=6)
    model.summary()
    printed = capsys.readouterr().out
    assert "block_01" in printed
    assert "(None, 17, 16)" in printed
    images = images_for(model)
    representation = model.representation_model()(images)
    assert representation.shape == (3, 6)
    head = model.get_layer("head")
    np.testing.assert_allclose(head(representation), model(images), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": (16, 18)}, r"16 x 18 .* 4 x 4.*fits is \(16, 16\)"),
        ({"num_heads": 3}, "num_heads=3 does not divide hidden_dim=16.*1, 2, 4, 8, 16"),
        ({"class_token": False}, "pooling='token' needs the class token"),
        ({"pooling": "mean"}, "pooling must be one of"),
        ({"position_embedding": "rope"}, "must be one of"),
        ({"position_embedding": "sincos2d", "hidden_dim": 18}, "multiple of 4"),
        ({"activation": "relu"}, "activation must be one of"),
        ({"dropout_rate": 1.0}, "dropout_rate must be"),
        ({"drop_path_rate": -0.1}, "drop_path_rate must be"),
        ({"depth": 0}, "depth must be a positive int"),
        ({"num_classes": -1}, "num_classes"),
        ({"image_size": (16, 16, 3)}, "image_size must be"),
        ({"labels": ["a", "b"]}, "2 labels .* 5 classes"),
        ({"preprocessing": {"image_size": 32}}, r"\(32, 32\).*\(16, 16\)"),
        ({"preprocessing": {"size": 32}}, "does not know the fields"),
    ],
)
def test_wrong_arguments_are_named(tiny_model, arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(**arguments)


def test_wrong_images_are_named(tiny_model):
    model = tiny_model()
    with pytest.raises(ValueError, match=r"20 x 16 x 3 .* 16 x 16 x 3"):
        model(np.zeros([1, 20, 16, 3], "float32"))
    with pytest.raises(ValueError, match=r"images\[None\]"):
        model(np.zeros([16, 16, 3], "float32"))
