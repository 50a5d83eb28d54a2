"""The table of architectures."""

import numpy as np
import pytest

import keras_vit
from keras_vit.variants import VARIANTS, get_variant

# 1000 classes. The nine of the paper at 224 pixels are the counts in the tests of the authors'
# JAX code; the others are those of timm's models of the same name.
PARAMETERS = {
    "vit_tiny_patch16_224": 5_717_416,
    "vit_tiny_patch16_384": 5_790_376,
    "vit_small_patch32_224": 22_878_952,
    "vit_small_patch32_384": 22_915_432,
    "vit_small_patch16_224": 22_050_664,
    "vit_small_patch16_384": 22_196_584,
    "vit_small_patch8_224": 22_055_272,
    "vit_base_patch32_224": 88_224_232,
    "vit_base_patch32_384": 88_297_192,
    "vit_base_patch16_224": 86_567_656,
    "vit_base_patch16_384": 86_859_496,
    "vit_base_patch8_224": 86_576_872,
    "vit_large_patch32_224": 306_535_400,
    "vit_large_patch32_384": 306_632_680,
    "vit_large_patch16_224": 304_326_632,
    "vit_large_patch16_384": 304_715_752,
    "vit_large_patch14_224": 304_203_752,
    "vit_huge_patch14_224": 632_045_800,
}


def test_every_variant_has_a_row():
    assert set(PARAMETERS) == set(VARIANTS) == set(keras_vit.list_models())


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count(name):
    assert keras_vit.count_parameters(name) == PARAMETERS[name]


@pytest.mark.parametrize(("name", "count"), [("ViT-S/16", 22_049_896), ("ViT-B/16", 86_566_120)])
def test_parameter_count_with_average_pooling(name, count):
    assert keras_vit.count_parameters(name, class_token=False, pooling="avg") == count


def test_counting_agrees_with_a_built_model():
    options = {"image_size": 32, "depth": 2, "representation_size": 5}
    model = keras_vit.create_model("Ti/16", num_classes=3, **options)
    assert keras_vit.count_parameters("Ti/16", num_classes=3, **options) == model.count_params()


@pytest.mark.parametrize("name", ["ViT-B/16", "vit-b/16", "B/16", "vit_base_patch16_224"])
def test_paper_names(name):
    assert get_variant(name).name == "vit_base_patch16_224"


def test_patterns():
    assert keras_vit.list_models("vit_base_patch16*") == [
        "vit_base_patch16_224",
        "vit_base_patch16_384",
    ]
    assert keras_vit.list_models("*B/8") == ["vit_base_patch8_224"]
    assert keras_vit.list_models("resnet*") == []


def test_create_model_carries_size_and_preprocessing():
    model = keras_vit.create_model("vit_tiny_patch16_384", num_classes=4, image_size=48, depth=1)
    assert model.image_size == model.preprocessing.image_size == (48, 48)
    assert model.preprocessing.crop_fraction == 1.0
    assert model(np.zeros([1, 48, 48, 3], "float32")).shape == (1, 4)


def test_unknown_names_and_arguments():
    with pytest.raises(ValueError, match="did you mean vit_base_patch16_224"):
        keras_vit.create_model("vit_base_patch16_225")
    with pytest.raises(TypeError, match="droppath"):
        keras_vit.create_model("Ti/16", droppath=0.1)
