"""The evaluation transform of transformers: `preprocessor_config.json`, both ways."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from keras_vit.preprocessing import Preprocessing, size_pair
from keras_vit.weights.config_fields import check_fields

RESAMPLE = {0: "nearest", 1: "lanczos3", 2: "bilinear", 3: "bicubic", 4: "box"}  # PIL's numbers
_HALF = (0.5, 0.5, 0.5)
_OPENAI = {
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
    "do_center_crop": True,
    "crop_size": 224,
    "size": {"shortest_edge": 224},
}
# What each processor does where its file does not say.
_COMMON: dict[str, Any] = {"resample": 3, "image_mean": _HALF, "image_std": _HALF}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "ViT": _COMMON | {"resample": 2},
    "DeiT": _COMMON | {"do_center_crop": True, "crop_size": 224, "size": 256},
    "CLIP": _COMMON | _OPENAI,
    "Bit": _COMMON | _OPENAI,
    "Siglip": _COMMON,
}
# Which processor a type has, where the file does not name one.
_OF_TYPE = {
    "deit": "DeiT",
    "clip_vision_model": "CLIP",
    "siglip_vision_model": "Siglip",
    "dinov2": "Bit",
    "dinov2_with_registers": "Bit",
}
_KEEP_ASPECT = ("CLIP", "Bit")  # a size that is one number is that of the shorter edge
_FIELDS = {
    "do_normalize": "flag", "do_rescale": "flag", "do_center_crop": "flag", "resample": "count",
    "rescale_factor": "number",
}  # fmt: skip


def read_processor(
    path: Path, kind: str, processor: dict[str, Any], image_size: tuple[int, int]
) -> Preprocessing:
    """The evaluation transform of an image processor.

    Args:
        path: of the checkpoint, for messages.
        kind: the `model_type`, which says the processor where the file does not.
        processor: the content of `preprocessor_config.json`; empty when there is none.
        image_size: height and width of the model's input.

    Returns:
        The `Preprocessing`.

    Raises:
        ValueError: if a field has no counterpart.
    """
    if not processor:
        return Preprocessing(image_size, resize_mode="squash", crop_fraction=1.0)
    check_fields(path, processor, _FIELDS)
    named = processor.get("image_processor_type") or processor.get("feature_extractor_type")
    match = re.match("|".join(_DEFAULTS), str(named))
    family = match[0] if match else _OF_TYPE.get(kind, "ViT")
    given = {key: value for key, value in processor.items() if value is not None}
    spec = _DEFAULTS[family] | given
    if spec["resample"] not in RESAMPLE:
        raise ValueError(
            f"The processor of {path} resamples with PIL's filter {spec['resample']}: known are "
            f"{sorted(RESAMPLE)}."
        )
    mean, std = _channels(spec["image_mean"]), _channels(spec["image_std"])
    if not spec.get("do_normalize", True):
        mean, std = (0.0,) * 3, (1.0,) * 3
    scale = 255 * spec.get("rescale_factor", 1 / 255) if spec.get("do_rescale", True) else 255.0
    if spec.get("rescale_offset"):  # then 1 is subtracted before the mean
        mean = tuple(m + 1 for m in mean)
    size = spec.get("size") or image_size
    if isinstance(size, int) and family in _KEEP_ASPECT:
        size = {"shortest_edge": size}
    keep_aspect = isinstance(size, dict) and "shortest_edge" in size
    resized = _sides(size)
    crop = _sides(spec["crop_size"]) if spec.get("do_center_crop") else resized
    return Preprocessing(
        image_size,
        resize_mode="crop" if keep_aspect else "squash",
        crop_fraction=_fraction(crop[0], resized[0]),
        interpolation=RESAMPLE[spec["resample"]],
        mean=tuple(m / scale for m in mean),  # type: ignore[arg-type]
        std=tuple(s / scale for s in std),  # type: ignore[arg-type]
    )


def write_processor(spec: Preprocessing) -> dict[str, Any]:
    """The `preprocessor_config.json` of an evaluation transform.

    Args:
        spec: the transform.

    Returns:
        The content of the file.

    Raises:
        ValueError: if transformers has no such transform.
    """
    if spec.resize_mode == "pad":
        raise ValueError("transformers pads no images: choose another format or resize_mode.")
    height, width = size_pair(spec.image_size, "image_size")
    resized = tuple(int(side / spec.crop_fraction) for side in (height, width))
    squash = spec.resize_mode == "squash"
    content: dict[str, Any] = {
        "image_processor_type": "ViTImageProcessor" if squash else "CLIPImageProcessor",
        "do_resize": True,
        "size": {"height": resized[0], "width": resized[1]}
        if squash
        else {"shortest_edge": min(resized)},
        "resample": {name: number for number, name in RESAMPLE.items()}[spec.interpolation],
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


def _channels(value: Any) -> tuple[float, ...]:
    """A mean or deviation for each of three channels; of other images there is none."""
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    return values * 3 if len(values) == 1 else values if len(values) == 3 else _HALF


def _sides(size: Any) -> tuple[int, int]:
    """Height and width of a size in any of the forms that processors write."""
    if isinstance(size, dict):
        edge = size.get("shortest_edge") or size.get("longest_edge")
        size = edge or (size.get("height"), size.get("width", size.get("height")))
    return size_pair(size, "size of the processor")


def _fraction(part: int, whole: int) -> float:
    """The share that makes `whole` of `part` again, rounded down, whatever floats round to."""
    fraction = min(1.0, part / whole)
    while math.floor(part / fraction) < whole and part < whole:
        fraction = math.nextafter(fraction, 0.0)
    return fraction
