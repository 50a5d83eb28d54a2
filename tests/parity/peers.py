"""Models of timm and transformers with seeded weights, and what they answer."""

import functools
import json
import tempfile
from pathlib import Path

import numpy as np
from seeded import images, weights

MODULES = ("vision_transformer", "vision_transformer_hybrid", "deit")
# timm lists these two, but cannot build them: the tags that they stand for are gone.
NOT_BUILT = {
    "vit_base_patch16_224_sam": "vit_base_patch16_224",
    "vit_base_patch32_224_sam": "vit_base_patch32_224",
}


@functools.cache
def timm():
    """timm, also beside a torch that torchvision was not built for."""
    import torch

    try:
        import torchvision  # noqa: F401 - where it works it registers its operators by itself
    except RuntimeError:  # it asks for operators of a library that could not be loaded
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(operator + signature)
        torch.operators_of_torchvision = library  # they live as long as this
    import timm

    return timm


def timm_names():
    """The 227 names that timm registers in its three modules."""
    timm()
    from timm.models import _registry

    return sorted(name for module in MODULES for name in _registry._module_to_models[module])


def seed_weights(model):
    """Give every weight of a torch model its seeded value."""
    import torch

    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.from_numpy(weights(name, tuple(value.shape))))


def timm_model(name, depth=2):
    """A model of timm with seeded weights."""
    arguments = {} if depth is None else {"depth": depth}
    model = timm().create_model(NOT_BUILT.get(name, name), **arguments).eval()
    seed_weights(model)
    return model


def timm_size(name):
    """Classes and parameters of a model of timm at its full depth, without allocating it."""
    import torch

    with torch.device("meta"):
        model = timm().create_model(NOT_BUILT.get(name, name))
    return [model.num_classes, sum(p.numel() for p in model.parameters())]


def save_timm(model, folder):
    from timm.models._hub import save_for_hf

    save_for_hf(model, folder, safe_serialization=True)


def run(model, size):
    """What a torch model answers to the seeded images."""
    import torch

    x = torch.from_numpy(images(*size).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        return model(x)


def timm_record(name):
    """A model of timm without its weights: config, names and shapes, and outputs."""
    model = timm_model(name)
    with tempfile.TemporaryDirectory() as folder:
        save_timm(model, folder)
        config = json.loads((Path(folder) / "config.json").read_text())
    config["pretrained_cfg"].pop("license", None)
    return {
        "name": name,
        "config": config,
        "shapes": {key: list(value.shape) for key, value in model.state_dict().items()},
        "image_size": list(model.patch_embed.img_size),
        "outputs": _rounded(run(model, model.patch_embed.img_size).numpy()),
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def _rounded(outputs):
    """The first 16 outputs of both images, and what scales the difference."""
    return {
        "std": float(outputs.std()),
        "first": np.round(outputs[:, :16].astype(float), 8).tolist(),
    }


_POOLED = {
    "pooler": lambda out: out.pooler_output,
    "token": lambda out: out.last_hidden_state[:, 0],
    "mean": lambda out: out.last_hidden_state.mean(1),
    "logits": lambda out: out.logits,
    "embeds": lambda out: out.image_embeds,
}
TRANSFORMERS = [
    ("ViTModel", {}, "pooler"),
    ("ViTForImageClassification", {}, "logits"),
    ("ViTForImageClassification", {"qkv_bias": False, "hidden_act": "gelu_new"}, "logits"),
    ("DeiTModel", {}, "pooler"),
    ("DeiTForImageClassification", {}, "logits"),
    ("DeiTForImageClassificationWithTeacher", {}, "logits"),
    ("Dinov2Model", {}, "token"),
    ("Dinov2Model", {"use_swiglu_ffn": True}, "token"),
    ("Dinov2ForImageClassification", {}, "logits"),
    ("Dinov2WithRegistersModel", {}, "token"),
    ("Dinov2WithRegistersForImageClassification", {}, "logits"),
    ("SiglipVisionModel", {}, "pooler"),
    ("CLIPVisionModel", {}, "pooler"),
    ("CLIPVisionModelWithProjection", {"projection_dim": 24}, "embeds"),
    ("IJepaModel", {}, "mean"),
    ("IJepaForImageClassification", {}, "logits"),
    ("ViTMAEModel", {"mask_ratio": 0.0}, "token"),
    ("ViTMSNModel", {}, "token"),
    ("ViTMSNForImageClassification", {}, "logits"),
]
_TINY = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip


def transformers_model(name, options, base=False):
    """A model of transformers with seeded weights: tiny, or with the base size of its type."""
    timm()  # for torchvision
    import transformers

    model_class = getattr(transformers, name)
    sizes = {"num_labels": 7} if base else _TINY | {"num_labels": 7}
    model = model_class(model_class.config_class(**(sizes | options))).eval()
    seed_weights(model)
    return model


def transformers_outputs(model, pooled):
    size = model.config.image_size
    return _POOLED[pooled](run(model, (size, size))).numpy()


def transformers_record(name, options, pooled):
    """A model of transformers without its weights, as `save_pretrained` writes it."""
    from safetensors.numpy import load_file, save_file

    model = transformers_model(name, options)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        config = json.loads((Path(folder) / "config.json").read_text())
        file = f"{folder}/model.safetensors"
        # The names in the file decide the seeds: in memory some weights are called otherwise.
        saved = {key: weights(key, value.shape) for key, value in load_file(file).items()}
        save_file(saved, file, metadata={"format": "pt"})
        model = type(model).from_pretrained(folder).eval()
        if hasattr(model.config, "mask_ratio"):
            model.config.mask_ratio = 0.0
    return {
        "name": name,
        "options": options,
        "config": config,
        "shapes": {key: list(value.shape) for key, value in saved.items()},
        "image_size": [model.config.image_size] * 2,
        "outputs": _rounded(transformers_outputs(model, pooled)),
    }
