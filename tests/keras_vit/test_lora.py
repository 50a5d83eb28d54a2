"""Low-rank updates: the same function at first, few parameters, a plain model afterwards."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_vit
from keras_vit.lora import add_lora, merge_lora

IMAGES = np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype("float32")


def train(model, steps=3):
    """A few steps on everything that learns."""
    optimizer = keras.optimizers.SGD(0.1)
    targets = np.eye(5, dtype="float32")[[0, 3, 1]]
    for _ in range(steps):
        with tf.GradientTape() as tape:
            logits = tf.cast(model(IMAGES, training=True), tf.float32)
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))
        variables = model.trainable_variables
        gradients = tape.gradient(loss, [v.value for v in variables])
        optimizer.apply(gradients, variables)


def snapshot(model):
    return {v.path: np.asarray(v, np.float32) for v in model.weights}


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"attention": "differential"},
        {"block": "parallel"},
        {"block": "twin"},
        {"class_token": False, "pooling": "map"},
        {"distillation_token": True},
    ],
)
def test_it_starts_as_the_same_function_and_merges_to_the_same(tiny_model, overrides, tmp_path):
    model = tiny_model(**overrides)
    paths = [v.path for v in model.variables]
    before, weights = np.asarray(model(IMAGES)), snapshot(model)
    add_lora(model, rank=2, alpha=6)
    np.testing.assert_array_equal(model(IMAGES), before)
    train(model)
    after = np.asarray(model(IMAGES))
    assert np.abs(after - before).max() > 1e-2
    model.save(tmp_path / "adapted.keras")
    merge_lora(model)
    np.testing.assert_allclose(model(IMAGES), after, atol=1e-5)
    assert [v.path for v in model.variables] == paths
    assert len(model.trainable_variables) == len(weights)
    model.save(tmp_path / "merged.keras")
    for name in ("adapted", "merged"):
        again = keras_vit.load_model(tmp_path / f"{name}.keras")
        assert [v.path.split("/")[-1] for v in again.weights] == [p.split("/")[-1] for p in weights]
        assert len(again.trainable_variables) == len(weights)
        np.testing.assert_allclose(again(IMAGES), after, atol=1e-5)


def test_only_the_factors_and_the_head_learn(tiny_model):
    model = tiny_model()
    add_lora(model, rank=2)
    before = snapshot(model)
    learns = {v.path for v in model.trainable_variables}
    assert learns == {"head/kernel", "head/bias"} | {
        f"block_0{index}/attention/{name}/lora_kernel_{factor}"
        for index in (0, 1)
        for name in ("qkv", "projection")
        for factor in "ab"
    }
    # rank * (in + out) for each kernel, and the head
    counted = sum(int(keras.ops.size(v)) for v in model.trainable_variables)
    assert counted == 2 * 2 * ((16 + 48) + (16 + 16)) + 17 * 5
    train(model)
    for path, value in snapshot(model).items():
        assert np.array_equal(value, before[path]) == (path not in learns), path


def test_the_update_is_scaled_by_alpha_over_rank(tiny_model):
    model = tiny_model()
    layer = model.blocks[0].mlp.fc1
    kernel = np.asarray(layer.kernel)
    add_lora(model, rank=4, alpha=2, targets=["block_00/mlp/fc1/kernel"])
    layer.lora_kernel_b.assign(np.ones([4, 64]))
    update = np.asarray(layer.lora_kernel_a).sum(1, keepdims=True)
    merge_lora(model)
    np.testing.assert_allclose(layer.kernel, kernel + 0.5 * update, atol=1e-6)


def test_other_variables_can_learn_in_full(tiny_model):
    model = tiny_model()
    add_lora(model, rank=1, targets=[".*/fc2/kernel"], trainable=[".*norm.?/.*", ".*/bias"])
    tails = {v.path.rsplit("/", 1)[-1] for v in model.trainable_variables}
    assert tails == {"gamma", "beta", "bias", "kernel", "lora_kernel_a", "lora_kernel_b"}
    assert [v.path for v in model.trainable_variables if v.path.endswith("/kernel")] == [
        "head/kernel"
    ]


def test_a_checkpoint_holds_the_factors(tiny_model, tmp_path):
    def adapted(seed):
        model = tiny_model(seed=seed)
        add_lora(model, rank=2)
        values = {f"{i:05d}": v.value for i, v in enumerate(model.variables)}
        return model, tf.train.Checkpoint(variables=values)

    model, checkpoint = adapted(0)
    train(model)
    checkpoint.write(str(tmp_path / "variables"))
    other, checkpoint = adapted(1)
    assert not np.allclose(other(IMAGES), model(IMAGES), atol=1e-3)
    checkpoint.read(str(tmp_path / "variables")).assert_consumed()
    np.testing.assert_array_equal(other(IMAGES), model(IMAGES))
    for a, b in zip(other.weights, model.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_predict_follows_adding_and_merging(tiny_model):
    model = tiny_model()
    model.predict(IMAGES, verbose=0)
    add_lora(model, rank=2)
    train(model)
    after = np.asarray(model(IMAGES))
    np.testing.assert_allclose(model.predict(IMAGES, verbose=0), after, atol=1e-5)
    merge_lora(model)
    np.testing.assert_allclose(model.predict(IMAGES, verbose=0), after, atol=1e-5)
    add_lora(model, rank=1)  # and once more
    np.testing.assert_allclose(model(IMAGES), after, atol=1e-5)


def test_merging_a_plain_model_changes_nothing(tiny_model):
    model = tiny_model()
    model.get_layer("norm").trainable = False
    before = snapshot(model)
    merge_lora(model)
    for path, value in snapshot(model).items():
        np.testing.assert_array_equal(value, before[path])
    assert not model.get_layer("norm").trainable


def test_mixed_precision_merges_in_float32(tiny_model):
    model = tiny_model(dtype="mixed_bfloat16")
    add_lora(model, rank=2)
    train(model)
    after = np.asarray(model(IMAGES), np.float32)
    merge_lora(model)
    assert {v.dtype for v in model.weights} == {"float32"}
    np.testing.assert_allclose(np.asarray(model(IMAGES), np.float32), after, atol=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank of LoRA must be an int of at least 1, not 0"),
        ({"rank": 2, "alpha": -1}, "alpha of LoRA must be positive"),
        ({"rank": 2, "targets": []}, "lora.targets is empty"),
        (
            {"rank": 2, "targets": [".*/attention/(query|value)/kernel"]},
            r"\(query\|value\).*near are block_00/attention/",
        ),
        ({"rank": 2, "targets": ["head/kernel"]}, "lora.targets: the pattern 'head/kernel'"),
        ({"rank": 2, "targets": ["("]}, "is not a regular expression"),
        ({"rank": 2, "trainable": ["norms/.*"]}, "lora.trainable: .*near are .*norm"),
    ],
)
def test_a_wrong_request_changes_nothing(tiny_model, options, message):
    model = tiny_model()
    with pytest.raises(ValueError, match=message):
        add_lora(model, **options)
    assert len(model.trainable_variables) == len(model.weights) == 33


def test_updates_are_added_once(tiny_model):
    model = tiny_model()
    add_lora(model, rank=2)
    with pytest.raises(ValueError, match=r"has low-rank updates already.*merge_lora"):
        add_lora(model, rank=2)
