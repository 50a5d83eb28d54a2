"""The table of architectures: a new variant is one row."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import math
from typing import Any

import keras

from keras_vit.preprocessing import Preprocessing, size_pair
from keras_vit.vision_transformer import VisionTransformer


@dataclasses.dataclass(frozen=True)
class Variant:
    """One named architecture.

    Args:
        name: as timm has it.
        paper_name: as Dosovitskiy et al. (2021) and Steiner et al. (2022) write it, such as
            "ViT-B/16"; the variant at its first image size answers to it.
        image_size: side of the image in pixels.
        patch_size: side of a patch in pixels.
        hidden_dim: width of a token.
        depth: number of blocks.
        num_heads: number of attention heads.
        crop_fraction: of the evaluation transform.
        options: further arguments of `VisionTransformer`.
    """

    name: str
    paper_name: str
    image_size: int
    patch_size: int
    hidden_dim: int
    depth: int
    num_heads: int
    crop_fraction: float = 0.9
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        """The arguments of `VisionTransformer` for this row."""
        return {
            "image_size": self.image_size,
            "patch_size": self.patch_size,
            "hidden_dim": self.hidden_dim,
            "depth": self.depth,
            "num_heads": self.num_heads,
            **self.options,
        }


# width, depth, heads: Table 1 of Dosovitskiy et al. (2021); Ti and S from Steiner et al. (2022).
_TI, _S, _B, _L, _H = (192, 12, 3), (384, 12, 6), (768, 12, 12), (1024, 24, 16), (1280, 32, 16)

_ROWS = (
    Variant("vit_tiny_patch16_224", "ViT-Ti/16", 224, 16, *_TI),
    Variant("vit_tiny_patch16_384", "ViT-Ti/16", 384, 16, *_TI, crop_fraction=1.0),
    Variant("vit_small_patch32_224", "ViT-S/32", 224, 32, *_S),
    Variant("vit_small_patch32_384", "ViT-S/32", 384, 32, *_S, crop_fraction=1.0),
    Variant("vit_small_patch16_224", "ViT-S/16", 224, 16, *_S),
    Variant("vit_small_patch16_384", "ViT-S/16", 384, 16, *_S, crop_fraction=1.0),
    Variant("vit_small_patch8_224", "ViT-S/8", 224, 8, *_S),
    Variant("vit_base_patch32_224", "ViT-B/32", 224, 32, *_B),
    Variant("vit_base_patch32_384", "ViT-B/32", 384, 32, *_B, crop_fraction=1.0),
    Variant("vit_base_patch16_224", "ViT-B/16", 224, 16, *_B),
    Variant("vit_base_patch16_384", "ViT-B/16", 384, 16, *_B, crop_fraction=1.0),
    Variant("vit_base_patch8_224", "ViT-B/8", 224, 8, *_B),
    Variant("vit_large_patch32_224", "ViT-L/32", 224, 32, *_L),
    Variant("vit_large_patch32_384", "ViT-L/32", 384, 32, *_L, crop_fraction=1.0),
    Variant("vit_large_patch16_224", "ViT-L/16", 224, 16, *_L),
    Variant("vit_large_patch16_384", "ViT-L/16", 384, 16, *_L, crop_fraction=1.0),
    Variant("vit_large_patch14_224", "ViT-L/14", 224, 14, *_L),
    Variant("vit_huge_patch14_224", "ViT-H/14", 224, 14, *_H),
)
VARIANTS = {row.name: row for row in _ROWS}
_PAPER_NAMES = {row.paper_name.lower(): row for row in reversed(_ROWS)}


def list_models(pattern: str = "*") -> list[str]:
    """The names that `create_model` knows.

    Args:
        pattern: shell-style pattern over the timm names and the paper names, in any case.
            Default "*": all.

    Returns:
        timm names in the table's order: small to large.

    Example:
        >>> list_models("vit_base_patch16*")
        ['vit_base_patch16_224', 'vit_base_patch16_384']
        >>> list_models("ViT-H*")
        ['vit_huge_patch14_224']
    """
    pattern = pattern.lower()
    return [
        row.name
        for row in _ROWS
        if fnmatch.fnmatchcase(row.name, pattern)
        or fnmatch.fnmatchcase(row.paper_name.lower(), pattern)
    ]


def get_variant(name: str) -> Variant:
    """The row of a name.

    Args:
        name: a timm name, "vit_base_patch16_224", or a paper name, "ViT-B/16" or "B/16".

    Returns:
        The `Variant`.

    Raises:
        ValueError: if there is none; the message offers the nearest names.

    Example:
        >>> get_variant("ViT-B/16").name
        'vit_base_patch16_224'
    """
    key = name.strip().lower()
    for table, candidate in ((VARIANTS, key), (_PAPER_NAMES, key), (_PAPER_NAMES, f"vit-{key}")):
        if candidate in table:
            return table[candidate]
    near = difflib.get_close_matches(key, [*VARIANTS, *_PAPER_NAMES], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ValueError(f"No model is called {name!r}: {hint}`list_models()` gives all names.")


def create_model(
    name: str,
    /,
    num_classes: int = 1000,
    image_size: int | tuple[int, int] | None = None,
    **overrides: Any,
) -> VisionTransformer:
    """A Vision Transformer by name, with fresh weights.

    Args:
        name: a timm name or a paper name; see `list_models`.
        num_classes: outputs of the head; 0 leaves the head out. Default 1000.
        image_size: height and width of the input. Default None: the variant's own.
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
    arguments = variant.arguments() | overrides | {"num_classes": num_classes}
    if image_size is not None:
        arguments["image_size"] = image_size
    arguments.setdefault("name", variant.name)
    arguments.setdefault(
        "preprocessing",
        Preprocessing(
            image_size=size_pair(arguments["image_size"], "image_size"),
            crop_fraction=variant.crop_fraction,
        ),
    )
    return VisionTransformer(**arguments)


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
    with keras.StatelessScope(initialize_variables=False):
        model = create_model(name, num_classes, **overrides)
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)
