"""Runs that start from a checkpoint."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import keras_vit
from training.config import ModelConfig, OptimizerConfig, ScheduleConfig
from training.data import load_source
from training.recipes import RECIPES
from training.train import build_model, train

CHECKPOINT = Path(__file__).parent.parent / "fixtures" / "jax_reference" / "google_token.npz"


def recipe(**model):
    return dataclasses.replace(
        RECIPES["digits"],
        epochs=1,
        batch_size=256,
        model=ModelConfig(**({"pretrained": str(CHECKPOINT)} | model)),
        schedule=ScheduleConfig(warmup_epochs=0),
    )


def test_the_encoder_is_the_checkpoint_and_the_head_is_fresh():
    model = build_model(recipe(image_size=16, drop_path_rate=0.1), load_source("digits"))
    expected = keras_vit.from_pretrained(CHECKPOINT, image_size=16)
    assert model.labels == tuple("0123456789")
    assert model.preprocessing == expected.preprocessing
    assert model.blocks[-1].drop_path1.rate == 0.1
    for ours, theirs in zip(model.blocks[0].weights, expected.blocks[0].weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not np.asarray(model.get_layer("head").kernel).any()


def test_a_head_for_other_labels_is_fresh_even_at_the_same_size(tmp_path):
    model = keras_vit.from_pretrained(CHECKPOINT, num_classes=10)
    model.get_layer("head").kernel.assign(np.ones([32, 10]))
    for labels, kept in ((None, False), (list("0123456789"), True)):
        model.labels = labels
        model.save(tmp_path / "model.keras")
        config = recipe(pretrained=str(tmp_path / "model.keras"))
        built = build_model(config, load_source("digits"))
        assert bool(np.asarray(built.get_layer("head").kernel).any()) is kept


def test_what_the_checkpoint_decides_is_refused():
    with pytest.raises(ValueError, match=r"model\.depth is what the checkpoint"):
        build_model(recipe(depth=3), load_source("digits"))


def test_a_variant_keeps_its_own_pooling():
    config = ModelConfig(variant="vit_base_patch16_siglip_224", depth=1, image_size=32)
    model = build_model(dataclasses.replace(recipe(), model=config), load_source("digits"))
    assert model.get_config()["pooling"] == "map"


def test_fine_tuning_runs_and_resumes(tmp_path):
    config = dataclasses.replace(
        recipe(image_size=16), optimizer=OptimizerConfig(learning_rate=1e-3), epochs=2
    )
    first = train(config, tmp_path / "run", report=lambda line: None)
    assert first.history[-1]["loss"] < first.history[0]["loss"] * 1.05
    lines = []
    again = train(config, tmp_path / "run", report=lines.append)
    assert any("done already" in line for line in lines)
    x = np.zeros([1, 16, 16, 3], "float32")
    np.testing.assert_array_equal(again.model(x), first.model(x))
