"""Against timm and transformers themselves: every name, both ways."""

import importlib.util
import json
import time

import numpy as np
import peers
import pytest
from seeded import difference, images

import keras_vit

pytestmark = pytest.mark.parity
if not all(importlib.util.find_spec(name) for name in ("timm", "torch", "transformers")):
    pytest.skip("needs the extra parity: make parity", allow_module_level=True)


@pytest.mark.parametrize("name", peers.timm_names())
def test_timm_and_back(name, tmp_path, record_property):
    theirs = peers.timm_model(name)
    peers.save_timm(theirs, tmp_path / "timm")
    model = keras_vit.from_pretrained(tmp_path / "timm")
    expected = peers.run(theirs, theirs.patch_embed.img_size).numpy()
    error = difference(model(images(*theirs.patch_embed.img_size)), expected)
    timm = peers.timm()
    import torch

    with torch.device("meta"):
        full = timm.create_model(peers.NOT_BUILT.get(name, name))
    parameters = sum(p.numel() for p in full.parameters())
    record_property("parity", [name, float(error), parameters])
    assert error < 1e-4
    assert keras_vit.count_parameters(name, num_classes=full.num_classes) == parameters
    path = keras_vit.save_checkpoint(model, tmp_path / "ours", format="timm")
    if "resnet26d" in name or "resnet50d" in name:  # timm would fetch the stem's own weights first
        from safetensors.torch import load_file

        config = json.loads((path / "config.json").read_text())
        options = config["model_args"] | {"num_classes": config["num_classes"]}
        again = timm.create_model(config["architecture"], **options).eval()
        again.load_state_dict(load_file(path / "model.safetensors"))
    else:
        again = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    assert difference(peers.run(again, theirs.patch_embed.img_size).numpy(), expected) < 1e-5


@pytest.mark.parametrize("base", [False, True], ids=["tiny", "base"])
@pytest.mark.parametrize(
    ("name", "options", "pooled"),
    peers.TRANSFORMERS,
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_transformers_and_back(name, options, pooled, base, tmp_path, record_property):
    theirs = peers.transformers_model(name, options, base=base)
    theirs.save_pretrained(tmp_path / "theirs", **({"max_shard_size": "100MB"} if base else {}))
    model = keras_vit.from_pretrained(tmp_path / "theirs")
    expected = peers.transformers_outputs(theirs, pooled)
    error = difference(model(images(*model.image_size)), expected)
    title = f"{name} {options or ''} {'base' if base else 'tiny'}"
    record_property("parity", [title, float(error), model.count_params()])
    assert error < 1e-4
    path = keras_vit.save_checkpoint(model, tmp_path / "ours", format="transformers")
    import transformers

    config = json.loads((path / "config.json").read_text())
    again = getattr(transformers, config["architectures"][0]).from_pretrained(path).eval()
    x = peers.run(again, model.image_size)
    if model.num_classes:
        outputs = x.image_embeds if "projection_dim" in config else x.logits
    elif "pooler_output" in x and pooled == "pooler":
        outputs = x.pooler_output
    else:
        outputs = peers._POOLED[pooled](x)
    assert difference(outputs.numpy(), expected) < 1e-5


def test_loading_is_fast_enough(tmp_path, record_property):
    """The time of timm for the same file, in turns; reported, not asserted."""
    timm = peers.timm()
    peers.save_timm(timm.create_model("vit_base_patch16_224"), tmp_path / "timm")
    seconds = {"timm": [], "keras-vit": []}
    for _ in range(3):
        start = time.perf_counter()
        timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True)
        seconds["timm"].append(time.perf_counter() - start)
        start = time.perf_counter()
        keras_vit.from_pretrained(tmp_path / "timm")
        seconds["keras-vit"].append(time.perf_counter() - start)
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    record_property("note", f"seconds to load ViT-B/16, medians: {medians}")
