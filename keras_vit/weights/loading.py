"""`from_pretrained`: a model from any checkpoint."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_vit.preprocessing import Preprocessing, size_pair
from keras_vit.saving import load_model
from keras_vit.vision_transformer import VisionTransformer
from keras_vit.weights.addresses import fetch, is_address
from keras_vit.weights.arrays import Arrays, open_arrays, read_json
from keras_vit.weights.config_fields import check_plausible
from keras_vit.weights.google import google_prefix, read_google
from keras_vit.weights.mapping import (
    HEADS,
    Source,
    entry,
    load_variables,
    variables_by_path,
)
from keras_vit.weights.timm import read_timm
from keras_vit.weights.transformers import read_transformers

_MAX_JSON = 50_000_000  # bytes; 21,843 class names are two million


def from_pretrained(
    source: str | Path,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | str | None = None,
    patch_size: int | tuple[int, int] | None = None,
    *,
    architecture: str | None = None,
    position_resampling: str | None = None,
    allow_missing: Sequence[str] = (),
    allow_unused: Sequence[str] = (),
    offline: bool | None = None,
    report: Callable[[str], None] | None = None,
    **overrides: Any,
) -> VisionTransformer:
    """A model with the weights, the evaluation transform and the labels of a checkpoint.

    What the checkpoint is, is read off its content: an `.npz` of vision_transformer or big_vision,
    a folder or a `.safetensors` of timm, a folder of transformers, a `.keras` file or a training
    workdir of this project.

    Args:
        source: a path, or an address: "hf://org/name[@revision]", "https://…", "gs://…".
        num_classes: outputs; another number than the checkpoint's gives a fresh head of zeros, and
            0 none. Default None: the head of the checkpoint.
        image_size: height and width of the input, an int or a pair; positions are resampled by the
            rule of the checkpoint's own library. "any" takes images of every size. Default None:
            the checkpoint's own.
        patch_size: height and width of a patch; kernels are resized by pseudo-inverse ("FlexiViT",
            Beyer et al., 2023), and so are the positions. Default None: the checkpoint's own.
        architecture: a timm name, for arrays that do not come with one. Default None.
        position_resampling: another rule, see `keras_vit.resampling`. Default None: the source's.
        allow_missing: patterns of variables that may keep fresh values, `head/*`. Default none.
        allow_unused: patterns of arrays in the file that may stay unread. Default none.
        offline: whether the network stays untouched. Default None: as KERAS_VIT_OFFLINE says.
        report: gets lines on the progress of a download. Default None.
        **overrides: further arguments of `VisionTransformer`, such as `drop_path_rate` or `dtype`.

    Returns:
        The `VisionTransformer`.

    Raises:
        ValueError: if the source cannot be read or recognised, or an array is missing, unused or
            has another shape; the message says what to do.

    Example:
        >>> import tempfile
        >>> from keras_vit import save_checkpoint
        >>> model = VisionTransformer(32, 8, hidden_dim=16, depth=1, num_heads=2, num_classes=3)
        >>> path = save_checkpoint(model, Path(tempfile.mkdtemp()) / "vit", format="timm")
        >>> from_pretrained(path, image_size=64).image_size
        (64, 64)
    """
    path = Path(source)
    if is_address(str(source)):
        path = fetch(str(source), offline=offline, report=report)
    if not path.exists():
        raise ValueError(
            f"There is nothing at {path}: give a file, a folder, or an address that begins with "
            f"hf://, https:// or gs://."
        )
    rules = position_resampling, allow_missing, allow_unused
    asked = None if image_size in (None, "any") else size_pair(image_size, "image_size")  # type: ignore[arg-type]
    workdir = (path / "checkpoints").is_dir()  # of a training; what it lacks, `load_model` says
    if path.suffix == ".keras" or workdir or (path / "model.keras").is_file():
        model = load_model(path)
        if (num_classes, image_size, patch_size) == (None, None, None) and not overrides:
            return model
        own = _own_source(model, path)
        found = own, model.preprocessing, model.labels
        name = model.name
        return _load(found, name, num_classes, image_size, patch_size, overrides, *rules)
    with open_arrays(path) as arrays:
        try:
            found = recognise(arrays, path, architecture, asked)
            check_plausible(arrays, found[0].arguments)
        except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
            raise ValueError(
                f"{path} describes its model in a way that its library never writes "
                f"({error!r:.200}): compare its config.json with one of the same kind."
            ) from error
        name = architecture or path.stem
        return _load(found, name, num_classes, image_size, patch_size, overrides, *rules)


def _load(
    found: tuple[Source, Preprocessing, tuple[str, ...] | None],
    name: str,
    num_classes: int | None,
    image_size: Any,
    patch_size: Any,
    overrides: dict[str, Any],
    position_resampling: str | None,
    allow_missing: Sequence[str],
    allow_unused: Sequence[str],
) -> VisionTransformer:
    """Build the model that was asked for, and fill it."""
    source, preprocessing, labels = found
    if position_resampling is not None:
        source = dataclasses.replace(source, resampling=position_resampling)
        overrides = overrides | {"position_resampling": position_resampling}
    arguments = _arguments(source, num_classes, image_size, patch_size, overrides)
    arguments.setdefault("name", re.sub(r"[^\w.-]", "_", name))
    model = VisionTransformer(**arguments)
    fresh_head = num_classes is not None and num_classes != source.arguments["num_classes"]
    missing, unused = list(allow_missing), list(allow_unused)
    if fresh_head:
        missing += HEADS
        unused += _head_keys(source, model)
    load_variables(model, source, missing, unused)
    size = model.image_size or preprocessing.image_size
    model.preprocessing = preprocessing.replace(image_size=size)
    if labels is not None and not fresh_head and len(labels) == model.num_classes:
        model.labels = labels
    return model


def recognise(
    arrays: Arrays, path: Path, architecture: str | None, image_size: tuple[int, int] | None
) -> Any:
    """What a checkpoint holds, by its content.

    Args:
        arrays: the open file.
        path: of the file or its folder, where the JSON files lie.
        architecture: a timm name, for arrays that do not come with one.
        image_size: what the user asked for.

    Returns:
        The `Source`, the evaluation transform and the labels.

    Raises:
        ValueError: if it is no known kind of checkpoint.
    """
    config = _json(path, "config.json")
    if google_prefix(arrays) is not None:
        return read_google(arrays, image_size)
    if "model_type" in config:
        return read_transformers(arrays, config, _processor(path))
    if "patch_embed.proj.weight" in arrays or any(
        key.startswith(("patch_embed.", "blocks.0.")) for key in arrays
    ):
        return read_timm(arrays, config, architecture)
    some = ", ".join(list(arrays)[:5])
    raise ValueError(
        f"{arrays.path} holds no known kind of Vision Transformer: it has {some}… Known are "
        "the .npz files of vision_transformer and big_vision, timm's names (blocks.0…), and "
        "folders of transformers whose config.json has a model_type."
    )


def _json(path: Path, name: str) -> dict[str, Any]:
    """The content of a JSON file in the folder of a checkpoint; empty when there is none."""
    file = (path if path.is_dir() else path.parent) / name
    if not file.is_file():
        return {}
    try:
        with file.open("rb") as stream:
            text = stream.read(_MAX_JSON + 1)
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    if len(text) > _MAX_JSON:
        raise ValueError(
            f"{file} has more than {_MAX_JSON} bytes: it is no description of a model."
        )
    return read_json(file, text)


def _processor(path: Path) -> dict[str, Any]:
    """What transformers says about the evaluation transform, in the older or the newer file."""
    found = _json(path, "preprocessor_config.json")
    inner = found or _json(path, "processor_config.json").get("image_processor")
    return inner if isinstance(inner, dict) else {}


def _arguments(
    found: Source,
    num_classes: int | None,
    image_size: Any,
    patch_size: Any,
    overrides: dict[str, Any],
) -> dict[str, Any]:
    """The arguments of the model that the user asked for."""
    arguments = found.arguments | overrides
    if num_classes is not None:
        arguments["num_classes"] = num_classes
    if patch_size is not None:
        arguments["patch_size"] = size_pair(patch_size, "patch_size")
    if image_size == "any":
        arguments["image_size"] = None
    else:
        if image_size is not None:
            arguments["image_size"] = size_pair(image_size, "image_size")
        del arguments["position_grid"]
    return arguments


def _head_keys(found: Source, model: VisionTransformer) -> list[str]:
    """The arrays of the head that a fresh one stands in for."""
    heads = tuple(pattern.rstrip("*") for pattern in HEADS)
    return [
        piece.key
        for entry in found.entries(model)
        if entry.path.startswith(heads)
        for piece in entry.pieces
    ]


class _ModelArrays:
    """The variables of a model as if they were the arrays of a file."""

    def __init__(self, model: VisionTransformer, path: Path) -> None:
        self.path = path
        self._variables = variables_by_path(model)

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __getitem__(self, key: str) -> np.ndarray:
        return np.asarray(self._variables[key])

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._variables[key].shape)


def _own_source(model: VisionTransformer, path: Path) -> Source:
    """A model of this project as a source."""
    arguments = model.get_config() | {"position_grid": model.grid}
    for key in ("preprocessing", "labels", "name", "dtype"):
        del arguments[key]
    return Source(
        _ModelArrays(model, path),  # type: ignore[arg-type]
        entries=lambda _: [entry(key, key) for key in variables_by_path(model)],
        arguments=arguments,
        resampling=arguments["position_resampling"],
        name="keras-vit",
    )
