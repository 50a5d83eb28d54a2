"""The table of architectures."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.costs import costs
from keras_vit.variant_tags import TAG_TRANSFORMS
from keras_vit.variants import VARIANTS, get_variant

# Classes and parameters of timm's models, by `tests/parity/make_goldens.py`.
TIMM = json.loads((Path(__file__).parent.parent / "fixtures" / "timm_parameters.json").read_text())
# 224 pixels, 1000 classes: from the tests of the authors' JAX code.
PAPER = {
    "ViT-Ti/16": 5_717_416,
    "ViT-S/16": 22_050_664,
    "ViT-S/32": 22_878_952,
    "ViT-B/8": 86_576_872,
    "ViT-B/16": 86_567_656,
    "ViT-B/32": 88_224_232,
    "ViT-L/16": 304_326_632,
    "ViT-L/32": 306_535_400,
    "ViT-H/14": 632_045_800,
    "R+ViT-Ti/16": 6_337_704,
    "R26+ViT-S/32": 36_431_912,
    "R26+ViT-B/32": 101_383_976,
    "R50+ViT-B/16": 98_659_112,
    "R50+ViT-L/32": 328_994_856,
}


def test_every_variant_has_a_row():
    assert len(TIMM) == 227
    assert (
        {get_variant(name).name for name in TIMM} == set(VARIANTS) == set(keras_vit.list_models())
    )


@pytest.mark.parametrize("name", TIMM)
def test_parameters_of_timm(name):
    num_classes, count = TIMM[name]
    assert keras_vit.count_parameters(name, num_classes) == count


@pytest.mark.parametrize("name", PAPER)
def test_parameters_of_the_paper(name):
    assert keras_vit.count_parameters(name) == PAPER[name]


def distinct_architectures():
    """One variant for each set of options, whatever the sizes."""
    rows = {}
    for row in VARIANTS.values():
        sizes = ("image_size", "patch_size", "hidden_dim", "depth", "num_heads", "mlp_dim")
        rows[str({k: v for k, v in row.arguments.items() if k not in sizes})] = row.name
    return sorted(rows.values())


@pytest.mark.parametrize("name", distinct_architectures())
def test_the_arithmetic_agrees_with_a_built_model(name):
    arguments = {"num_classes": 3, "depth": 2}
    with keras.StatelessScope(initialize_variables=False):
        model = keras_vit.create_model(name, **arguments)
    built = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    assert keras_vit.count_parameters(name, **arguments) == built


def test_work_of_one_image():
    giga = {name: costs(get_variant(name).arguments)[1] / 1e9 for name in ("Ti/16", "B/16", "L/16")}
    # the multiply-adds that the field quotes for these three, attention included
    assert giga["Ti/16"] == pytest.approx(1.26, abs=0.05)
    assert giga["B/16"] == pytest.approx(17.6, abs=0.1)
    assert giga["L/16"] == pytest.approx(61.6, abs=0.3)


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
    assert keras_vit.list_models("vit_base_patch16_??4") == [
        "vit_base_patch16_224",
        "vit_base_patch16_384",
    ]
    assert keras_vit.list_models("*B/8") == ["vit_base_patch8_224"]
    assert keras_vit.list_models("resnet*") == []


def test_old_names_tags_and_capitals():
    assert get_variant("vit_base_patch32_224_clip_laion2b").name == "vit_base_patch32_clip_224"
    assert get_variant("vit_base_patch16_224.augreg_in21k").name == "vit_base_patch16_224"
    assert get_variant("g/14").name == "vit_giant_patch14_224"
    assert get_variant("ViT-G/14").name == "vit_gigantic_patch14_224"


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


def test_a_tag_brings_the_transform_of_its_weights():
    plain, tagged = (get_variant(f"vit_base_patch16_224{tag}") for tag in ("", ".mae"))
    assert plain.preprocessing.mean == (0.5, 0.5, 0.5)
    assert tagged.preprocessing.mean == (0.485, 0.456, 0.406)
    assert tagged.arguments == plain.arguments
    assert get_variant("vit_base_patch16_224_dino").preprocessing == tagged.preprocessing
    assert get_variant("vit_base_patch16_224.augreg_in21k").preprocessing == plain.preprocessing
    clip = get_variant("vit_base_patch32_clip_384.openai_ft_in12k_in1k").preprocessing
    assert (clip.resize_mode, clip.crop_fraction) == ("squash", 0.95)


def test_every_tag_is_of_a_variant():
    assert {name.partition(".")[0] for name in TAG_TRANSFORMS} <= VARIANTS.keys()
