"""Which variable gets what."""

import re

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.lora import add_lora
from training.optimization.config import LoraConfig, OptimizerConfig, parse_rule
from training.optimization.rules import freeze, parameter_table, treatments


def by_path(model, **options):
    found = treatments(model, OptimizerConfig(**options))
    return {v.path: (t.learning_rate, t.weight_decay) for v, t in found}


def test_every_variable_is_treated_once_and_kernels_decay(tiny_model):
    model = tiny_model()
    found = by_path(model)
    assert list(found) == [v.path for v in model.trainable_variables]
    for path, (rate, decay) in found.items():
        assert rate == 1
        assert decay == (1 if path.endswith("/kernel") else 0), path


def test_the_first_rule_decides(tiny_model):
    found = by_path(
        tiny_model(),
        learning_rate_rules=("head/bias=3", "head/.*=10", ".*/bias=0.5"),
        weight_decay_rules=(".*/qkv/kernel=0", ".*/kernel=2"),
    )
    assert found["head/bias"] == (3, 0)
    assert found["head/kernel"] == (10, 2)
    assert found["block_00/mlp/fc1/bias"] == (0.5, 0)
    assert found["block_01/attention/qkv/kernel"] == (1, 0)


def test_layer_decay_is_that_of_beit(tiny_model):
    found = by_path(
        tiny_model(depth=3, pre_norm=True, representation_size=6),
        layer_decay=0.5,
        learning_rate_rules=("head/.*=10",),
    )
    expected = {
        "patch_embedding/projection/kernel": 0.5**4,
        "position_embedding/position_embedding": 0.5**4,
        "prefix_tokens/class_token": 0.5**4,
        "pre_norm/gamma": 0.5**4,
        "block_00/mlp/fc1/bias": 0.5**3,
        "block_01/attention/qkv/kernel": 0.5**2,
        "block_02/norm1/gamma": 0.5,
        "norm/gamma": 1,
        "pre_logits/kernel": 1,
        "head/kernel": 10,
    }
    assert {path: found[path][0] for path in expected} == expected


def test_stems_count_as_embeddings(tiny_model):
    stem = {"type": "conv", "filters": (4, 8), "strides": (2, 2)}
    found = by_path(tiny_model(stem=stem, patch_size=1), layer_decay=0.5)
    assert found["stem/unit1_conv/kernel"] == (0.5**3, 1)
    assert not any("moving" in path for path in found)


def test_a_frozen_batch_norm_keeps_its_statistics(tiny_model):
    stem = {"type": "conv", "filters": (4, 8), "strides": (2, 2)}
    model = tiny_model(stem=stem, patch_size=1)
    images = np.random.default_rng(0).normal(2, 3, (4, 16, 16, 3)).astype("float32")
    freeze(model, OptimizerConfig(frozen=("stem/unit1_.*",)))
    before = {v.path: np.asarray(v) for v in model.weights if "moving" in v.path}
    model(images, training=True)
    for variable in model.weights:
        if "moving" in variable.path:
            same = np.array_equal(variable, before[variable.path])
            assert same == ("unit1" in variable.path), variable.path


def test_a_partly_frozen_model_saves_and_loads_whole(tiny_model, tmp_path):
    model = tiny_model()
    count = len(model.trainable_variables)
    freeze(model, OptimizerConfig(frozen=("block_0[01]/attention/.*", "norm/beta")))
    assert len(model.trainable_variables) == count - 9
    model.save(tmp_path / "model.keras")
    again = keras_vit.load_model(tmp_path / "model.keras")
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
    np.testing.assert_array_equal(again(images), model(images))
    assert len(again.trainable_variables) == count
    model.trainable = False
    model.trainable = True
    assert len(model.trainable_variables) == count


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"weight_decay_rules": (".*/kernels=1",)},
            r"weight_decay_rules: the pattern '\.\*/kernels' fits none.*near are .*head/kernel",
        ),
        ({"learning_rate_rules": ("block_02/.*=0",)}, "learning_rate_rules: .*near are block_00/"),
        ({"frozen": ("patches/.*", "head/.*")}, "optimizer.frozen: the pattern 'patches"),
        # Whole paths: a beginning is not enough.
        ({"frozen": ("head",)}, "near are head/"),
    ],
)
def test_a_pattern_without_a_variable_is_refused(tiny_model, options, message):
    with pytest.raises(ValueError, match=message):
        treatments(tiny_model(), OptimizerConfig(**options))


def test_something_must_be_left_to_learn(tiny_model):
    model = tiny_model()
    with pytest.raises(ValueError, match="All 33 variables are frozen"):
        freeze(model, OptimizerConfig(frozen=(".*",)))
    assert len(model.trainable_variables) == 33


def test_the_table_adds_up(tiny_model):
    model = tiny_model()
    config = OptimizerConfig(layer_decay=0.5, frozen=("block_00/.*",), weight_decay=0.1)
    text = parameter_table(model, config)
    header, *rows, total = text.splitlines()
    columns = r"group +variables +parameters +learning rate +weight decay"
    assert re.fullmatch(columns, header)
    assert {len(row) for row in rows} == {len(header)}
    cells = [re.split(r" {2,}", row) for row in rows]
    assert {(name, rate, decay) for name, _, _, rate, decay in cells} == {
        ("embeddings", "x 0.125", "0"),
        ("embeddings .*/kernel", "x 0.125", "0.1"),
        ("frozen", "-", "-"),
        ("block_01", "x 0.5", "0"),
        ("block_01 .*/kernel", "x 0.5", "0.1"),
        ("head", "x 1", "0"),
        ("head .*/kernel", "x 1", "0.1"),
    }
    counts = {name: (int(n), int(size.replace(",", ""))) for name, n, size, _, _ in cells}
    assert counts["frozen"] == (12, sum(np.size(w) for w in model.blocks[0].get_weights()))
    assert sum(size for _, size in counts.values()) == model.count_params()
    learning = model.count_params() - counts["frozen"][1]
    assert total.split() == ["learning", "21", f"{learning:,}"]
    freeze(model, config)
    assert parameter_table(model, config) == text  # the same before and after


def test_the_table_of_lora_shows_how_little_learns(tiny_model):
    model = tiny_model()
    add_lora(model, rank=2)
    text = parameter_table(model, OptimizerConfig())
    learning = sum(keras.ops.size(v) for v in model.trainable_variables)
    assert text.splitlines()[-1].split() == ["learning", "10", f"{learning:,}"]


def test_the_last_equals_sign_of_a_rule_counts():
    assert parse_rule("(?=head).*=0.5", "rules") == ("(?=head).*", 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": -1}, r"lora.rank must be 0 \(no LoRA\) or more, not -1"),
        ({"alpha": 0}, "lora.alpha must be positive"),
        ({"rank": 2, "targets": ()}, "lora.targets is empty"),
        ({"targets": ("(",)}, "lora.targets: .* is not a regular expression"),
        ({"trainable": ("*",)}, "lora.trainable: .* is not a regular expression"),
    ],
)
def test_wrong_settings_of_lora_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        LoraConfig(**options)
