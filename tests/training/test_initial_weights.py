"""The weights that training begins with."""

import dataclasses

import numpy as np
import pytest

from keras_vit import VisionTransformer
from training.build import build_model
from training.config import ModelConfig
from training.data import load_source
from training.initial_weights import draw_timm_weights
from training.recipes import RECIPES

# What a weight's name ends with -> its standard deviation in timm.
TIMM = {
    "patch_embedding/projection/kernel": 1 / np.sqrt(3 * 48),  # uniform within 1 / sqrt(48)
    "patch_embedding/projection/bias": 1 / np.sqrt(3 * 48),
    "position_embedding": 0.02,
    "prefix_tokens/positions": 0.02,
    "class_token": 1e-6,
    "distillation_token": 0.02,
    "register_tokens": 1e-6,
    "qkv/kernel": 0.02,
    "attention/projection/kernel": 0.02,
    "fc1/kernel": 0.02,
    "fc2/kernel": 0.02,
    "head/kernel": 0.02,
}


def test_timms_weights():
    model = VisionTransformer(
        32, 4, hidden_dim=192, depth=2, num_heads=2, num_classes=40,
        distillation_token=True, register_tokens=4,
    )  # fmt: skip
    draw_timm_weights(model, seed=1)
    seen = set()
    for variable in model.trainable_variables:
        values, path = np.asarray(variable), variable.path
        names = [name for name in TIMM if path.endswith(name)]
        if names:
            assert values.std() == pytest.approx(TIMM[names[0]], rel=0.2), path
            assert abs(values.mean()) < 0.2 * TIMM[names[0]], path
            seen.update(names)
        else:
            assert (values == path.endswith("gamma")).all(), path  # norms 1 and 0, biases 0
    assert seen == set(TIMM)


def test_timms_weights_equal_timms():
    """The spread of every weight, against the library itself."""
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("vit_tiny_patch16_224").state_dict()
    model = VisionTransformer(224, 16, hidden_dim=192, depth=1, num_heads=3)
    draw_timm_weights(model, seed=0)
    block = model.blocks[0]
    for ours, name in [
        (block.attention.qkv.kernel, "blocks.0.attn.qkv.weight"),
        (block.mlp.fc2.kernel, "blocks.0.mlp.fc2.weight"),
        (model.get_layer("head").kernel, "head.weight"),
        (model.get_layer("patch_embedding").projection.kernel, "patch_embed.proj.weight"),
    ]:
        assert np.std(ours) == pytest.approx(float(theirs[name].std()), rel=0.05), name


def test_a_recipe_says_how_they_are_drawn():
    source = load_source("digits")
    recipe = RECIPES["digits"]
    small = {"hidden_dim": 16, "depth": 1, "num_heads": 2, "image_size": 8, "patch_size": 2}
    models = []
    for seed in (3, 3, 4):
        config = ModelConfig(initial_weights="timm", **small)
        model = build_model(dataclasses.replace(recipe, model=config, seed=seed), source)
        models.append(model.get_layer("head").kernel.numpy())
    np.testing.assert_array_equal(models[0], models[1])
    assert (models[0] != models[2]).any()
    google = build_model(dataclasses.replace(recipe, model=ModelConfig(**small)), source)
    assert not google.get_layer("head").kernel.numpy().any()
    assert {RECIPES[name].model.initial_weights for name in ("deit", "deit_distilled")} == {"timm"}
