"""Checkpoints of timm: a folder with `config.json` as it is saved for the hub, or bare arrays."""

from __future__ import annotations

import re
from typing import Any

from keras_vit.arguments import make_stem
from keras_vit.labels import imagenet_labels
from keras_vit.preprocessing import Preprocessing, size_pair
from keras_vit.variants import get_variant
from keras_vit.weights.arrays import Arrays
from keras_vit.weights.config_fields import check_fields
from keras_vit.weights.mapping import Source
from keras_vit.weights.timm_names import timm_entries

# timm's arguments -> ours, where only the name differs.
ARGUMENTS = {
    "patch_size": "patch_size",
    "in_chans": "num_channels",
    "embed_dim": "hidden_dim",
    "depth": "depth",
    "num_heads": "num_heads",
    "class_token": "class_token",
    "no_embed_class": "no_embed_class",
    "reg_tokens": "register_tokens",
    "global_pool": "pooling",
    "pool_include_prefix": "pool_include_prefix",
    "qkv_bias": "qkv_bias",
    "qk_norm": "qk_norm",
    "scale_attn_norm": "scale_attn_norm",
    "scale_mlp_norm": "scale_mlp_norm",
    "proj_bias": "proj_bias",
    "init_values": "init_values",
    "final_norm": "final_norm",
    "proj_drop_rate": "dropout_rate",
    "attn_drop_rate": "attention_dropout_rate",
    "drop_path_rate": "drop_path_rate",
}
_CONFIG_FIELDS = {"architecture": "text", "pretrained_cfg": "object", "model_args": "object"}
_FIELDS = {
    "patch_size": "size", "in_chans": "count", "embed_dim": "count", "depth": "count",
    "num_heads": "count", "class_token": "flag", "no_embed_class": "flag", "reg_tokens": "count",
    "global_pool": "text", "pool_include_prefix": "flag", "qkv_bias": "flag", "qk_norm": "flag",
    "scale_attn_norm": "flag", "scale_mlp_norm": "flag", "proj_bias": "flag",
    "init_values": "number", "final_norm": "flag", "fc_norm": "flag", "pre_norm": "flag",
    "proj_drop_rate": "number", "attn_drop_rate": "number", "drop_path_rate": "number",
    "mlp_ratio": "number", "img_size": "size",
}  # fmt: skip
# Arguments that change nothing of what is loaded.
_WITHOUT_EFFECT = {
    "img_size", "num_classes", "dynamic_img_size", "dynamic_img_pad", "drop_rate", "fix_init",
    "pos_drop_rate", "patch_drop_rate", "weight_init", "strict_img_size", "pretrained_strict",
}  # fmt: skip
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_erf": "gelu",
    "gelu_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
}
# timm's words for the evaluation transform -> ours.
INTERPOLATIONS = {
    "bilinear": "bilinear",
    "bicubic": "bicubic",
    "lanczos": "lanczos3",
    "box": "box",
    "nearest": "nearest",
}
CROP_MODES = {"center": "crop", "squash": "squash", "border": "pad"}
SPLIT_GATES = "aimv2"  # the variants that have gate and value as two layers
_NORMS = {"layernorm": "layer_norm", "rmsnorm": "rms_norm"}


def read_timm(
    arrays: Arrays, config: dict[str, Any], architecture: str | None
) -> tuple[Source, Preprocessing, tuple[str, ...] | None]:
    """Recognise what a checkpoint of timm holds.

    Args:
        arrays: the open file.
        config: the content of `config.json`; empty for bare arrays.
        architecture: a timm name, which goes before the one of the config.

    Returns:
        The source, the evaluation transform and the labels.

    Raises:
        ValueError: if the architecture is unknown or not named, or an argument has no counterpart.
    """
    check_fields(arrays.path, config, _CONFIG_FIELDS)
    name = architecture or config.get("architecture")
    if name is None:
        raise ValueError(
            f"{arrays.path} holds arrays with timm's names, but does not say of which model: give "
            f"architecture='vit_base_patch16_224' or another of `keras_vit.list_models()`."
        )
    variant = get_variant(name)
    transform = config.get("pretrained_cfg") or config  # the first configs had it all in one
    # timm drops what is null and takes the variant's own
    model_args = {k: v for k, v in (config.get("model_args") or {}).items() if v is not None}
    check_fields(arrays.path, model_args, _FIELDS)
    check_fields(
        arrays.path, transform, {"crop_pct": "number", "mean": "numbers", "std": "numbers"}
    )
    packed = not variant.name.startswith(SPLIT_GATES)
    changes = translate_arguments(model_args, variant.arguments, packed)
    arguments = variant.arguments | changes
    arguments |= _read_off(arrays, arguments)
    size = model_args.get("img_size") or transform.get("input_size") or arguments["image_size"]
    image_size = size_pair(size[-2:] if isinstance(size, list) else size, "input_size")
    arguments |= _sizes(arrays, arguments, image_size)
    source = Source(
        arrays,
        entries=lambda model: timm_entries(
            model.get_config(),
            split_gate=any(".fc1_g." in key for key in arrays),
            old_scales=any(key.endswith(".gamma_1") for key in arrays),
        ),
        arguments=arguments,
        ignored=("*.num_batches_tracked", "pre_logits.*", "*attn_pool.*", "*relative_*"),
        resampling=arguments.get("position_resampling", "bicubic_antialias"),
        patch_resampling="bilinear" if "flexivit" in variant.name else "bicubic_antialias",
        name="timm",
    )
    preprocessing = _preprocessing(variant.preprocessing, transform, arguments["image_size"])
    return source, preprocessing, _labels(config, transform, arguments["num_classes"])


def translate_arguments(
    model_args: dict[str, Any], base: dict[str, Any], packed_gate: bool = True
) -> dict[str, Any]:
    """Timm's `model_args` as arguments of `VisionTransformer`.

    Args:
        model_args: as timm writes them to `config.json`.
        base: the arguments of the variant that they change.
        packed_gate: whether timm counts gate and value of a gated MLP together. Default True.

    Returns:
        Arguments of `VisionTransformer`.

    Raises:
        ValueError: if one of them has no counterpart.

    Example:
        >>> translate_arguments({"reg_tokens": 4, "mlp_ratio": 3}, {"hidden_dim": 64})
        {'register_tokens': 4, 'mlp_dim': 192}
    """
    found: dict[str, Any] = {}
    for key, value in model_args.items():
        if key in ARGUMENTS:
            found[ARGUMENTS[key]] = value
        elif key == "act_layer" and str(value).lower() in _ACTIVATIONS:
            found["activation"] = _ACTIVATIONS[str(value).lower()]
        elif key == "norm_layer" and str(value).lower() in _NORMS:
            # A layer by name has its own epsilon, not the one of the variant.
            found |= {"norm": _NORMS[str(value).lower()], "norm_epsilon": 1e-6}
        elif key == "embed_norm_layer" and str(value).lower() in _NORMS:
            found["patch_norm"] = True
        elif key == "pos_embed" and value in ("", "none", "learn"):
            found["position_embedding"] = "learned" if value == "learn" else "none"
        elif key == "pre_norm":
            found |= {"pre_norm": value, "patch_bias": not value}
        elif key == "attn_layer" and value in ("", "attn", "diff"):
            found["attention"] = "differential" if value == "diff" else "softmax"
        elif key == "fc_norm":
            pass  # below: its default hangs on the pooling
        elif key == "mlp_ratio" or key in _WITHOUT_EFFECT:
            pass
        else:
            raise ValueError(
                f"The model was made with {key}={value!r}, which keras-vit has no counterpart for."
            )
    merged = base | found
    width = merged["hidden_dim"]
    if "mlp_ratio" in model_args or "hidden_dim" in found:
        gates = 2 if merged.get("gated_mlp") and packed_gate else 1
        base_dim = base.get("mlp_dim") or 4 * base["hidden_dim"]
        ratio = model_args.get("mlp_ratio", gates * base_dim / base["hidden_dim"])
        found["mlp_dim"] = int(width * ratio) // gates
    gap = ("avg", "avgmax", "max")
    pooling, base_pooling = merged.get("pooling", "token"), base.get("pooling", "token")
    if model_args.get("fc_norm") is not None:
        found["fc_norm"] = model_args["fc_norm"]
    elif pooling != base_pooling and (base_pooling not in gap or base.get("fc_norm", False)):
        found["fc_norm"] = pooling in gap  # timm's default, where the variant says nothing else
    return found


def _read_off(arrays: Arrays, arguments: dict[str, Any]) -> dict[str, Any]:
    """Depth, classes and channels as the arrays have them, whatever the config says."""
    blocks = {int(match[1]) for key in arrays if (match := re.match(r"blocks\.(\d+)\.", key))}
    found: dict[str, Any] = {"depth": len(blocks)} if blocks else {}
    found["num_classes"] = arrays.shape("head.weight", 2)[0] if "head.weight" in arrays else 0
    return found


def _sizes(
    arrays: Arrays, arguments: dict[str, Any], image_size: tuple[int, int]
) -> dict[str, Any]:
    """The image size, and the grid that the file's positions are for."""
    stem = make_stem(arguments.get("stem"), None)
    stride = stem.stride if stem else 1
    patch = size_pair(arguments["patch_size"], "patch_size")
    if "patch_embed.proj.weight" in arrays:  # FlexiViT and others at another patch size
        patch = arrays.shape("patch_embed.proj.weight", 4)[2:]  # type: ignore[assignment]
    grid = tuple(-(-side // stride) // p for side, p in zip(image_size, patch, strict=True))
    if "pos_embed" in arrays:
        prefix = 0 if arguments.get("no_embed_class") else _num_prefix_tokens(arguments)
        length = arrays.shape("pos_embed", 3)[1] - prefix
        if grid[0] * grid[1] != length:
            side = round(max(length, 0) ** 0.5)
            if side * side != length or not side:
                raise ValueError(
                    f"{arrays.path} has positions for {length} patches, which is not the "
                    f"{grid[0]} x {grid[1]} of image size {image_size} and no square either: say "
                    f"model_args.img_size in config.json."
                )
            grid = (side, side)
            image_size = (side * stride * patch[0], side * stride * patch[1])
    return {"image_size": image_size, "patch_size": patch, "position_grid": grid}


def _num_prefix_tokens(arguments: dict[str, Any]) -> int:
    return (
        int(arguments.get("class_token", True))
        + int(arguments.get("distillation_token", False))
        + arguments.get("register_tokens", 0)
    )


def _preprocessing(
    default: Preprocessing, transform: dict[str, Any], image_size: tuple[int, int]
) -> Preprocessing:
    """The evaluation transform of a `pretrained_cfg`."""
    fields: dict[str, Any] = {"image_size": image_size}
    for key in ("mean", "std"):
        values = tuple(transform.get(key) or ())
        if len(values) in (1, 3):  # of images with other channels there is no transform
            fields[key] = values if len(values) == 3 else values * 3
    if transform.get("crop_pct"):
        fields["crop_fraction"] = transform["crop_pct"]
    for theirs, ours, known in (
        ("interpolation", "interpolation", INTERPOLATIONS),
        ("crop_mode", "resize_mode", CROP_MODES),
    ):
        if value := transform.get(theirs):
            if value not in known:
                raise ValueError(
                    f"The evaluation transform has {theirs}={value!r}, which has no counterpart: "
                    f"put one of {sorted(known)} into pretrained_cfg of config.json."
                )
            fields[ours] = known[value]
    return default.replace(**fields)


def _labels(
    config: dict[str, Any], transform: dict[str, Any], num_classes: int
) -> tuple[str, ...] | None:
    """The class names in the order of the outputs."""
    names = config.get("label_names") or transform.get("label_names")
    if isinstance(names, dict):
        names = [name for _, name in sorted(names.items(), key=lambda item: int(item[0]))]
    if names:
        descriptions = config.get("label_descriptions") or transform.get("label_descriptions") or {}
        found = tuple(str(descriptions.get(name, name)) for name in names)
        return found if len(found) == num_classes else None
    return imagenet_labels(num_classes) if "in1k" in str(transform.get("tag", "")) else None
