"""Checkpoints of Hugging Face transformers: a folder with `config.json` and safetensors."""

from __future__ import annotations

import re
from typing import Any

from keras_vit.preprocessing import Preprocessing, size_pair
from keras_vit.weights.arrays import Arrays
from keras_vit.weights.config_fields import check_fields
from keras_vit.weights.mapping import Source
from keras_vit.weights.transformers_names import NAMES, head_key, names_of, transformers_entries
from keras_vit.weights.transformers_processor import read_processor

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
}
_PREFIXES = (
    "", "vit.", "deit.", "dinov2.", "dinov2_with_registers.", "ijepa.", "vision_model.",
    "vit_msn.", "siglip.vision_model.", "clip.vision_model.",
)  # fmt: skip

_IGNORED = (
    "*mask_token", "*position_ids", "decoder.*", "text_model.*", "text_projection.*",
    "logit_scale", "logit_bias",
)  # fmt: skip


def read_transformers(
    arrays: Arrays, config: dict[str, Any], processor: dict[str, Any]
) -> tuple[Source, Preprocessing, tuple[str, ...] | None]:
    """Recognise what a checkpoint of transformers holds.

    Args:
        arrays: the open file.
        config: the content of `config.json`.
        processor: the content of `preprocessor_config.json`; empty when there is none.

    Returns:
        The source, the evaluation transform and the labels.

    Raises:
        ValueError: if the model type or one of its settings has no counterpart.
    """
    kind = str(config["model_type"])
    labels = config.get("id2label")
    if kind in ("clip", "siglip"):  # two towers: only the one for images
        check_fields(arrays.path, config, {"vision_config": "object"})
        kind, config = f"{kind}_vision_model", config.get("vision_config") or {}
    if kind not in NAMES:
        raise ValueError(
            f"{arrays.path} is a transformers model of type {kind!r}; known are {sorted(NAMES)}."
        )
    config = _DEFAULTS[kind] | {key: value for key, value in config.items() if value is not None}
    check_fields(arrays.path, config, _FIELDS)
    names = names_of(kind, set(arrays))
    prefix = next((p for p in _PREFIXES if f"{p}{names['patches']}.weight" in arrays), None)
    if prefix is None:
        raise ValueError(
            f"{arrays.path} is of type {kind!r}, but holds no {names['patches']}.weight: the "
            f"weights belong to another model."
        )
    patch_size = size_pair(config["patch_size"], "patch_size")
    image_size = size_pair(config["image_size"], "image_size")
    arguments = _base(kind, config) | {
        "image_size": image_size,
        "patch_size": patch_size,
        "position_grid": (image_size[0] // patch_size[0], image_size[1] // patch_size[1]),
        # Only this type widens the kernel when it shrinks positions.
        "position_resampling": "bicubic_antialias"
        if kind == "dinov2_with_registers"
        else "bicubic",
    }
    ending, without_use = _ending(kind, arrays, prefix)
    arguments |= ending
    if "representation_size" in ending and config["pooler_act"] != "tanh":
        raise ValueError(
            f"pooler_act={config['pooler_act']!r} has no counterpart, only 'tanh' has one. Load "
            f"the model without its pooler: remove {prefix}pooler.* from the file."
        )
    source = Source(
        arrays,
        entries=lambda model: transformers_entries(model.get_config(), kind, prefix, set(arrays)),
        arguments=arguments,
        ignored=(*_IGNORED, *without_use),
        resampling=arguments["position_resampling"],
        patch_resampling="bicubic_antialias",
        name=f"transformers ({kind})",
    )
    transform = read_processor(arrays.path, kind, processor, image_size)
    return source, transform, _labels(labels, arguments["num_classes"])


# What a config.json leaves out when it is the default.
_COMMON = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 224,
    "patch_size": 16, "num_channels": 3, "intermediate_size": 3072, "qkv_bias": True,
    "hidden_act": "gelu", "layer_norm_eps": 1e-12, "pooler_act": "tanh",
}  # fmt: skip
_FIELDS = {
    "hidden_size": "count", "num_hidden_layers": "count", "num_attention_heads": "count",
    "image_size": "size", "patch_size": "size", "num_channels": "count",
    "intermediate_size": "count", "qkv_bias": "flag", "hidden_act": "text", "pooler_act": "text",
    "layer_norm_eps": "number", "hidden_dropout_prob": "number",
    "attention_probs_dropout_prob": "number", "use_swiglu_ffn": "flag", "mlp_ratio": "number",
    "layerscale_value": "number", "drop_path_rate": "number", "num_register_tokens": "count",
}  # fmt: skip
_DEFAULTS: dict[str, dict[str, Any]] = {
    "vit": _COMMON,
    "deit": _COMMON,
    "ijepa": _COMMON | {"layer_norm_eps": 1e-12},
    "vit_mae": _COMMON,
    "vit_msn": _COMMON | {"layer_norm_eps": 1e-6},
    "dinov2": _COMMON | {"layer_norm_eps": 1e-6, "patch_size": 14, "mlp_ratio": 4},
    "dinov2_with_registers": _COMMON
    | {"layer_norm_eps": 1e-6, "patch_size": 16, "mlp_ratio": 4, "num_register_tokens": 4},
    "clip_vision_model": _COMMON
    | {"layer_norm_eps": 1e-5, "patch_size": 32, "hidden_act": "quick_gelu"},
    "siglip_vision_model": _COMMON | {"layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh"},
}


def _base(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    """The encoder that a config describes."""
    gated = bool(config.get("use_swiglu_ffn"))  # of DINOv2: then silu, whatever hidden_act says
    activation = "silu" if gated else _ACTIVATIONS.get(config["hidden_act"])
    if activation is None:
        raise ValueError(
            f"hidden_act={config['hidden_act']!r} has no counterpart; known are "
            f"{sorted(_ACTIVATIONS)}."
        )
    width = config["hidden_size"]
    arguments: dict[str, Any] = {
        "hidden_dim": width,
        "depth": config["num_hidden_layers"],
        "num_heads": config["num_attention_heads"],
        "mlp_dim": config["intermediate_size"],
        "num_channels": config["num_channels"],
        "qkv_bias": config["qkv_bias"],
        "activation": activation,
        "norm_epsilon": config["layer_norm_eps"],
        "dropout_rate": config.get("hidden_dropout_prob", 0.0),
        "attention_dropout_rate": config.get("attention_probs_dropout_prob", 0.0),
    }
    if kind.startswith("dinov2"):
        mlp_dim = dinov2_mlp_dim(width, config["mlp_ratio"], gated)
        arguments |= {"mlp_dim": mlp_dim, "gated_mlp": gated}
        arguments["init_values"] = config.get("layerscale_value", 1.0)
        arguments["drop_path_rate"] = config.get("drop_path_rate", 0.0)
    if kind == "dinov2_with_registers":
        # Only the class token has a position; it is added to the token itself.
        arguments |= {"register_tokens": config["num_register_tokens"], "no_embed_class": True}
    if kind == "deit":
        arguments["distillation_token"] = True
    if kind in ("ijepa", "siglip_vision_model"):
        arguments |= {"class_token": False, "pooling": "avg"}
    if kind == "clip_vision_model":
        arguments |= {"pre_norm": True, "patch_bias": False, "fc_norm": True}
    return arguments


def _ending(kind: str, arrays: Arrays, prefix: str) -> tuple[dict[str, Any], list[str]]:
    """Pooling and head, as the arrays have them, and the arrays that this ending does not use."""
    head = head_key(set(arrays))
    found: dict[str, Any] = {"num_classes": arrays.shape(f"{head}.weight")[0] if head else 0}
    without_use = []
    if f"{prefix}pooler.dense.weight" in arrays and not head and kind != "ijepa":
        found["representation_size"] = arrays.shape(f"{prefix}pooler.dense.weight")[0]
    else:  # ijepa's pooler, of the first patch, is one that transformers itself leaves out
        without_use.append("*pooler.*")
    if kind == "deit":
        found["distillation_head"] = head == "cls_classifier"
    if kind.startswith("dinov2") and head:
        found["pooling"] = "token_avg"
    if kind == "siglip_vision_model" and f"{prefix}head.probe" in arrays:
        if head:
            without_use.append(f"{prefix}head.*")  # a classifier takes the mean of the patches
        else:
            found["pooling"] = "map"
    if kind == "clip_vision_model" and head == "classifier":
        found |= {"pooling": "avg", "final_norm": False}
        without_use.append(f"{prefix}post_layernorm.*")
    return found, without_use


def _labels(id2label: dict[str, str] | None, num_classes: int) -> tuple[str, ...] | None:
    """The class names in the order of the outputs, unless they are mere numbers."""
    if not id2label or len(id2label) != num_classes:
        return None
    if not all(str(key).isdecimal() for key in id2label):
        return None
    names = tuple(str(id2label[key]) for key in sorted(id2label, key=int))
    return None if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else names


def dinov2_mlp_dim(width: int, ratio: float, gated: bool) -> int:
    """How wide the MLP of DINOv2 is inside; the gated one is rounded up to a multiple of 8."""
    mlp_dim = int(width * ratio)
    return (int(mlp_dim * 2 / 3) + 7) // 8 * 8 if gated else mlp_dim
