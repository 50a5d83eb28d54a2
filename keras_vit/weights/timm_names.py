"""Where timm keeps each variable: the names of its arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from keras_vit.arguments import mlp_width
from keras_vit.weights.mapping import Entry, Piece, entry, expand


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
    width, mlp_dim = a["hidden_dim"], mlp_width(a)
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
