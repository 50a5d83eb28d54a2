"""Checkpoints of timm: a folder with `config.json` as it is saved for the hub, or bare arrays."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from keras_vit.labels import imagenet_labels
from keras_vit.preprocessing import Preprocessing, size_pair
from keras_vit.variant_table import ROWS, Variant
from keras_vit.variants import get_variant
from keras_vit.vision_transformer import VisionTransformer, make_stem
from keras_vit.weights.arrays import Arrays
from keras_vit.weights.mapping import Entry, Piece, Source, entry, expand

# timm's arguments -> ours, where only the name differs.
_ARGUMENTS = {
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
_SPLIT_GATES = "aimv2"  # the variants that have gate and value as two layers
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
    name = architecture or config.get("architecture")
    if name is None:
        raise ValueError(
            f"{arrays.path} holds arrays with timm's names, but does not say of which model: give "
            f"architecture='vit_base_patch16_224' or another of `keras_vit.list_models()`."
        )
    variant = get_variant(name)
    transform = config.get("pretrained_cfg", {})
    model_args = config.get("model_args", {})
    packed = not variant.name.startswith(_SPLIT_GATES)
    changes = translate_arguments(model_args, variant.arguments, packed)
    arguments = variant.arguments | changes
    arguments |= _read_off(arrays, arguments)
    size = model_args.get("img_size") or transform.get("input_size", (None, None, None))[1:]
    image_size = size_pair(arguments["image_size"] if None in _pair(size) else size, "img_size")
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
        if key in _ARGUMENTS:
            found[_ARGUMENTS[key]] = value
        elif key == "act_layer" and str(value).lower() in _ACTIVATIONS:
            found["activation"] = _ACTIVATIONS[str(value).lower()]
        elif key == "norm_layer" and str(value).lower() in _NORMS:
            found["norm"] = _NORMS[str(value).lower()]
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


def timm_entries(
    a: dict[str, Any], split_gate: bool = False, old_scales: bool = False
) -> Iterator[Entry]:
    """Where timm keeps each variable.

    Args:
        a: the config of a `VisionTransformer`.
        split_gate: whether gate and value of a gated MLP are two layers, as in AIM. Default False.
        old_scales: whether layer scales have the names of the first DeiT III files. Default False.

    Yields:
        One `Entry` for each variable, and some for variables that the model may not have.
    """
    prefix = int(a["class_token"]) + int(a["distillation_token"]) + a["register_tokens"]
    own_positions = prefix if not a["no_embed_class"] else 0
    yield entry("prefix_tokens/class_token", "cls_token")
    yield entry("prefix_tokens/distillation_token", "dist_token")
    yield entry("prefix_tokens/register_tokens", "reg_token")
    yield entry("prefix_tokens/positions", [Piece("pos_embed", 1, 0, own_positions)])
    yield entry(
        "position_embedding/position_embedding", [Piece("pos_embed", 1, own_positions, 2**31)]
    )
    projection = "patch_embed.proj"
    if (a["stem"] or {}).get("type") == "conv":
        projection = f"patch_embed.backbone.{len(a['stem']['filters'])}.conv"
    yield entry("patch_embedding/projection/kernel", f"{projection}.weight", "conv")
    yield entry("patch_embedding/projection/bias", f"{projection}.bias")
    yield from _norm("patch_embedding/norm", "patch_embed.norm")
    yield from _norm("pre_norm", "norm_pre")
    yield from _norm("norm", "fc_norm" if a["fc_norm"] else "norm")
    yield from _dense("head", "head")
    yield from _dense("distillation_head", "head_dist")
    yield from _stem(a)
    yield from _attention_pooling(a)
    for i in range(a["depth"]):
        yield from _block(a, f"block_{i:02d}", f"blocks.{i}", split_gate, old_scales)


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
    config = model.get_config() | {"mlp_dim": _mlp_dim(model.get_config())}
    if config["pooling"] not in ("token", "avg", "max", "avgmax", "map"):
        raise ValueError(f"timm has no pooling {config['pooling']!r}: choose another format.")

    def arguments(row: Variant) -> dict[str, Any]:
        full = defaults | row.arguments
        return full | {"mlp_dim": _mlp_dim(full)}

    def differences(row: Variant) -> set[str]:
        return {k for k, v in arguments(row).items() if _plain(v) != _plain(config[k])}

    rows = [row for row in ROWS if not differences(row).intersection(_FROM_VARIANT)]
    if not rows:
        own = {key: config[key] for key in _FROM_VARIANT if config[key] != defaults[key]}
        raise ValueError(f"timm has no variant with {own}: choose another format.")
    row = min(rows, key=lambda row: (row.name != model.name, len(differences(row))))
    changed = differences(row)
    model_args = {theirs: config[ours] for theirs, ours in _ARGUMENTS.items() if ours in changed}
    split_gate = row.name.startswith(_SPLIT_GATES)
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
    if config["position_embedding"] == "none":
        model_args["pos_embed"] = "none"
    size = size_pair(model.image_size or model.preprocessing.image_size, "image_size")
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
            "interpolation": "lanczos" if spec.interpolation == "lanczos3" else spec.interpolation,
            "crop_pct": spec.crop_fraction,
            "crop_mode": "squash" if spec.resize_mode == "squash" else "center",
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


def _norm(path: str, key: str) -> Iterator[Entry]:
    yield from expand(
        {
            "{path}/gamma": ("{key}.weight", "same"),
            "{path}/scale": ("{key}.weight", "same"),
            "{path}/beta": ("{key}.bias", "same"),
        },
        path=path,
        key=key,
    )


def _dense(path: str, key: str) -> Iterator[Entry]:
    yield entry(f"{path}/kernel", f"{key}.weight", "dense")
    yield entry(f"{path}/bias", f"{key}.bias")


def _block(
    a: dict[str, Any], path: str, key: str, split_gate: bool, old_scales: bool
) -> Iterator[Entry]:
    if a["block"] == "parallel":
        yield from _parallel_block(a, path, key)
    elif a["block"] == "twin":
        for number, suffix in enumerate(("", "2")):
            yield from _norm(f"{path}/norm{2 * number + 1}", f"{key}.attns.{number}.norm")
            yield from _attention(f"{path}/attention{suffix}", f"{key}.attns.{number}.attn")
            yield entry(f"{path}/scale{2 * number + 1}/gamma", f"{key}.attns.{number}.ls.gamma")
            yield from _norm(f"{path}/norm{2 * number + 2}", f"{key}.ffns.{number}.norm")
            yield from _mlp(f"{path}/mlp{suffix}", f"{key}.ffns.{number}.mlp", split_gate)
            yield entry(f"{path}/scale{2 * number + 2}/gamma", f"{key}.ffns.{number}.ls.gamma")
    else:
        for number in (1, 2):
            yield from _norm(f"{path}/norm{number}", f"{key}.norm{number}")
            scale = f"gamma_{number}" if old_scales else f"ls{number}.gamma"
            yield entry(f"{path}/scale{number}/gamma", f"{key}.{scale}")
        yield from _attention(f"{path}/attention", f"{key}.attn")
        yield from _mlp(f"{path}/mlp", f"{key}.mlp", split_gate)


def _attention(path: str, key: str) -> Iterator[Entry]:
    yield from _dense(f"{path}/qkv", f"{key}.qkv")
    yield from _dense(f"{path}/projection", f"{key}.proj")
    yield from _attention_extras(path, key)
    yield from _norm(f"{path}/norm", f"{key}.norm")


def _attention_extras(path: str, key: str) -> Iterator[Entry]:
    for name in ("q_norm", "k_norm", "sub_norm"):
        yield from _norm(f"{path}/{name}", f"{key}.{name}")
    for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"):
        yield entry(f"{path}/{name}", f"{key}.{name}")


def _mlp(path: str, key: str, split_gate: bool = False) -> Iterator[Entry]:
    if split_gate:
        yield entry(f"{path}/fc1/kernel", [f"{key}.fc1_g.weight", f"{key}.fc1_x.weight"], "dense")
        yield entry(f"{path}/fc1/bias", [f"{key}.fc1_g.bias", f"{key}.fc1_x.bias"])
    else:
        yield from _dense(f"{path}/fc1", f"{key}.fc1")
    yield from _dense(f"{path}/fc2", f"{key}.fc2")
    yield from _norm(f"{path}/norm", f"{key}.norm")


def _parallel_block(a: dict[str, Any], path: str, key: str) -> Iterator[Entry]:
    width, mlp_dim = a["hidden_dim"], _mlp_dim(a)
    mlp_in, qkv_in = (0, mlp_dim), (mlp_dim, mlp_dim + 3 * width)
    yield from _norm(f"{path}/norm1", f"{key}.in_norm")
    for layer, (start, stop) in (("mlp/fc1", mlp_in), ("attention/qkv", qkv_in)):
        weight = Piece(f"{key}.in_proj.weight", 0, start, stop)
        yield entry(f"{path}/{layer}/kernel", [weight], "dense")
        bias: str | Piece = Piece(f"{key}.in_proj.bias", 0, start, stop)
        if layer == "mlp/fc1" and not a["qkv_bias"]:
            bias = f"{key}.mlp_bias"
        yield entry(f"{path}/{layer}/bias", [bias])
    if a["attention"] == "differential":  # one product after both
        out = f"{key}.out_proj"
        attention = Piece(f"{out}.weight", 1, 0, width)
        mlp = Piece(f"{out}.weight", 1, width, width + mlp_dim)
        yield entry(f"{path}/attention/projection/kernel", [attention], "dense")
        yield entry(f"{path}/attention/projection/bias", f"{out}.bias")
        yield entry(f"{path}/mlp/fc2/kernel", [mlp], "dense")
    else:
        yield from _dense(f"{path}/attention/projection", f"{key}.attn_out_proj")
        yield from _dense(f"{path}/mlp/fc2", f"{key}.mlp_out_proj")
    yield from _attention_extras(f"{path}/attention", key)
    yield entry(f"{path}/scale1/gamma", f"{key}.ls.gamma")


def _attention_pooling(a: dict[str, Any]) -> Iterator[Entry]:
    width = a["hidden_dim"]
    yield entry("pooling/query_token", "attn_pool.latent")
    yield from _dense("pooling/query", "attn_pool.q")
    for number, name in enumerate(("key", "value")):
        bounds = (0, number * width, (number + 1) * width)
        yield entry(f"pooling/{name}/kernel", [Piece("attn_pool.kv.weight", *bounds)], "dense")
        yield entry(f"pooling/{name}/bias", [Piece("attn_pool.kv.bias", *bounds)])
    yield from _dense("pooling/projection", "attn_pool.proj")
    yield from _norm("pooling/norm", "attn_pool.norm")
    yield from _mlp("pooling/mlp", "attn_pool.mlp")


def _stem(a: dict[str, Any]) -> Iterator[Entry]:
    """The convolutions of a hybrid: our names of its parts, then timm's."""
    stem = a["stem"] or {"type": None}
    base = "patch_embed.backbone"
    pairs: list[tuple[str, str, str]] = []
    if stem["type"] == "conv":
        pairs = [
            (f"unit{i + 1}", f"{base}.{i}.conv", f"{base}.{i}.bn")
            for i in range(len(stem["filters"]))
        ]
    elif stem["type"] == "resnetv2":
        root = f"{base}.stem" if stem["depths"] else base
        pairs.append(("root", f"{root}.conv", f"{root}.norm"))
    elif stem["type"] == "resnetd":
        pairs += [
            ("root_1", f"{base}.conv1.0", f"{base}.conv1.1"),
            ("root_2", f"{base}.conv1.3", f"{base}.conv1.4"),
            ("root_3", f"{base}.conv1.6", f"{base}.bn1"),
        ]
    for stage, depth in enumerate(stem.get("depths", ())):
        for index in range(depth):
            ours = f"stage{stage + 1}_unit{index + 1}"
            if stem["type"] == "resnetv2":
                theirs, norm = f"{base}.stages.{stage}.blocks.{index}", "norm"
                projection = (f"{theirs}.downsample.conv", f"{theirs}.downsample.norm")
            else:
                theirs, norm = f"{base}.layer{stage + 1}.{index}", "bn"
                projection = (f"{theirs}.downsample.1", f"{theirs}.downsample.2")
            pairs += [
                (f"{ours}_{k}", f"{theirs}.conv{k}", f"{theirs}.{norm}{k}") for k in (1, 2, 3)
            ]
            pairs.append((f"{ours}_proj", *projection))
    for name, conv, norm in pairs:
        yield entry(f"stem/{name}_conv/kernel", f"{conv}.weight", "conv")
        yield from _norm(f"stem/{name}_norm", norm)
        yield entry(f"stem/{name}_norm/moving_mean", f"{norm}.running_mean")
        yield entry(f"stem/{name}_norm/moving_variance", f"{norm}.running_var")


def _mlp_dim(a: dict[str, Any]) -> int:
    return int(a["hidden_dim"] * a["mlp_ratio"]) if a["mlp_dim"] is None else a["mlp_dim"]


def _pair(size: Any) -> tuple[Any, ...]:
    return tuple(size) if isinstance(size, list | tuple) else (size, size)


def _read_off(arrays: Arrays, arguments: dict[str, Any]) -> dict[str, Any]:
    """Depth, classes and channels as the arrays have them, whatever the config says."""
    blocks = {int(match[1]) for key in arrays if (match := re.match(r"blocks\.(\d+)\.", key))}
    found: dict[str, Any] = {"depth": len(blocks)} if blocks else {}
    found["num_classes"] = arrays.shape("head.weight")[0] if "head.weight" in arrays else 0
    return found


def _sizes(
    arrays: Arrays, arguments: dict[str, Any], image_size: tuple[int, int]
) -> dict[str, Any]:
    """The image size, and the grid that the file's positions are for."""
    stem = make_stem(arguments.get("stem"), None)
    stride = stem.stride if stem else 1
    patch = size_pair(arguments["patch_size"], "patch_size")
    if "patch_embed.proj.weight" in arrays:  # FlexiViT and others at another patch size
        patch = tuple(arrays.shape("patch_embed.proj.weight")[2:])  # type: ignore[assignment]
    grid = tuple(-(-side // stride) // p for side, p in zip(image_size, patch, strict=True))
    if "pos_embed" in arrays:
        prefix = 0 if arguments.get("no_embed_class") else _num_prefix_tokens(arguments)
        length = arrays.shape("pos_embed")[1] - prefix
        if grid[0] * grid[1] != length:
            side = round(length**0.5)
            if side * side != length:
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
    if "mean" in transform:
        fields["mean"] = tuple(transform["mean"])
    if "std" in transform:
        fields["std"] = tuple(transform["std"])
    if transform.get("crop_pct"):
        fields["crop_fraction"] = transform["crop_pct"]
    if transform.get("interpolation") in ("bilinear", "bicubic"):
        fields["interpolation"] = transform["interpolation"]
    elif transform.get("interpolation") == "lanczos":
        fields["interpolation"] = "lanczos3"
    mode = transform.get("crop_mode")
    if mode:
        fields["resize_mode"] = {"center": "crop"}.get(mode, mode)
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
