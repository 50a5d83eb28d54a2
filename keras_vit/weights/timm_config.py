"""The `config.json` with which timm builds a model of ours."""

from __future__ import annotations

import math
from typing import Any

from keras_vit.arguments import mlp_width
from keras_vit.preprocessing import size_pair
from keras_vit.variant_table import ROWS, Variant
from keras_vit.vision_transformer import VisionTransformer
from keras_vit.weights.timm import ARGUMENTS, CROP_MODES, INTERPOLATIONS, SPLIT_GATES

# What timm takes as Python objects, which no JSON file can hold: a variant must have it.
_FROM_VARIANT = (
    "norm", "norm_epsilon", "gated_mlp", "block", "attention", "stem", "patch_norm", "pre_norm",
    "patch_bias", "distillation_token",
)  # fmt: skip


def timm_config(model: VisionTransformer) -> tuple[dict[str, Any], bool]:
    """The `config.json` with which timm builds a model again.

    Args:
        model: to be described.

    Returns:
        The content of the file, and whether gate and value of a gated MLP are two layers.

    Raises:
        ValueError: if timm has no such model.
    """
    defaults = VisionTransformer.default_arguments()
    config = model.get_config() | {"mlp_dim": mlp_width(model.get_config())}
    if config["pooling"] not in ("token", "avg", "max", "avgmax", "map"):
        raise ValueError(f"timm has no pooling {config['pooling']!r}: choose another format.")

    def arguments(row: Variant) -> dict[str, Any]:
        full = defaults | row.arguments
        return full | {"mlp_dim": mlp_width(full)}

    def differences(row: Variant) -> set[str]:
        return {k for k, v in arguments(row).items() if _plain(v) != _plain(config[k])}

    fixed = set(_FROM_VARIANT)
    if config["pre_norm"] != config["patch_bias"]:  # as timm's own argument pre_norm has it
        fixed -= {"pre_norm", "patch_bias"}
    if config["init_values"] is None:  # nor can timm be told to leave out a variant's scales
        fixed.add("init_values")
    rows = [row for row in ROWS if not differences(row) & fixed]
    if not rows:
        own = {key: config[key] for key in sorted(fixed) if config[key] != defaults[key]}
        raise ValueError(f"timm has no variant with {own}: choose another format.")
    row = min(rows, key=lambda row: (row.name != model.name, len(differences(row))))
    changed = differences(row)
    model_args = {theirs: config[ours] for theirs, ours in ARGUMENTS.items() if ours in changed}
    split_gate = row.name.startswith(SPLIT_GATES)
    if changed & {"mlp_dim", "hidden_dim"}:
        gates = 2 if config["gated_mlp"] and not split_gate else 1
        ratio = gates * config["mlp_dim"] / config["hidden_dim"]
        while int(config["hidden_dim"] * ratio) < gates * config["mlp_dim"]:
            ratio = math.nextafter(ratio, math.inf)  # timm rounds down
        model_args["mlp_ratio"] = ratio
    if "activation" in changed:
        model_args["act_layer"] = config["activation"]
    if changed & {"fc_norm", "pooling"}:
        model_args["fc_norm"] = config["fc_norm"]
    if changed & {"pre_norm", "patch_bias"}:
        model_args["pre_norm"] = config["pre_norm"]
    if config["position_embedding"] == "none":
        model_args["pos_embed"] = "none"
    size = model.position_size
    if size != size_pair(row.arguments["image_size"], "image_size"):
        model_args["img_size"] = list(size)
    spec = model.preprocessing
    content: dict[str, Any] = {
        "architecture": row.name,
        "num_classes": model.num_classes,
        "num_features": model.hidden_dim,
        "global_pool": config["pooling"],
        "model_args": {key: _listed(value) for key, value in model_args.items()},
        "pretrained_cfg": {
            "tag": "keras_vit",
            "custom_load": False,
            "input_size": [config["num_channels"], *size],
            "fixed_input_size": True,
            "interpolation": _theirs(INTERPOLATIONS, spec.interpolation),
            "crop_pct": spec.crop_fraction,
            "crop_mode": _theirs(CROP_MODES, spec.resize_mode),
            "mean": list(spec.mean),
            "std": list(spec.std),
            "num_classes": model.num_classes,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    if model.labels is not None:
        content["label_names"] = list(model.labels)
    return content, split_gate


def _theirs(words: dict[str, str], ours: str) -> str:
    return next(theirs for theirs, word in words.items() if word == ours)


def _plain(value: Any) -> Any:
    """A value in which pairs are tuples and a single number stands for a square."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        value = tuple(_plain(item) for item in value)
        return value[0] if len(value) == 2 and value[0] == value[1] else value
    return value


def _listed(value: Any) -> Any:
    value = _plain(value)
    return list(value) if isinstance(value, tuple) else value
