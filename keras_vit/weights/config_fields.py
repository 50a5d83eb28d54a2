"""What a `config.json` may say: checked before anything is built from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_vit.costs import costs
from keras_vit.layers.attention import check_num_heads
from keras_vit.vision_transformer import VisionTransformer
from keras_vit.weights.arrays import Arrays

_LARGEST = 2**31 - 1
_DEEPEST = 64  # blocks of a file with fewer arrays; the deepest published model has 56
_ALWAYS = 300_000_000  # parameters, 1.2 GB, that are built to say which arrays do not fit


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_size(value: Any) -> bool:
    sides = value if isinstance(value, list | tuple) else (value, value)
    return len(sides) == 2 and all(_is_count(side) and side > 0 for side in sides)


_KINDS = {
    "count": (_is_count, "a whole number from 0"),
    "number": (_is_number, "a finite number"),
    "numbers": (
        lambda value: isinstance(value, list | tuple) and all(map(_is_number, value)),
        "a list of finite numbers",
    ),
    "size": (_is_size, "a positive whole number or two of them"),
    "flag": (lambda value: type(value) is bool, "true or false"),
    "text": (lambda value: isinstance(value, str), "a text"),
    "object": (lambda value: isinstance(value, dict), "an object"),
}


def check_fields(path: Path, config: Mapping[str, Any], fields: Mapping[str, str]) -> None:
    """Refuse a field whose value is of another kind than the library of the file writes.

    Args:
        path: of the checkpoint, for the message.
        config: what is checked; a field that is absent or null is not.
        fields: name -> "count", "number", "numbers", "size", "flag", "text" or "object".

    Raises:
        ValueError: if a value is not of its kind; the message names the field.

    Example:
        >>> check_fields(Path("vit"), {"depth": "12"}, {"depth": "count"})
        Traceback (most recent call last):
          ...
        ValueError: The config of vit has depth='12', expected is a whole number from 0.
    """
    for name, kind in fields.items():
        value = config.get(name)
        is_kind, expected = _KINDS[kind]
        if value is not None and not is_kind(value):
            raise ValueError(
                f"The config of {path} has {name}={value!r:.80}, expected is {expected}."
            )


def check_plausible(arrays: Arrays, arguments: dict[str, Any]) -> None:
    """Refuse a description of a model that is far larger than what the file holds.

    Without it a file of some bytes could ask for all the memory of a machine.

    Args:
        arrays: the open file.
        arguments: of the `VisionTransformer` that the checkpoint describes.

    Raises:
        ValueError: if the model would be that large.
    """
    a = VisionTransformer.default_arguments() | arguments
    if a["depth"] > max(_DEEPEST, len(arrays)):
        raise ValueError(
            f"{arrays.path} holds {len(arrays)} arrays, but describes {a['depth']} blocks: its "
            f"config.json belongs to another model."
        )
    if min(a["depth"], a["hidden_dim"], a["num_heads"]) < 1:
        return  # which the model refuses itself
    check_num_heads(a["hidden_dim"], a["num_heads"])
    parameters, _ = costs(arguments)
    num_values = sum(math.prod(arrays.shape(key)) for key in arrays)
    if parameters > _ALWAYS + 4 * num_values:
        raise ValueError(
            f"{arrays.path} describes a model of {parameters:,} parameters, but holds "
            f"{num_values:,} numbers: its config.json belongs to another model, or the "
            f"architecture is wrong."
        )
