"""Where transformers keeps each variable: the names of its arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from keras_vit.weights.mapping import Entry, Piece, entry

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
CLIP = {
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
NAMES = {
    **dict.fromkeys(
        ("vit", "deit", "ijepa", "vit_mae", "vit_msn"),
        (_CLASSIC, _CLASSIC | _V5 | {"block": "layers.{i}"}),
    ),
    **dict.fromkeys(("dinov2", "dinov2_with_registers"), (_DINOV2, _DINOV2 | _V5)),
    **dict.fromkeys(("clip_vision_model", "siglip_vision_model"), (CLIP,)),
}


def names_of(kind: str, arrays: set[str]) -> dict[str, str]:
    """Which of its names a type uses in this file."""
    for names in NAMES[kind]:
        query = f"{names['block'].format(i=0)}.{names['query']}.weight"
        if any(key.endswith(query) for key in arrays):
            return names
    return NAMES[kind][0]


def head_key(names: set[str]) -> str | None:
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
    names = names_of(kind, arrays)
    positions = prefix + names["positions"]
    clip = names is CLIP
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
    head = head_key(arrays) or "classifier"
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
