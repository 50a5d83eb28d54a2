"""What a version says about itself, in files that no server needs."""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

import keras_vit
from keras_vit import VisionTransformer

CARD_FILE = "assets.extra/model_card.json"
LABELS_FILE = "assets.extra/labels.txt"


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a model comes from, as far as the one who exports it knows.

    Args:
        source: what it was read from. Default None: not known.
        accuracy: figures by name, e.g. {"top1": 0.81}. Default none.
    """

    source: str | None = None
    accuracy: dict[str, float] = dataclasses.field(default_factory=dict)


def model_card(model: VisionTransformer, dtype: str, origin: Origin) -> dict[str, Any]:
    """Everything that one wants to know of a served model without loading it.

    Args:
        model: what is served.
        dtype: of its weights.
        origin: where it comes from.

    Returns:
        Plain JSON values: architecture, source, preprocessing with its fingerprint, parameters,
        accuracy if known, and versions.

    Example:
        >>> model = VisionTransformer(32, 8, hidden_dim=16, depth=1, num_heads=2, num_classes=3)
        >>> model_card(model, "float32", Origin())["parameters"] == model.count_params()
        True
    """
    config = model.get_config()
    default = VisionTransformer.default_arguments()
    left_out = ("preprocessing", "labels", "dtype", "name")
    return {
        "architecture": {
            key: value
            for key, value in config.items()
            if key not in left_out and (key not in default or default[key] != value)
        },
        "source": origin.source,
        "accuracy": origin.accuracy,
        "parameters": model.count_params(),
        "dtype": dtype,
        "num_classes": model.num_classes,
        "preprocessing": config["preprocessing"],
        "preprocessing_fingerprint": model.preprocessing.fingerprint,
        "versions": {
            "keras_vit": keras_vit.__version__,
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
        },
        "exported": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def write_card(directory: Path, model: VisionTransformer, dtype: str, origin: Origin) -> None:
    """Write a version's card, and its labels one per line.

    Args:
        directory: of the version.
        model: what is served.
        dtype: of its weights.
        origin: where it comes from.
    """
    card = directory / CARD_FILE
    card.parent.mkdir(exist_ok=True)
    card.write_text(json.dumps(model_card(model, dtype, origin), indent=2) + "\n")
    if model.labels:
        # One line each, whatever is in a label.
        lines = (" ".join(label.split()) for label in model.labels)
        (directory / LABELS_FILE).write_text("\n".join(lines) + "\n")
