"""What a model is, in plain values that a file can hold."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_vit._version import __version__
from keras_vit.vision_transformer import VisionTransformer


def description(model: VisionTransformer) -> dict[str, Any]:
    """Everything that one wants to know of a model without loading it.

    Args:
        model: any `VisionTransformer`.

    Returns:
        Plain JSON values: `architecture` (the arguments that are not their defaults), `parameters`,
        `num_classes`, `preprocessing` and its `preprocessing_fingerprint`, and the `versions` of
        the libraries.

    Example:
        >>> model = VisionTransformer(32, 8, hidden_dim=16, depth=1, num_heads=2, num_classes=3)
        >>> description(model)["architecture"]["hidden_dim"]
        16
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
        "parameters": model.count_params(),
        "num_classes": model.num_classes,
        "preprocessing": config["preprocessing"],
        "preprocessing_fingerprint": model.preprocessing.fingerprint,
        "versions": {
            "keras_vit": __version__,
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
        },
    }
