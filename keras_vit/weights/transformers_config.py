"""The JSON files with which transformers builds a model of ours."""

from __future__ import annotations

from typing import Any

from keras_vit.arguments import mlp_width
from keras_vit.vision_transformer import VisionTransformer
from keras_vit.weights.transformers import dinov2_mlp_dim
from keras_vit.weights.transformers_names import NAMES

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
        "image_size": _side(model.position_size),
        "patch_size": _side(model.patch_size),
        "num_channels": a["num_channels"],
        "qkv_bias": a["qkv_bias"],
        "hidden_dropout_prob": a["dropout_rate"],
        "attention_probs_dropout_prob": a["attention_dropout_rate"],
    }
    mlp_dim = mlp_width(a)
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
    first = NAMES[kind][0]["block"].format(i=0)
    names = {f"{prefix}{first}."} | ({f"{head}.weight"} if model.num_classes else set())
    return config, prefix, names


def _dinov2_ratio(width: int, mlp_dim: int, gated: bool) -> int:
    """The whole number that gives this width, as a config of DINOv2 has it."""
    for ratio in range(1, 17):
        if dinov2_mlp_dim(width, ratio, gated) == mlp_dim:
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
