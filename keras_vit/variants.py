"""Architectures by name."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
from typing import Any

from keras_vit.arguments import make_stem
from keras_vit.costs import costs
from keras_vit.preprocessing import size_pair
from keras_vit.variant_table import OLD_NAMES, PAPER_NAMES, ROWS, Variant
from keras_vit.variant_tags import TAG_TRANSFORMS
from keras_vit.vision_transformer import VisionTransformer

VARIANTS = {row.name: row for row in ROWS}


def list_models(pattern: str = "*") -> list[str]:
    """The names that `create_model` knows.

    Args:
        pattern: shell-style pattern over the timm names and the paper names, in any case.
            Default "*": all.

    Returns:
        timm names in the table's order: by family, then by the alphabet.

    Example:
        >>> list_models("vit_base_patch16_?8?")
        ['vit_base_patch16_384']
        >>> list_models("ViT-H*")
        ['vit_huge_patch14_224']
    """
    pattern = pattern.lower()
    return [
        row.name
        for row in ROWS
        if fnmatch.fnmatchcase(row.name, pattern)
        or any(fnmatch.fnmatchcase(name.lower(), pattern) for name in paper_names(row.name))
    ]


def paper_names(name: str) -> list[str]:
    """What the papers call a variant, "ViT-B/16" for "vit_base_patch16_224"; often nothing."""
    return [paper for paper, row in PAPER_NAMES.items() if row == name]


def get_variant(name: str) -> Variant:
    """The row of a name.

    Args:
        name: a timm name, "vit_base_patch16_224", also with the tag of its weights
            ("vit_base_patch16_224.augreg_in21k") or one that timm has given up; or a paper name,
            "ViT-B/16" or "B/16".

    Returns:
        The `Variant`; with the evaluation transform of the tag's weights, if one is given.

    Raises:
        ValueError: if there is none; the message offers the nearest names.

    Example:
        >>> get_variant("ViT-B/16").name
        'vit_base_patch16_224'
    """
    given = name.strip()
    if given in PAPER_NAMES:  # as written first: g/14 is another model than G/14
        return VARIANTS[PAPER_NAMES[given]]
    if f"ViT-{given}" in PAPER_NAMES:
        return VARIANTS[PAPER_NAMES[f"ViT-{given}"]]
    key, _, tag = given.lower().partition(".")
    papers = {paper.lower(): row for paper, row in reversed(PAPER_NAMES.items())}
    row = OLD_NAMES.get(key) or papers.get(key) or papers.get(f"vit-{key}") or key
    row, _, old_tag = row.partition(".")
    if row in VARIANTS:
        variant = VARIANTS[row]
        fields = TAG_TRANSFORMS.get(f"{row}.{tag or old_tag}", {})
        return dataclasses.replace(variant, preprocessing=variant.preprocessing.replace(**fields))
    near = difflib.get_close_matches(key, [*VARIANTS, *OLD_NAMES, *papers], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ValueError(f"No model is called {name!r}: {hint}`list_models()` gives all names.")


def create_model(
    name: str,
    /,
    num_classes: int = 1000,
    image_size: int | tuple[int, int] | str | None = None,
    **overrides: Any,
) -> VisionTransformer:
    """A Vision Transformer by name, with fresh weights.

    Args:
        name: a timm name or a paper name; see `list_models`.
        num_classes: outputs of the head; 0 leaves the head out. Default 1000.
        image_size: height and width of the input, an int or a pair; "any" takes images of every
            size. Default None: the variant's own.
        **overrides: any other argument of `VisionTransformer`, its `name` included.

    Returns:
        The `VisionTransformer`.

    Raises:
        ValueError: if the name is unknown, or an argument out of range.
        TypeError: if an override is not an argument of `VisionTransformer`.

    Example:
        >>> create_model("ViT-Ti/16", num_classes=10, image_size=32).count_params()
        5489482
    """
    variant = get_variant(name)
    arguments = variant.arguments | overrides | {"num_classes": num_classes}
    if image_size == "any":
        stride = _stem_stride(arguments)
        rows, columns = size_pair(variant.arguments["image_size"], "image_size")
        height, width = size_pair(arguments["patch_size"], "patch_size")
        arguments |= {
            "image_size": None,
            "position_grid": (rows // (stride * height), columns // (stride * width)),
        }
    elif image_size is not None:
        arguments["image_size"] = image_size
    arguments.setdefault("name", variant.name)
    if "preprocessing" not in arguments:
        size = arguments["image_size"] or variant.arguments["image_size"]
        arguments["preprocessing"] = variant.preprocessing.replace(image_size=size)
    return VisionTransformer(**arguments)


def _stem_stride(arguments: dict[str, Any]) -> int:
    """How many pixels of the image one cell of the stem's feature map stands for."""
    stem = make_stem(arguments.get("stem"), None)
    return stem.stride if stem else 1


def count_parameters(name: str, /, num_classes: int = 1000, **overrides: Any) -> int:
    """How many parameters a variant has, without allocating them.

    Args:
        name: as `create_model` takes it.
        num_classes: outputs of the head. Default 1000.
        **overrides: as `create_model` takes them.

    Returns:
        The number of parameters.

    Raises:
        ValueError: as `create_model` does.

    Example:
        >>> count_parameters("ViT-H/14")
        632045800
    """
    arguments = get_variant(name).arguments | overrides | {"num_classes": num_classes}
    return costs(arguments)[0]
