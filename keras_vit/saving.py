"""Opening a model that was trained or saved before."""

from __future__ import annotations

import zipfile
from pathlib import Path

import keras

from keras_vit.vision_transformer import VisionTransformer


def load_model(path: str | Path) -> VisionTransformer:
    """Open a model with its weights, preprocessing and labels.

    Args:
        path: a `.keras` file, or a folder that holds `model.keras`, such as a training workdir.

    Returns:
        The `VisionTransformer`.

    Raises:
        ValueError: if there is no such file, or it is not a saved `VisionTransformer`; the message
            says what was found instead.

    Example:
        >>> import tempfile
        >>> model = VisionTransformer(32, 8, hidden_dim=16, depth=1, num_heads=2, num_classes=3)
        >>> path = Path(tempfile.mkdtemp()) / "model.keras"
        >>> model.save(path)
        >>> load_model(path).num_classes
        3
    """
    file = Path(path)
    if file.is_dir():
        file = file / "model.keras"
        if not file.is_file():
            raise ValueError(
                f"The folder {path} holds no model.keras: `keras-vit train` writes it when "
                f"training is done. Run the same train command again, or name a .keras file."
            )
    if not file.is_file():
        raise ValueError(f"There is no model at {path}: give a .keras file or a training workdir.")
    if not zipfile.is_zipfile(file):
        raise ValueError(
            f"{file} is not a .keras file (a zip archive), or it is damaged: save the model again "
            f"with `model.save('{file.with_suffix('.keras').name}')`."
        )
    try:
        # safe_mode stays on: a file cannot make Keras run code of its own.
        model = keras.models.load_model(file, compile=False, safe_mode=True)
    except (KeyError, OSError, TypeError, ValueError, zipfile.BadZipFile) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ValueError(f"{file} cannot be opened as a Keras model: {reason}") from error
    if not isinstance(model, VisionTransformer):
        raise ValueError(
            f"{file} holds a {type(model).__name__}, but a keras_vit.VisionTransformer is needed."
        )
    return model
