"""Checkpoints of Google: the `.npz` files of vision_transformer (vit_jax) and of big_vision.

Everything about the model is read off the arrays. Names differ by the age of the file: the numbers
of a block's parts count all parts together in the oldest files, each kind by itself later; scanned
blocks are stacked on a first axis.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from keras_vit.arguments import make_stem
from keras_vit.labels import imagenet_labels
from keras_vit.preprocessing import Preprocessing
from keras_vit.weights.arrays import Arrays
from keras_vit.weights.mapping import Entry, Piece, Source, entry

_PREFIXES = ("", "params/", "params/img/", "opt/target/", "opt/target/img/")
_OLD = {"ln2": "LayerNorm_2", "mlp": "MlpBlock_3", "mha": "MultiHeadDotProductAttention_1"}
_NEW = {"ln2": "LayerNorm_1", "mlp": "MlpBlock_0", "mha": "MultiHeadDotProductAttention_0"}
_POSITION_KEYS = (
    "Transformer/posembed_input/pos_embedding",
    "Transformer/pos_embedding",
    "pos_embedding",
)


def google_prefix(arrays: Arrays) -> str | None:
    """What stands before every name of the image model; None if this is no file of Google's."""
    suffix = "embedding/kernel"
    found = [key.removesuffix(suffix) for key in arrays if re.fullmatch(f"(.+/)?{suffix}", key)]
    # An optimizer may keep averages under the same names: the known places come first.
    return min(found, key=lambda p: (p not in _PREFIXES, len(p)), default=None)


def read_google(
    arrays: Arrays, image_size: tuple[int, int] | None
) -> tuple[Source, Preprocessing, tuple[str, ...] | None]:
    """Recognise what a checkpoint of Google holds.

    Args:
        arrays: the open file.
        image_size: what the user asked for; needed when the file does not tell its grid.

    Returns:
        The source, the evaluation transform and the labels.

    Raises:
        ValueError: if the arrays are not those of a Vision Transformer.
    """
    prefix = google_prefix(arrays) or ""
    names = {key.removeprefix(prefix) for key in arrays if key.startswith(prefix)}

    def shape(name: str, rank: int) -> tuple[int, ...]:
        return arrays.shape(prefix + name, rank)

    layout = _layout(names, shape, arrays)
    block = layout["block"].format(i=0)
    *patch_size, _, hidden_dim = shape("embedding/kernel", 4)
    stacked = int(layout["scanned"])
    query = shape(f"{block}/{layout['mha']}/query/kernel", 3 + stacked)
    first = f"{block}/{layout['mlp']}/Dense_0/kernel"
    if first not in names:
        raise ValueError(f"{arrays.path} has no {prefix}{first}: a part of the file is missing.")
    pooling = "map" if layout["map"] is not None else "token" if "cls" in names else "avg"
    arguments: dict[str, Any] = {
        "patch_size": tuple(patch_size),
        "hidden_dim": hidden_dim,
        "depth": layout["depth"],
        "num_heads": query[-2],
        "mlp_dim": shape(first, 2 + stacked)[-1],
        "num_classes": shape("head/kernel", 2)[-1] if "head/kernel" in names else 0,
        "class_token": "cls" in names,
        "pooling": pooling,
        "activation": "gelu_tanh",  # `nn.gelu` of flax
        "position_resampling": "bilinear_corners",
    }
    if "pre_logits/kernel" in names:
        arguments["representation_size"] = shape("pre_logits/kernel", 2)[-1]
    if "conv_root/kernel" in names:
        arguments["stem"] = _stem_config(names, shape)
        arguments["num_channels"] = shape("conv_root/kernel", 4)[2]
    else:
        arguments["num_channels"] = shape("embedding/kernel", 4)[2]
    positions = layout["positions"]
    length = None if positions is None else shape(positions, 3)[1]
    arguments |= _positions(arrays, length, arguments, image_size)
    source = Source(
        arrays,
        entries=lambda model: google_entries(model.get_config(), layout, prefix),
        arguments=arguments,
        ignored=_beside(prefix),
        resampling="bilinear_corners",
        patch_resampling="bilinear",
        name="Google's npz",
    )
    preprocessing = Preprocessing(
        arguments["image_size"], interpolation="bilinear", antialias=False
    )
    if layout["old"]:  # vit_jax squashes, big_vision crops
        preprocessing = preprocessing.replace(resize_mode="squash", crop_fraction=1.0)
    else:
        preprocessing = preprocessing.replace(crop_fraction=0.875)
    return source, preprocessing, imagenet_labels(arguments["num_classes"])


def _beside(prefix: str) -> tuple[str, ...]:
    """Patterns of what a training keeps beside the image model."""
    parent = prefix.removesuffix("img/")
    tower = (f"{parent}txt/*", f"{parent}t", f"{parent}b") if prefix.endswith("img/") else ()
    optimizer = ("opt/state/*", "opt/count") if prefix.startswith("opt/") else ("opt/*",)
    return (*tower, *optimizer, "step", "chrono/*")


def google_entries(a: dict[str, Any], layout: dict[str, Any], prefix: str = "") -> Iterator[Entry]:
    """Where Google's files keep each variable.

    Args:
        a: the config of a `VisionTransformer`.
        layout: the names of the parts, see `OLD_LAYOUT`.
        prefix: what stands before every name. Default "".

    Yields:
        One `Entry` for each variable, and some for variables that the model may not have.
    """
    positions = f"{prefix}{layout['positions']}"
    own_positions = 0 if a["no_embed_class"] or not a["class_token"] else 1
    yield entry("prefix_tokens/class_token", f"{prefix}cls")
    yield entry("prefix_tokens/positions", [Piece(positions, 1, 0, own_positions)])
    yield entry(
        "position_embedding/position_embedding", [Piece(positions, 1, own_positions, 2**31)]
    )
    yield from _dense("patch_embedding/projection", f"{prefix}embedding")
    yield from _norm("norm", f"{prefix}Transformer/encoder_norm")
    yield from _dense("pre_logits", f"{prefix}pre_logits")
    yield from _dense("head", f"{prefix}head")
    if layout["map"] is not None:
        head = f"{prefix}{layout['map']}"
        yield entry("pooling/query_token", f"{head}probe")
        yield from _norm("pooling/norm", f"{head}LayerNorm_0")
        for ours, theirs in (("query",) * 2, ("key",) * 2, ("value",) * 2, ("projection", "out")):
            yield from _dense(f"pooling/{ours}", f"{head}MultiHeadDotProductAttention_0/{theirs}")
        yield from _mlp("pooling/mlp", f"{head}MlpBlock_0")
    for name, conv, norm in _stem_names(a["stem"]):
        yield entry(f"stem/{name}_conv/kernel", f"{prefix}{conv}/kernel")
        yield from _norm(f"stem/{name}_norm", f"{prefix}{norm}")
    for i in range(a["depth"]):
        path, block = f"block_{i:02d}", prefix + layout["block"].format(i=i)
        index = i if layout["scanned"] else None
        mha = f"{block}/{layout['mha']}"
        yield from _norm(f"{path}/norm1", f"{block}/LayerNorm_0", index)
        for kind in ("kernel", "bias"):
            yield entry(
                f"{path}/attention/qkv/{kind}",
                [_piece(f"{mha}/{name}/{kind}", index) for name in ("query", "key", "value")],
            )
        yield from _dense(f"{path}/attention/projection", f"{mha}/out", index)
        yield from _norm(f"{path}/norm2", f"{block}/{layout['ln2']}", index)
        yield from _mlp(f"{path}/mlp", f"{block}/{layout['mlp']}", index)


OLD_LAYOUT: dict[str, Any] = {
    **_OLD,
    "block": "Transformer/encoderblock_{i}",
    "scanned": False,
    "map": None,
    "positions": _POSITION_KEYS[0],
    "old": True,
}
"""The names in the files of vision_transformer, which `save_checkpoint` writes."""

NEW_LAYOUT: dict[str, Any] = {
    **_NEW,
    "block": "Transformer/encoderblock_{i}",
    "scanned": False,
    "map": "MAPHead_0/",
    "positions": "pos_embedding",
    "old": False,
}
"""The names in the files of big_vision."""


def _layout(names: set[str], shape: Any, arrays: Arrays) -> dict[str, Any]:
    """Which of the names are used, and how deep the model is."""
    blocks = {int(m[1]) for n in names if (m := re.match(r"Transformer/encoderblock_(\d+)/", n))}
    scanned = not blocks
    block = "Transformer/encoderblock" if scanned else "Transformer/encoderblock_{i}"
    first = block.format(i=0)
    for parts in (_OLD, _NEW):
        query = f"{first}/{parts['mha']}/query/kernel"
        if query in names:
            break
    else:
        raise ValueError(
            f"{arrays.path} has an embedding/kernel, but no {first}/…/query/kernel: these are not "
            f"the arrays of a Vision Transformer of vision_transformer or big_vision."
        )
    maps = [p for p in ("MAPHead_0/", "") if f"{p}probe" in names]
    return {
        **parts,
        "block": block,
        "scanned": scanned,
        "depth": shape(query, 4)[0] if scanned else len(blocks),
        "map": maps[0] if maps else None,
        "positions": next((key for key in _POSITION_KEYS if key in names), None),
        "old": parts is _OLD,
    }


def _positions(
    arrays: Arrays,
    length: int | None,
    arguments: dict[str, Any],
    image_size: tuple[int, int] | None,
) -> dict[str, Any]:
    """Image size, grid, and whether the class token has a position."""
    stem = make_stem(arguments.get("stem"), None)
    stride = stem.stride if stem else 1
    cell = tuple(stride * patch for patch in arguments["patch_size"])
    if length is None:
        size = image_size or (224, 224)
        grid = (size[0] // cell[0], size[1] // cell[1])
        return {"image_size": size, "position_grid": grid, "position_embedding": "sincos2d"}
    # big_vision adds positions before the class token joins: then there is none for it.
    candidates = [length - 1, length] if arguments["class_token"] else [length]
    for patches in candidates:
        side = round(patches**0.5)
        if side * side == patches > 0:
            return {
                "image_size": (side * cell[0], side * cell[1]),
                "position_grid": (side, side),
                "no_embed_class": patches == length,
            }
    if image_size is not None:
        grid = (-(-image_size[0] // cell[0]), -(-image_size[1] // cell[1]))
        if grid[0] * grid[1] in candidates:
            return {
                "image_size": image_size,
                "position_grid": grid,
                "no_embed_class": grid[0] * grid[1] == length,
            }
    raise ValueError(
        f"{arrays.path} has {length} positions, which is no square grid: say the image size that "
        f"the file was made for, image_size=(height, width)."
    )


def _stem_config(names: set[str], shape: Any) -> dict[str, Any]:
    """The ResNet of a hybrid."""
    units: dict[int, set[int]] = {}
    for name in names:
        if match := re.match(r"block(\d+)/unit(\d+)/conv1/", name):
            units.setdefault(int(match[1]), set()).add(int(match[2]))
    return {
        "type": "resnetv2",
        "depths": tuple(len(units[stage]) for stage in sorted(units)),
        "width": shape("conv_root/kernel", 4)[-1],
    }


def _stem_names(stem: dict[str, Any] | None) -> Iterator[tuple[str, str, str]]:
    """Our name of each convolution, then theirs of it and of its normalisation."""
    if stem is None:
        return
    yield "root", "conv_root", "gn_root"
    for stage, depth in enumerate(stem["depths"], start=1):
        for index in range(1, depth + 1):
            unit = f"block{stage}/unit{index}"
            for part in ("1", "2", "3", "_proj"):
                ours = f"stage{stage}_unit{index}_{part.removeprefix('_')}"
                yield ours, f"{unit}/conv{part}", f"{unit}/gn{part}"


def _piece(key: str, index: int | None) -> Piece:
    """An array, or the slice of a stacked one that belongs to a block."""
    return Piece(key) if index is None else Piece(key, 0, index, index + 1)


def _dense(path: str, key: str, index: int | None = None) -> Iterator[Entry]:
    yield entry(f"{path}/kernel", [_piece(f"{key}/kernel", index)])
    yield entry(f"{path}/bias", [_piece(f"{key}/bias", index)])


def _norm(path: str, key: str, index: int | None = None) -> Iterator[Entry]:
    yield entry(f"{path}/gamma", [_piece(f"{key}/scale", index)])
    yield entry(f"{path}/beta", [_piece(f"{key}/bias", index)])


def _mlp(path: str, key: str, index: int | None = None) -> Iterator[Entry]:
    yield from _dense(f"{path}/fc1", f"{key}/Dense_0", index)
    yield from _dense(f"{path}/fc2", f"{key}/Dense_1", index)
