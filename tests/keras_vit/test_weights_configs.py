"""What the JSON files beside the arrays say, honest or not."""

import json
import math
import shutil

import numpy as np
import pytest
from test_from_pretrained import jax, rewritten

import keras_vit
from keras_vit.weights.safetensors import SafetensorsArrays, write_safetensors
from keras_vit.weights.transformers_processor import read_processor

SAYS = "{}|describes|must be|positions for"  # the field, or what cannot be built


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A small model in the layout of a library, by options."""
    root = tmp_path_factory.mktemp("saved")

    def save(format, **options):
        model = keras_vit.VisionTransformer(
            32, 8, **({"hidden_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 3} | options)
        )
        return keras_vit.save_checkpoint(model, root / str(len(list(root.iterdir()))), format)

    return save


def changed(folder, tmp_path, config=None, arrays=None, file="config.json"):
    """A copy of a checkpoint with other fields in a JSON file, and arrays added."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    if config is not None:
        content = json.loads((copy / file).read_text()) if (copy / file).is_file() else {}
        for key, value in config.items():
            *outer, inner = key.split(".")
            place = content[outer[0]] if outer else content
            place[inner] = value
        (copy / file).write_text(json.dumps(content))
    if arrays is not None:
        weights = copy / "model.safetensors"
        with SafetensorsArrays(weights) as old:
            arrays = {key: old[key] for key in old} | arrays
        write_safetensors(weights, arrays)
    return copy


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", 900_000_000_000),
        ("num_hidden_layers", "2"),
        ("hidden_size", 10**9),
        ("hidden_size", [16]),
        ("intermediate_size", 10**9),
        ("image_size", 10**9),
        ("image_size", "32"),
        ("patch_size", [8]),
        ("num_channels", 10**9),
        ("num_attention_heads", 0),
        ("layer_norm_eps", math.nan),
        ("layer_norm_eps", "small"),
        ("hidden_act", ["gelu"]),
        ("qkv_bias", "no"),
        ("hidden_dropout_prob", 5),
    ],
)
def test_hostile_fields_of_transformers(saved, tmp_path, field, value):
    folder = changed(saved("transformers"), tmp_path, {field: value})
    with pytest.raises(ValueError, match=SAYS.format(field)):
        keras_vit.from_pretrained(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_args.embed_dim", 10**9),
        ("model_args.num_heads", 0),
        ("model_args.mlp_ratio", 1e300),
        ("model_args.mlp_ratio", math.nan),
        ("model_args.reg_tokens", 10**9),
        ("model_args.img_size", [1, 2, 3]),
        ("model_args.qkv_bias", "false"),
        ("model_args.global_pool", ["avg"]),
        ("model_args.act_layer", ["gelu"]),
        ("model_args.init_values", math.inf),
        ("pretrained_cfg.crop_pct", "0.9"),
        ("pretrained_cfg.interpolation", "hamming"),
        ("pretrained_cfg.crop_mode", "weird"),
        ("pretrained_cfg.mean", [1, 2, "x"]),
        ("architecture", ["vit"]),
        ("model_args", [1]),
    ],
)
def test_hostile_fields_of_timm(saved, tmp_path, field, value):
    folder = changed(saved("timm"), tmp_path, {field: value})
    with pytest.raises(ValueError, match=SAYS.format(field.rpartition(".")[2])):
        keras_vit.from_pretrained(folder)


@pytest.mark.parametrize("name", ["head.weight", "pos_embed", "patch_embed.proj.weight"])
def test_arrays_of_timm_with_other_axes(saved, tmp_path, name):
    folder = changed(saved("timm"), tmp_path, arrays={name: np.zeros([3], "float32")})
    with pytest.raises(ValueError, match=f"{name}' of .* has the shape"):
        keras_vit.from_pretrained(folder)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": 1, "a": 2}', "", "[]", "9" * 10_000])
def test_json_that_is_none(saved, tmp_path, text):
    folder = changed(saved("timm"), tmp_path)
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json"):
        keras_vit.from_pretrained(folder)


PROCESSORS = [
    # DeiT of 2021: one number is a square for its processor, and the shorter edge for CLIP's
    ("deit", {"feature_extractor_type": "DeiTFeatureExtractor", "size": 256, "crop_size": 224,
              "do_center_crop": True}, ("squash", 224 / 256, "bicubic")),
    ("clip_vision_model", {"feature_extractor_type": "CLIPFeatureExtractor", "size": 224,
                           "crop_size": 224}, ("crop", 1.0, "bicubic")),
    ("dinov2", {"size": {"shortest_edge": 256}}, ("crop", 224 / 256, "bicubic")),
    ("siglip_vision_model", {"size": {"height": 224, "width": 224}}, ("squash", 1.0, "bicubic")),
    ("vit", {"size": [224, 224]}, ("squash", 1.0, "bilinear")),
    ("vit", {"size": 224, "resample": 0}, ("squash", 1.0, "nearest")),
    ("vit", {"image_processor_type": "ViTImageProcessorFast", "size": 224, "resample": 1},
     ("squash", 1.0, "lanczos3")),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "processor", "expected"), PROCESSORS)
def test_processors_fill_in_what_their_class_does(tmp_path, kind, processor, expected):
    spec = read_processor(tmp_path, kind, processor, (224, 224))
    assert (spec.resize_mode, spec.crop_fraction, spec.interpolation) == expected


def test_values_of_processors(tmp_path):
    def spec(**fields):
        return read_processor(tmp_path, "vit", {"size": 32} | fields, (32, 32))

    pixels = np.full((1, 32, 32, 3), 51.0, "float32")
    given = {"image_mean": 0.5, "image_std": [0.25]}
    assert np.asarray(spec(**given).normalize(pixels)).mean() == pytest.approx((0.2 - 0.5) / 0.25)
    half = spec(rescale_factor=1 / 127.5, rescale_offset=True, do_normalize=False)
    assert np.asarray(half.normalize(pixels)).mean() == pytest.approx(51 / 127.5 - 1)
    raw = spec(do_rescale=False, image_mean=[1.0] * 3, image_std=[2.0] * 3)
    assert np.asarray(raw.normalize(pixels)).mean() == pytest.approx(25)


@pytest.mark.parametrize("whole", range(225, 300))
def test_the_fraction_gives_the_resized_size_back(tmp_path, whole):
    processor = {"size": {"shortest_edge": whole}, "crop_size": 224, "do_center_crop": True}
    spec = read_processor(tmp_path, "clip_vision_model", processor, (224, 224))
    assert math.floor(224 / spec.crop_fraction) == whole


def test_the_newer_file_of_a_processor(saved, tmp_path):
    folder = changed(saved("transformers"), tmp_path)
    content = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(
        json.dumps({"image_processor": content | {"image_mean": [0.1, 0.2, 0.3]}})
    )
    assert keras_vit.from_pretrained(folder).preprocessing.mean == pytest.approx((0.1, 0.2, 0.3))


def test_classifiers_on_towers(saved, tmp_path):
    """transformers puts them on the mean of the patches; the towers' own ends lie unused."""
    head = {
        "classifier.weight": np.ones([3, 16], "float32"),
        "classifier.bias": np.zeros(3, "float32"),
    }
    siglip = saved("transformers", pooling="map", class_token=False, num_classes=0)
    model = keras_vit.from_pretrained(changed(siglip, tmp_path / "siglip", arrays=head))
    assert (model.get_config()["pooling"], model.num_classes) == ("avg", 3)
    clip = saved("transformers", pre_norm=True, patch_bias=False, fc_norm=True, num_classes=0)
    model = keras_vit.from_pretrained(changed(clip, tmp_path / "clip", arrays=head))
    config = model.get_config()
    assert (config["pooling"], config["final_norm"], model.num_classes) == ("avg", False, 3)


def test_another_activation_of_the_pooler_is_refused(saved, tmp_path):
    folder = saved("transformers", num_classes=0, representation_size=16)
    with pytest.raises(ValueError, match="pooler_act='relu'"):
        keras_vit.from_pretrained(changed(folder, tmp_path, {"pooler_act": "relu"}))


def test_registers_of_dinov2(saved, tmp_path):
    options = {"init_values": 0.5, "register_tokens": 2, "no_embed_class": True, "num_classes": 0}
    model = keras_vit.from_pretrained(saved("transformers", **options))
    assert model.get_config()["position_resampling"] == "bicubic_antialias"
    none = {"embeddings.register_tokens": np.zeros([1, 0, 16], "float32")}
    folder = changed(
        saved("transformers", **options), tmp_path, {"num_register_tokens": 0}, arrays=none
    )
    assert keras_vit.from_pretrained(folder).num_prefix_tokens == 1


def test_other_channels_have_no_transform_and_load(saved, tmp_path):
    folder = saved("timm", num_channels=1)
    fields = {"pretrained_cfg.mean": [0.4], "pretrained_cfg.std": [0.2]}
    model = keras_vit.from_pretrained(changed(folder, tmp_path, fields))
    assert model.input_shape == (None, 32, 32, 1)
    assert model.preprocessing.mean == (0.4, 0.4, 0.4)


def test_the_first_configs_of_timm(saved, tmp_path):
    folder = changed(saved("timm"), tmp_path)
    content = json.loads((folder / "config.json").read_text())
    transform = content.pop("pretrained_cfg") | {"mean": [0.1, 0.2, 0.3], "crop_mode": "border"}
    (folder / "config.json").write_text(json.dumps(transform | content))
    spec = keras_vit.from_pretrained(folder).preprocessing
    assert (spec.mean, spec.resize_mode) == ((0.1, 0.2, 0.3), "pad")


def test_pre_norm_goes_the_way_back(saved):
    again = keras_vit.from_pretrained(saved("timm", pre_norm=True, patch_bias=False))
    assert again.get_config()["pre_norm"]


def test_a_model_of_any_size_goes_the_way_back(tmp_path):
    model = keras_vit.from_pretrained(jax(), image_size="any")
    model.preprocessing = model.preprocessing.replace(image_size=64)
    path = keras_vit.save_checkpoint(model, tmp_path / "model", format="timm")
    assert keras_vit.from_pretrained(path).image_size == (32, 32)


@pytest.mark.parametrize("kind", ["timm", "transformers"])
def test_positions_of_another_grid_are_listed(saved, tmp_path, kind):
    names = {"timm": "pos_embed", "transformers": "vit.embeddings.position_embeddings"}
    arrays = {names[kind]: np.zeros([1, 26, 16], "float32")}
    folder = changed(saved(kind), tmp_path, arrays=arrays)
    if kind == "timm":  # a square: the grid is read off
        assert keras_vit.from_pretrained(folder).image_size == (40, 40)
    else:
        with pytest.raises(ValueError, match=r"! vit\.embeddings\.position_embeddings \[1, 26, 16"):
            keras_vit.from_pretrained(folder)


def test_what_a_training_keeps_beside_the_image_model(tmp_path):
    def change(arrays):
        for key in list(arrays):
            arrays["opt/target/img/" + key] = arrays.pop(key)
        arrays["opt/target/txt/Embed_0/embedding"] = np.zeros([2, 2], "float32")
        arrays["opt/target/t"] = np.zeros(1, "float32")
        arrays["opt/state/param_states/img/embedding/kernel"] = np.zeros(3, "float32")

    assert keras_vit.from_pretrained(rewritten(tmp_path, change)).num_classes == 5


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("embedding/kernel", np.zeros(3)),
        ("embedding/kernel", np.zeros([8, 8, 3, 0])),
        ("head/kernel", np.zeros(3)),
        ("head/bias", np.zeros(5, complex)),
        ("head/bias", np.full(5, "a")),
        ("Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel", np.zeros(4)),
        ("Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel", np.zeros([])),
        ("Transformer/posembed_input/pos_embedding", np.zeros(4)),
        ("Transformer/encoderblock_999999999/LayerNorm_0/scale", np.zeros(2)),
    ],
)
def test_arrays_of_google_that_are_none(tmp_path, key, value):
    path = rewritten(tmp_path, lambda arrays: arrays.__setitem__(key, value))
    with pytest.raises(
        ValueError, match=key.split("/")[0].replace("Transformer", r"Transformer|blocks")
    ):
        keras_vit.from_pretrained(path)
