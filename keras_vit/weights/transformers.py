"""Checkpoints of Hugging Face transformers: a folder with `config.json` and safetensors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from keras_vit.preprocessing import Preprocessing, size_pair
from keras_vit.vision_transformer import VisionTransformer
from keras_vit.weights.arrays import Arrays
from keras_vit.weights.mapping import Entry, Piece, Source, entry

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
}
_PREFIXES = (
    "", "vit.", "deit.", "dinov2.", "dinov2_with_registers.", "ijepa.", "vision_model.",
    "vit_msn.", "siglip.vision_model.", "clip.vision_model.",
)  # fmt: skip

# The names of a block's parts: vit, deit, ijepa, vit_mae, vit_msn; then dinov2; then clip, siglip.
_CLASSIC = {
    "block": "encoder.layer.{i}",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "query": "attention.attention.query",
    "key": "attention.attention.key",
    "value": "attention.attention.value",
    "projection": "attention.output.dense",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "patches": "embeddings.patch_embeddings.projection",
    "class_token": "embeddings.cls_token",
    "positions": "embeddings.position_embeddings",
    "norm": "layernorm",
}
_DINOV2 = _CLASSIC | {"norm1": "norm1", "norm2": "norm2", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
_CLIP = {
    "block": "encoder.layers.{i}",
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "projection": "self_attn.out_proj",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
    "patches": "embeddings.patch_embedding",
    "class_token": "embeddings.class_embedding",
    "positions": "embeddings.position_embedding.weight",
    "norm": "post_layernorm",
}
# What the models of transformers 5 call their parts in memory; `save_pretrained` still writes the
# names above.
_V5 = {
    "query": "attention.q_proj",
    "key": "attention.k_proj",
    "value": "attention.v_proj",
    "projection": "attention.o_proj",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}
_NAMES = {
    **dict.fromkeys(
        ("vit", "deit", "ijepa", "vit_mae", "vit_msn"),
        (_CLASSIC, _CLASSIC | _V5 | {"block": "layers.{i}"}),
    ),
    **dict.fromkeys(("dinov2", "dinov2_with_registers"), (_DINOV2, _DINOV2 | _V5)),
    **dict.fromkeys(("clip_vision_model", "siglip_vision_model"), (_CLIP,)),
}
_IGNORED = (
    "*mask_token", "*position_ids", "decoder.*", "text_model.*", "text_projection.*",
    "logit_scale", "logit_bias", "*pooler.*",
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
        kind, config = f"{kind}_vision_model", config.get("vision_config", {})
    if kind not in _NAMES:
        raise ValueError(
            f"{arrays.path} is a transformers model of type {kind!r}; known are {sorted(_NAMES)}."
        )
    config = _DEFAULTS.get(kind, {}) | config
    names = _names(kind, set(arrays))
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
        "position_resampling": "bicubic",
    }
    arguments |= _ending(kind, arrays, prefix, names)
    source = Source(
        arrays,
        entries=lambda model: transformers_entries(model.get_config(), kind, prefix, set(arrays)),
        arguments=arguments,
        ignored=_IGNORED if "representation_size" not in arguments else _IGNORED[:-1],
        resampling="bicubic",
        patch_resampling="bicubic_antialias",
        name=f"transformers ({kind})",
    )
    return source, _preprocessing(processor, image_size), _labels(labels, arguments["num_classes"])


# What a config.json leaves out when it is the default.
_COMMON = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 224,
    "patch_size": 16, "num_channels": 3, "intermediate_size": 3072, "qkv_bias": True,
    "hidden_act": "gelu", "layer_norm_eps": 1e-12,
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
    activation = _ACTIVATIONS.get(config["hidden_act"])
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
        gated = bool(config.get("use_swiglu_ffn"))
        if gated:
            arguments |= {"gated_mlp": True, "activation": "silu"}
        mlp_dim = _dinov2_mlp_dim(width, config["mlp_ratio"], gated)
        arguments |= {"mlp_dim": mlp_dim, "init_values": config.get("layerscale_value", 1.0)}
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


def _ending(kind: str, arrays: Arrays, prefix: str, names: dict[str, str]) -> dict[str, Any]:
    """Pooling and head, as the arrays have them."""
    head = _head_key(set(arrays))
    found: dict[str, Any] = {"num_classes": arrays.shape(f"{head}.weight")[0] if head else 0}
    if kind == "deit":
        found["distillation_head"] = head == "cls_classifier"
    if f"{prefix}pooler.dense.weight" in arrays and not head:
        found["representation_size"] = arrays.shape(f"{prefix}pooler.dense.weight")[0]
    if kind.startswith("dinov2") and head:
        found["pooling"] = "token_avg"
    if kind == "siglip_vision_model" and f"{prefix}head.probe" in arrays and not head:
        found["pooling"] = "map"
    if kind == "clip_vision_model" and head == "classifier":
        found |= {"pooling": "avg", "final_norm": False}
    return found


def _names(kind: str, arrays: set[str]) -> dict[str, str]:
    """Which of its names a type uses in this file."""
    for names in _NAMES[kind]:
        query = f"{names['block'].format(i=0)}.{names['query']}.weight"
        if any(key.endswith(query) for key in arrays):
            return names
    return _NAMES[kind][0]


def _head_key(names: set[str]) -> str | None:
    """What the classifier is called."""
    for key in ("classifier", "cls_classifier", "visual_projection"):
        if f"{key}.weight" in names:
            return key
    return None


def transformers_entries(
    a: dict[str, Any], kind: str, prefix: str, arrays: set[str]
) -> Iterator[Entry]:
    """Where transformers keeps each variable.

    Args:
        a: the config of a `VisionTransformer`.
        kind: the `model_type`.
        prefix: what stands before the names of the encoder.
        arrays: names in the file, which tell apart what differs within a type.

    Yields:
        One `Entry` for each variable, and some for variables that the model may not have.
    """
    names = _names(kind, arrays)
    positions = prefix + names["positions"]
    clip = names is _CLIP
    # Some releases drop the prefix of the blocks when they save.
    first = names["block"].format(i=0)
    block_prefix = prefix if any(k.startswith(prefix + first) for k in arrays) else ""
    axis = 0 if clip else 1
    num_prefix = int(a["class_token"]) + int(a["distillation_token"])
    token = prefix + names["class_token"]
    if kind == "dinov2_with_registers":
        pieces = (Piece(token), Piece(positions, 1, 0, 1))
        yield Entry("prefix_tokens/class_token", pieces, join="sum")
    else:
        yield entry("prefix_tokens/class_token", token, "bare" if clip else "same")
    yield entry("prefix_tokens/distillation_token", f"{prefix}embeddings.distillation_token")
    yield entry("prefix_tokens/register_tokens", f"{prefix}embeddings.register_tokens")
    layout = "table" if clip else "same"
    yield entry("prefix_tokens/positions", [Piece(positions, axis, 0, num_prefix)], layout)
    yield entry(
        "position_embedding/position_embedding",
        [Piece(positions, axis, num_prefix, 2**31)],
        layout,
    )
    yield entry("patch_embedding/projection/kernel", f"{prefix}{names['patches']}.weight", "conv")
    yield entry("patch_embedding/projection/bias", f"{prefix}{names['patches']}.bias")
    yield from _norm("pre_norm", f"{prefix}pre_layrnorm")  # their spelling
    yield from _norm("norm", prefix + names["norm"])
    yield from _dense("pre_logits", f"{prefix}pooler.dense")
    head = _head_key(arrays) or "classifier"
    yield entry("head/kernel", f"{head}.weight", "dense")
    yield entry("head/bias", f"{head}.bias" if head != "visual_projection" else [])
    yield from _dense("distillation_head", "distillation_classifier")
    yield from _map_head(a, prefix)
    for i in range(a["depth"]):
        path, block = f"block_{i:02d}", block_prefix + names["block"].format(i=i)
        yield from _norm(f"{path}/norm1", f"{block}.{names['norm1']}")
        yield from _norm(f"{path}/norm2", f"{block}.{names['norm2']}")
        parts = [f"{block}.{names[part]}" for part in ("query", "key", "value")]
        yield entry(f"{path}/attention/qkv/kernel", [f"{p}.weight" for p in parts], "dense")
        yield entry(f"{path}/attention/qkv/bias", [f"{p}.bias" for p in parts])
        yield from _dense(f"{path}/attention/projection", f"{block}.{names['projection']}")
        gated = a["gated_mlp"]
        for ours, theirs in (("fc1", "mlp.weights_in"), ("fc2", "mlp.weights_out")):
            yield from _dense(f"{path}/mlp/{ours}", f"{block}.{theirs if gated else names[ours]}")
        for number in (1, 2):
            yield entry(f"{path}/scale{number}/gamma", f"{block}.layer_scale{number}.lambda1")


def _map_head(a: dict[str, Any], prefix: str) -> Iterator[Entry]:
    """SigLIP's pooling: query, key and value in one array."""
    yield entry("pooling/query_token", f"{prefix}head.probe")
    width = a["hidden_dim"]
    for number, name in enumerate(("query", "key", "value")):
        bounds = (0, number * width, (number + 1) * width)
        weight = Piece(f"{prefix}head.attention.in_proj_weight", *bounds)
        yield entry(f"pooling/{name}/kernel", [weight], "dense")
        bias = Piece(f"{prefix}head.attention.in_proj_bias", *bounds)
        yield entry(f"pooling/{name}/bias", [bias])
    yield from _dense("pooling/projection", f"{prefix}head.attention.out_proj")
    yield from _norm("pooling/norm", f"{prefix}head.layernorm")
    yield from _dense("pooling/mlp/fc1", f"{prefix}head.mlp.fc1")
    yield from _dense("pooling/mlp/fc2", f"{prefix}head.mlp.fc2")


def _dense(path: str, key: str) -> Iterator[Entry]:
    yield entry(f"{path}/kernel", f"{key}.weight", "dense")
    yield entry(f"{path}/bias", f"{key}.bias")


def _norm(path: str, key: str) -> Iterator[Entry]:
    yield entry(f"{path}/gamma", f"{key}.weight")
    yield entry(f"{path}/beta", f"{key}.bias")


_RESAMPLE = {1: "lanczos3", 2: "bilinear", 3: "bicubic"}  # PIL's numbers


def _preprocessing(processor: dict[str, Any], image_size: tuple[int, int]) -> Preprocessing:
    """The evaluation transform of an image processor."""
    if not processor:
        return Preprocessing(image_size, resize_mode="squash", crop_fraction=1.0)
    mean, std = processor.get("image_mean") or (0.5,) * 3, processor.get("image_std") or (0.5,) * 3
    if not processor.get("do_normalize", True):
        mean, std = (0.0,) * 3, (1.0,) * 3
    scale = 255 * processor.get("rescale_factor", 1 / 255)
    if not processor.get("do_rescale", True):
        scale = 255.0
    resample = processor.get("resample", 2)
    if resample not in _RESAMPLE:
        raise ValueError(
            f"The processor resamples with PIL's filter {resample}: known are 1, 2, 3."
        )
    size = processor.get("size") or {"height": image_size[0], "width": image_size[1]}
    if isinstance(size, int):
        size = {"shortest_edge": size} if "crop_size" in processor else {"height": size}
    edge = size.get("shortest_edge")
    resized = (edge, edge) if edge else (size["height"], size.get("width", size["height"]))
    crop = processor.get("crop_size") if processor.get("do_center_crop", False) else None
    if isinstance(crop, dict):
        crop = (crop["height"], crop["width"])
    crop = size_pair(crop, "crop_size") if crop is not None else resized
    return Preprocessing(
        image_size,
        resize_mode="crop" if edge else "squash",
        crop_fraction=min(1.0, crop[0] / resized[0]),
        interpolation=_RESAMPLE[resample],
        mean=tuple(m / scale for m in mean),  # type: ignore[arg-type]
        std=tuple(s / scale for s in std),  # type: ignore[arg-type]
    )


def _labels(id2label: dict[str, str] | None, num_classes: int) -> tuple[str, ...] | None:
    """The class names in the order of the outputs, unless they are mere numbers."""
    if not id2label or len(id2label) != num_classes:
        return None
    names = tuple(str(id2label[key]) for key in sorted(id2label, key=int))
    return None if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else names


_CLASSES = {  # without a classifier, with one, and the name of that
    "vit": ("ViTModel", "ViTForImageClassification", "classifier"),
    "deit": ("DeiTModel", "DeiTForImageClassification", "classifier"),
    "ijepa": ("IJepaModel", "IJepaForImageClassification", "classifier"),
    "dinov2": ("Dinov2Model", "Dinov2ForImageClassification", "classifier"),
    "dinov2_with_registers": (
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersForImageClassification",
        "classifier",
    ),
    "clip_vision_model": ("CLIPVisionModel", "CLIPVisionModelWithProjection", "visual_projection"),
    "siglip_vision_model": ("SiglipVisionModel", "SiglipVisionModel", "classifier"),
}
_BASE_PREFIX = {"clip_vision_model": "vision_model", "siglip_vision_model": ""}
_HIDDEN_ACT = {"gelu_tanh": "gelu_pytorch_tanh"}


def transformers_config(model: VisionTransformer) -> tuple[dict[str, Any], str, set[str]]:
    """The `config.json` with which transformers builds a model again.

    Args:
        model: to be described.

    Returns:
        The content of the file, what stands before the encoder's names, and the names that tell
        `transformers_entries` which of its variants is meant.
    """
    a = model.get_config()
    kind = _kind(a)
    classes = _CLASSES[kind]
    head = classes[2]
    name = classes[1] if model.num_classes else classes[0]
    if kind == "deit" and model.num_classes and a["distillation_head"] is not False:
        name, head = "DeiTForImageClassificationWithTeacher", "cls_classifier"
    prefix = ""
    if model.num_classes and kind != "siglip_vision_model":
        prefix = _BASE_PREFIX.get(kind, kind) + "."
    config: dict[str, Any] = {
        "architectures": [name],
        "model_type": kind,
        "hidden_size": a["hidden_dim"],
        "num_hidden_layers": a["depth"],
        "num_attention_heads": a["num_heads"],
        "hidden_act": _HIDDEN_ACT.get(a["activation"], a["activation"]),
        "layer_norm_eps": a["norm_epsilon"],
        "image_size": _side(
            size_pair(model.image_size or model.preprocessing.image_size, "image_size")
        ),
        "patch_size": _side(model.patch_size),
        "num_channels": a["num_channels"],
        "qkv_bias": a["qkv_bias"],
        "hidden_dropout_prob": a["dropout_rate"],
        "attention_probs_dropout_prob": a["attention_dropout_rate"],
    }
    mlp_dim = a["mlp_dim"] or int(a["hidden_dim"] * a["mlp_ratio"])
    if kind.startswith("dinov2"):
        config |= {
            "mlp_ratio": _dinov2_ratio(a["hidden_dim"], mlp_dim, a["gated_mlp"]),
            "layerscale_value": a["init_values"],
            "use_swiglu_ffn": a["gated_mlp"],
            "num_register_tokens": a["register_tokens"],
            "drop_path_rate": a["drop_path_rate"],
        }
        if a["gated_mlp"]:
            config["hidden_act"] = "gelu"  # it is not asked, silu is built in
    else:
        config["intermediate_size"] = mlp_dim
    if kind == "clip_vision_model" and model.num_classes:
        config["projection_dim"] = model.num_classes
    elif model.num_classes:
        labels = model.labels or [f"LABEL_{i}" for i in range(model.num_classes)]
        config["id2label"] = {str(i): label for i, label in enumerate(labels)}
        config["label2id"] = {label: i for i, label in enumerate(labels)}
    if a["representation_size"] is not None:
        config["pooler_output_size"] = a["representation_size"]
    first = _NAMES[kind][0]["block"].format(i=0)
    names = {f"{prefix}{first}."} | ({f"{head}.weight"} if model.num_classes else set())
    return config, prefix, names


def _dinov2_mlp_dim(width: int, ratio: float, gated: bool) -> int:
    """How wide the MLP of DINOv2 is inside; the gated one is rounded up to a multiple of 8."""
    mlp_dim = int(width * ratio)
    return (int(mlp_dim * 2 / 3) + 7) // 8 * 8 if gated else mlp_dim


def _dinov2_ratio(width: int, mlp_dim: int, gated: bool) -> int:
    """The whole number that gives this width, as a config of DINOv2 has it."""
    for ratio in range(1, 17):
        if _dinov2_mlp_dim(width, ratio, gated) == mlp_dim:
            return ratio
    raise ValueError(
        f"transformers' DINOv2 makes the MLP from a whole mlp_ratio: none gives mlp_dim={mlp_dim} "
        f"for hidden_dim={width}. Choose another format."
    )


def _kind(a: dict[str, Any]) -> str:
    """The `model_type` for a `VisionTransformer`."""
    if a["init_values"] is not None:
        return "dinov2_with_registers" if a["register_tokens"] else "dinov2"
    if a["pre_norm"]:
        return "clip_vision_model"
    if a["pooling"] == "map":
        return "siglip_vision_model"
    if a["distillation_token"]:
        return "deit"
    return "vit" if a["class_token"] else "ijepa"


def _side(size: tuple[int, int]) -> int | list[int]:
    return size[0] if size[0] == size[1] else list(size)


def transformers_processor(spec: Preprocessing) -> dict[str, Any]:
    """The `preprocessor_config.json` of an evaluation transform."""
    height, width = size_pair(spec.image_size, "image_size")
    resized = tuple(int(side / spec.crop_fraction) for side in (height, width))
    squash = spec.resize_mode == "squash"
    content: dict[str, Any] = {
        "image_processor_type": "ViTImageProcessor" if squash else "CLIPImageProcessor",
        "do_resize": True,
        "size": {"height": resized[0], "width": resized[1]}
        if squash
        else {"shortest_edge": min(resized)},
        "resample": {name: number for number, name in _RESAMPLE.items()}[spec.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
    }
    if not squash or spec.crop_fraction < 1:
        if squash:
            content["image_processor_type"] = "DeiTImageProcessor"
        content |= {"do_center_crop": True, "crop_size": {"height": height, "width": width}}
    return content
