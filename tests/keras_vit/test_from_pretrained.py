"""Every kind of checkpoint gives the numbers that its own library gives."""

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
from seeded import difference, images, weights

import keras_vit
from keras_vit.weights.safetensors import write_safetensors
from keras_vit.weights.timm import translate_arguments

FIXTURES = Path(__file__).parent.parent / "fixtures"
JAX = sorted(
    path.name.removesuffix(".io.npz") for path in (FIXTURES / "jax_reference").glob("*.io.npz")
)
RECORDS = json.loads(gzip.decompress((FIXTURES / "goldens.json.gz").read_bytes()))
# One name for each code path, and the rest behind a marker.
REPRESENTATIVE = {
    "test_vit", "test_vit2", "test_vit3", "test_vit4", "vit_tiny_patch16_224",
    "vit_tiny_patch16_384", "vit_tiny_patch16_224_in21k", "vit_small_patch32_224",
    "vit_small_patch16_18x2_224", "vit_small_patch16_36x1_224", "vit_small_patch14_dinov2",
    "vit_small_patch14_reg4_dinov2", "vit_base_patch16_rpn_224", "vit_base_patch16_xp_224",
    "vit_pwee_patch16_reg1_gap_256", "vit_dwee_patch16_reg1_gap_256",
    "vit_dpwee_patch16_reg1_gap_256", "vit_wee_patch16_reg1_gap_256",
    "vit_base_patch16_224_miil", "vit_xsmall_patch16_clip_224",
    "vit_base_patch32_clip_quickgelu_224", "vit_base_patch16_siglip_224",
    "vit_base_patch32_siglip_256", "vit_base_patch32_siglip_gap_256",
    "vit_so150m_patch16_reg4_map_256", "vit_so150m_patch16_reg4_gap_256",
    "vit_base_patch14_reg1_tipsv2", "vit_base_patch16_radio_v3", "vit_medium_patch16_gap_240",
    "aimv2_large_patch14_224", "beit3_base_patch16_224", "flexivit_small", "vit_base_mci_224",
    "vit_tiny_r_s16_p8_224", "vit_small_r26_s32_224", "vit_small_resnet26d_224",
    "vit_small_resnet50d_s16_224", "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224",
    "vit_so400m_patch14_siglip_384",
}  # fmt: skip


def write_record(record, folder):
    """The folder of a checkpoint whose weights come from their names."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(record["config"]))
    arrays = {name: weights(name, tuple(shape)) for name, shape in record["shapes"].items()}
    write_safetensors(folder / "model.safetensors", arrays)
    return folder


def check_outputs(model, record):
    outputs = np.asarray(model(images(*record["image_size"])))[:, :16]
    error = np.abs(outputs - np.array(record["outputs"]["first"])).max() / record["outputs"]["std"]
    assert error < 1e-4


def timm_rows():
    for record in RECORDS["timm"]:
        few = record["name"] in REPRESENTATIVE
        yield pytest.param(record, id=record["name"], marks=() if few else pytest.mark.parity)


def test_the_representative_names_are_recorded():
    names = {record["name"] for record in RECORDS["timm"]}
    assert len(names) == 227
    assert names >= REPRESENTATIVE
    assert len(REPRESENTATIVE) >= 30


@pytest.mark.parametrize("record", list(timm_rows()))
def test_timm_names(record, tmp_path):
    model = keras_vit.from_pretrained(write_record(record, tmp_path / "model"))
    check_outputs(model, record)
    trainable = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    assert trainable == record["parameters"]


@pytest.mark.parametrize(
    "record",
    RECORDS["transformers"],
    ids=lambda r: "-".join([r["name"], *map(str, r["options"])]),
)
def test_transformers_types(record, tmp_path):
    check_outputs(keras_vit.from_pretrained(write_record(record, tmp_path / "model")), record)


@pytest.mark.parametrize("name", JAX)
def test_files_of_the_authors(name):
    expected = np.load(FIXTURES / "jax_reference" / f"{name}.io.npz")
    model = keras_vit.from_pretrained(
        FIXTURES / "jax_reference" / f"{name}.npz", image_size=expected["images"].shape[1]
    )
    assert difference(model(expected["images"]), expected["outputs"]) < 1e-4


def jax(name="google_token"):
    return FIXTURES / "jax_reference" / f"{name}.npz"


def rewritten(tmp_path, change, name="google_token"):
    """A copy of a fixture with changed arrays."""
    arrays = dict(np.load(jax(name)))
    change(arrays)
    path = tmp_path / "changed.npz"
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("prefix", ["opt/target/", "params/img/"])
def test_prefixes(tmp_path, prefix):
    def change(arrays):
        for key in list(arrays):
            arrays[prefix + key] = arrays.pop(key)

    expected = np.load(FIXTURES / "jax_reference" / "google_token.io.npz")
    model = keras_vit.from_pretrained(rewritten(tmp_path, change))
    assert difference(model(expected["images"]), expected["outputs"]) < 1e-4


def test_bfloat16_arrays(tmp_path):
    import ml_dtypes

    def change(arrays):
        for key, value in arrays.items():
            arrays[key] = value.astype(ml_dtypes.bfloat16)

    path = rewritten(tmp_path, change)
    kernel = np.load(jax())["head/kernel"].astype(ml_dtypes.bfloat16).astype("float32")
    model = keras_vit.from_pretrained(path)
    np.testing.assert_array_equal(model.get_layer("head").kernel, kernel)


def test_the_transform_and_the_labels_come_along(tmp_path):
    record = next(r for r in RECORDS["timm"] if r["name"] == "deit3_small_patch16_224")
    names = [f"class {i}" for i in range(1000)]
    record = record | {"config": record["config"] | {"label_names": names}}
    model = keras_vit.from_pretrained(write_record(record, tmp_path / "model"))
    assert model.preprocessing.mean == (0.485, 0.456, 0.406)
    assert model.preprocessing.image_size == (224, 224)
    assert model.preprocessing.interpolation == "bicubic"
    assert model.labels == tuple(names)
    google = keras_vit.from_pretrained(jax())
    assert google.preprocessing.mean == google.preprocessing.std == (0.5, 0.5, 0.5)
    assert google.preprocessing.resize_mode == "squash"


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        ({"size": {"height": 32, "width": 32}, "resample": 2}, ("squash", 1.0, "bilinear")),
        (
            {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32},
             "do_center_crop": True, "resample": 3},
            ("crop", 0.8, "bicubic"),
        ),
        (
            {"size": {"height": 40, "width": 40}, "crop_size": 32, "do_center_crop": True,
             "resample": 3},
            ("squash", 0.8, "bicubic"),
        ),
    ],
)  # fmt: skip
def test_processors_of_transformers(tmp_path, processor, expected):
    folder = write_record(RECORDS["transformers"][1], tmp_path / "model")
    processor |= {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    spec = keras_vit.from_pretrained(folder).preprocessing
    assert (spec.resize_mode, spec.crop_fraction, spec.interpolation) == expected
    assert spec.mean == pytest.approx((0.1, 0.2, 0.3))
    assert spec.std == pytest.approx((0.5, 0.6, 0.7))


@pytest.mark.parametrize("size", [64, (48, 96)])
def test_another_image_size(size):
    from keras_vit.resampling import resample_positions

    model = keras_vit.from_pretrained(jax(), image_size=size)
    positions = np.load(jax())["Transformer/posembed_input/pos_embedding"]
    expected = resample_positions(positions[:, 1:], (4, 4), model.grid, "bilinear_corners")
    layer = model.get_layer("position_embedding")
    np.testing.assert_allclose(layer.table, expected, atol=1e-6)
    np.testing.assert_array_equal(model.get_layer("prefix_tokens").positions, positions[:, :1])
    assert model.preprocessing.image_size == model.image_size
    other = keras_vit.from_pretrained(
        jax(), image_size=size, position_resampling="bicubic_antialias"
    )
    assert not np.allclose(other.get_layer("position_embedding").table, expected, atol=1e-4)


def test_any_image_size():
    model = keras_vit.from_pretrained(jax(), image_size="any")
    fixed = keras_vit.from_pretrained(jax(), image_size=(48, 96))
    x = images(48, 96)
    np.testing.assert_allclose(model(x), fixed(x), atol=1e-5)
    x = images(32, 32)
    np.testing.assert_allclose(model(x), keras_vit.from_pretrained(jax())(x), atol=1e-5)
    with pytest.raises(ValueError, match="whole number of patches"):
        model(images(33, 32))


def test_another_patch_size():
    from keras_vit.resampling import resample_patch_kernel

    model = keras_vit.from_pretrained(jax(), patch_size=16, image_size=64)
    kernel = resample_patch_kernel(np.load(jax())["embedding/kernel"], (16, 16), "bilinear")
    layer = model.get_layer("patch_embedding").projection
    np.testing.assert_allclose(layer.kernel, kernel, atol=1e-6)
    assert model.grid == (4, 4)


def test_heads():
    model = keras_vit.from_pretrained(jax(), num_classes=3)
    assert model.output_shape == (None, 3)
    assert not np.asarray(model.get_layer("head").kernel).any()
    whole = keras_vit.from_pretrained(jax())
    bare = keras_vit.from_pretrained(jax(), num_classes=0)
    x = images(32, 32)
    np.testing.assert_allclose(bare(x), whole.representation_model()(x), atol=1e-6)


def test_a_model_of_our_own_changes_too(tmp_path):
    model = keras_vit.from_pretrained(jax())
    model.save(tmp_path / "model.keras")
    same = keras_vit.from_pretrained(tmp_path)
    x = images(32, 32)
    np.testing.assert_array_equal(same(x), model(x))
    larger = keras_vit.from_pretrained(tmp_path / "model.keras", image_size=64, num_classes=2)
    np.testing.assert_allclose(
        larger.get_layer("position_embedding").table,
        keras_vit.from_pretrained(jax(), image_size=64).get_layer("position_embedding").table,
        atol=1e-6,
    )
    assert larger.num_classes == 2


def test_overrides_reach_the_model():
    model = keras_vit.from_pretrained(jax(), drop_path_rate=0.2, dtype="mixed_bfloat16")
    assert model.blocks[-1].drop_path1.rate == 0.2
    assert model.blocks[0].compute_dtype == "bfloat16"


def test_missing_extra_and_wrong_arrays_are_listed(tmp_path):
    def change(arrays):
        del arrays["Transformer/encoderblock_1/MlpBlock_3/Dense_0/bias"]
        arrays["surprise"] = np.zeros([2, 2], "float32")
        arrays["head/bias"] = np.zeros([6], "float32")

    path = rewritten(tmp_path, change)
    with pytest.raises(ValueError, match="does not fit") as caught:
        keras_vit.from_pretrained(path)
    message = str(caught.value)
    assert "- Transformer/encoderblock_1/MlpBlock_3/Dense_0/bias: missing" in message
    assert "+ surprise [2, 2]: unused" in message
    assert "! head/bias [6] does not fit head/bias [5]" in message
    assert "allow_missing" in message


def test_partial_loads_are_named(tmp_path):
    def change(arrays):
        del arrays["Transformer/encoderblock_1/MlpBlock_3/Dense_0/bias"]
        arrays["surprise"] = np.zeros([2, 2], "float32")

    path = rewritten(tmp_path, change)
    with pytest.raises(ValueError, match="surprise"):
        keras_vit.from_pretrained(path, allow_missing=["block_01/mlp/fc1/bias"])
    model = keras_vit.from_pretrained(
        path, allow_missing=["block_01/mlp/fc1/bias"], allow_unused=["surprise"]
    )
    assert np.abs(model.blocks[1].mlp.fc1.bias).max() < 1e-4  # fresh


def test_bare_arrays_need_a_name(tmp_path):
    record = next(r for r in RECORDS["timm"] if r["name"] == "test_vit")
    folder = write_record(record, tmp_path / "model")
    file = (folder / "model.safetensors").rename(tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="architecture="):
        keras_vit.from_pretrained(file)
    check_outputs(keras_vit.from_pretrained(file, architecture="test_vit"), record)


def test_what_is_no_checkpoint(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match="no known kind"):
        keras_vit.from_pretrained(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="hf://"):
        keras_vit.from_pretrained(tmp_path / "nothing")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ValueError, match="train command again"):
        keras_vit.from_pretrained(tmp_path / "run")
    folder = write_record(RECORDS["transformers"][0], tmp_path / "model")
    config = RECORDS["transformers"][0]["config"]
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "swin"}))
    with pytest.raises(ValueError, match="'swin'; known are"):
        keras_vit.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": "relu6"}))
    with pytest.raises(ValueError, match="relu6"):
        keras_vit.from_pretrained(folder)


def test_arguments_of_timm_without_a_counterpart():
    with pytest.raises(ValueError, match="block_fn"):
        translate_arguments({"block_fn": "Custom"}, {"hidden_dim": 8})
    assert translate_arguments({"global_pool": "avg"}, {"hidden_dim": 8}) == {
        "pooling": "avg",
        "fc_norm": True,
    }


CASES = {
    "google": [
        {},
        {"class_token": False, "pooling": "avg"},
        {"representation_size": 5},
        {"pooling": "map", "class_token": False},
        {"no_embed_class": True},
        {"stem": {"type": "resnetv2", "depths": (1, 1)}, "patch_size": 1},
    ],
    "timm": [
        {},
        {"class_token": False, "pooling": "avg", "fc_norm": True},
        {"register_tokens": 2, "init_values": 0.1, "no_embed_class": True},
        {"pre_norm": True, "patch_bias": False, "norm_epsilon": 1e-5},
        {"gated_mlp": True, "activation": "silu", "mlp_dim": 24, "init_values": 0.1},
        {"distillation_token": True},
        {"pooling": "map", "class_token": False, "activation": "gelu_tanh"},
        {"stem": {"type": "resnetd", "depths": (2, 2, 2, 2)}, "patch_size": 1},
        {"image_size": (16, 32), "mlp_ratio": 3.3},
    ],
    "transformers": [
        {},
        {"qkv_bias": False, "activation": "gelu_tanh"},
        {"num_classes": 0, "representation_size": 16},
        {"distillation_token": True},
        {"init_values": 0.5, "pooling": "token_avg"},
        {"init_values": 0.5, "register_tokens": 2, "no_embed_class": True, "num_classes": 0},
        {"gated_mlp": True, "activation": "silu", "init_values": 1.0, "num_classes": 0,
         "mlp_dim": 48},
        {"pooling": "map", "class_token": False, "num_classes": 0},
        {"pre_norm": True, "patch_bias": False, "fc_norm": True, "num_classes": 0},
        {"class_token": False, "pooling": "avg"},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("format", "options"),
    [(name, options) for name, rows in CASES.items() for options in rows],
    ids=lambda value: value if isinstance(value, str) else "-".join(value) or "plain",
)
def test_the_way_back(tiny_model, tmp_path, format, options):
    activation = {"activation": "gelu_tanh"} if format == "google" else {}
    size = {"image_size": 64} if "stem" in options else {}
    model = tiny_model(**(activation | size | options))
    for variable in model.weights:
        name = variable.path.replace("gamma", "weight")
        if "seed" not in name:
            variable.assign(weights(name, tuple(variable.shape)))
    path = tmp_path / ("model.npz" if format == "google" else "model")
    assert keras_vit.save_checkpoint(model, path, format=format) == path
    again = keras_vit.from_pretrained(path, position_resampling="bicubic_antialias")
    assert [v.path for v in again.weights] == [v.path for v in model.weights]
    for ours, theirs in zip(model.weights, again.weights, strict=True):
        if "seed" not in ours.path:
            np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)
    x = images(*model.image_size)
    np.testing.assert_array_equal(again(x), model(x))
    assert list(tmp_path.iterdir()) == [path]  # nothing half-written beside it


def test_labels_and_transform_go_the_way_back(tiny_model, tmp_path):
    model = tiny_model(num_classes=3, labels=["a", "b", "c"])
    spec = model.preprocessing.replace(mean=(0.1, 0.2, 0.3), resize_mode="squash", crop_fraction=1)
    model.preprocessing = spec
    for format in ("timm", "transformers"):
        path = keras_vit.save_checkpoint(model, tmp_path / format, format=format)
        again = keras_vit.from_pretrained(path)
        assert again.labels == ("a", "b", "c")
        assert again.preprocessing == spec


@pytest.mark.parametrize(
    ("format", "options", "message"),
    [
        ("google", {}, "activation='gelu'"),
        ("google", {"activation": "gelu_tanh", "register_tokens": 1}, "no place for"),
        ("timm", {"representation_size": 4}, "no place for pre_logits"),
        ("timm", {"qk_scale": 0.3}, "qk_scale=0.3"),
        ("timm", {"gated_mlp": True, "activation": "silu"}, "timm has no variant"),
        ("timm", {"norm_epsilon": 0.1}, "norm_epsilon"),
        ("transformers", {"pooling": "avg"}, "pooling='avg'"),
        ("onnx", {}, "format must be one of"),
    ],
)
def test_what_a_format_cannot_hold(tiny_model, tmp_path, format, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        keras_vit.save_checkpoint(tiny_model(**options), tmp_path / "model.npz", format=format)
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_over(tiny_model, tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(ValueError, match="exists already"):
        keras_vit.save_checkpoint(tiny_model(), tmp_path / "model", format="timm")
