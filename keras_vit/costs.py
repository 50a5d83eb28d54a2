"""What an architecture costs: its parameters and the work of one image, from its arguments."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from keras_vit.arguments import make_stem, mlp_width, table_grid
from keras_vit.preprocessing import size_pair
from keras_vit.vision_transformer import VisionTransformer


def costs(arguments: dict[str, Any]) -> tuple[int, int]:
    """Parameters and multiply-adds, by arithmetic: nothing is built.

    Multiply-adds are those of matrix products and convolutions; a floating-point operation is half
    of one.

    Args:
        arguments: of `VisionTransformer`.

    Returns:
        The number of trainable parameters, and of multiply-adds for one image.

    Example:
        >>> parameters, multiply_adds = costs({})
        >>> parameters, round(multiply_adds / 1e9, 1)
        (86567656, 17.6)
    """
    a = VisionTransformer.default_arguments() | arguments
    stem = make_stem(a["stem"], None)
    stride = stem.stride if stem else 1
    patch = size_pair(a["patch_size"], "patch_size")
    grid = table_grid(
        a["image_size"] and size_pair(a["image_size"], "image_size"),
        patch,
        stride,
        a["position_grid"],
        a["allow_remainder"],
    )
    width, patches = a["hidden_dim"], math.prod(grid)
    prefix = int(a["class_token"]) + int(a["distillation_token"]) + a["register_tokens"]
    tokens = prefix + patches
    channels = stem.channels if stem else a["num_channels"]

    parameters, work = 0, 0
    if stem:
        parameters, work = _stem(a, grid, patch)
    kernel = math.prod(patch) * channels * width
    parameters += kernel + width * a["patch_bias"] + _norm(a, width) * a["patch_norm"]
    work += kernel * patches
    parameters += prefix * width
    if a["position_embedding"] == "learned":
        parameters += (patches + (0 if a["no_embed_class"] else prefix)) * width
    parameters += _norm(a, width) * (a["pre_norm"] + a["final_norm"])

    block = sum(_block(a))
    parameters += a["depth"] * block
    work += a["depth"] * (tokens * _block_kernels(a) + _attention_work(a, tokens))
    ends = list(_ends(a))
    parameters += sum(ends)
    work += sum(ends)  # one token each, but for the keys and values of the pooling
    if a["pooling"] == "map":
        attended = tokens if a["pool_include_prefix"] else patches
        work += 2 * (attended - 1) * width * width + 2 * attended * width
    return parameters, work


def _norm(a: dict[str, Any], width: int) -> int:
    return width if a["norm"] == "rms_norm" else 2 * width


def _block_kernels(a: dict[str, Any]) -> int:
    """The weights of the matrix products of a block, each used once for every token."""
    width = a["hidden_dim"]
    mlp = width * mlp_width(a) * (3 if a["gated_mlp"] else 2)
    return (4 * width * width + mlp) * (2 if a["block"] == "twin" else 1)


def _attention_work(a: dict[str, Any], tokens: int) -> int:
    """Queries with keys, and weights with values; differential attention has two maps."""
    products = 2 * tokens * tokens * a["hidden_dim"]
    return products * (2 if a["block"] == "twin" else 1)


def _block(a: dict[str, Any]) -> Iterator[int]:
    """The parameters of a block, part by part."""
    width, mlp_dim = a["hidden_dim"], mlp_width(a)
    head = width // a["num_heads"]
    differential = a["attention"] == "differential"
    parallel = a["block"] == "parallel"
    yield _block_kernels(a)
    twins = 2 if a["block"] == "twin" else 1
    yield twins * 3 * width * a["qkv_bias"]
    fc1 = mlp_dim * (2 if a["gated_mlp"] else 1)
    yield twins * fc1 * (a["proj_bias"] or parallel)
    biases = 1 if parallel and differential else 2  # of the two projections back
    yield twins * biases * width * a["proj_bias"]
    yield _norm(a, width) * (1 if parallel else 2 * twins)
    if a["init_values"] is not None and a["block"] != "post_norm":
        yield width * (1 if parallel else 2 * twins)
    if a["qk_norm"]:
        yield twins * 2 * _norm(a, head // (2 if differential else 1))
    yield twins * (_norm(a, width) * a["scale_attn_norm"] + _norm(a, mlp_dim) * a["scale_mlp_norm"])
    if differential:
        yield twins * (4 * (head // 2) + head)  # lambda, and the norm inside a head


def _ends(a: dict[str, Any]) -> Iterator[int]:
    """The parameters behind the blocks but for the norm."""
    width = a["hidden_dim"]
    if a["pooling"] == "map":
        mlp_dim = mlp_width(a)
        yield width + 4 * (width * width + width) + _norm(a, width)
        yield 2 * width * mlp_dim + mlp_dim + width
    features = 2 * width if a["pooling"] == "token_avg" else width
    if a["representation_size"] is not None:
        yield (features + 1) * a["representation_size"]
        features = a["representation_size"]
    heads = 2 if a["distillation_head"] or a["distillation_token"] else 1
    if a["distillation_head"] is False:
        heads = 1
    yield heads * (features + 1) * a["num_classes"]


def _stem(a: dict[str, Any], grid: tuple[int, int], patch: tuple[int, int]) -> tuple[int, int]:
    """Parameters and multiply-adds of the convolutions before the patches."""
    parameters = work = 0
    stem = make_stem(a["stem"], None)
    cells = [side * p for side, p in zip(grid, patch, strict=True)]
    for channels, filters, size, shrink in stem.convolutions(a["num_channels"]):
        kernel = size * size * channels * filters
        parameters += kernel + 2 * filters  # with a scale and a shift
        work += kernel * math.prod(side * stem.stride // shrink for side in cells)
    return parameters, work
