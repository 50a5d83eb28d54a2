"""`save_checkpoint`: the way back to the libraries that checkpoints come from."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from keras_vit.layers.position_embedding import sincos2d_table
from keras_vit.vision_transformer import VisionTransformer
from keras_vit.weights.arrays import open_arrays
from keras_vit.weights.google import NEW_LAYOUT, OLD_LAYOUT, google_entries
from keras_vit.weights.loading import recognise
from keras_vit.weights.mapping import save_arrays
from keras_vit.weights.safetensors import write_safetensors
from keras_vit.weights.timm_config import timm_config
from keras_vit.weights.timm_names import timm_entries
from keras_vit.weights.transformers_config import transformers_config
from keras_vit.weights.transformers_names import transformers_entries
from keras_vit.weights.transformers_processor import write_processor

FORMATS = ("timm", "google", "transformers")
# Arguments that training has and that no checkpoint needs to tell.
_NOT_COMPARED = (
    "image_size", "position_grid", "position_resampling", "mlp_ratio", "mlp_dim", "dropout_rate",
    "attention_dropout_rate", "drop_path_rate", "preprocessing", "labels", "dtype", "name",
    "num_channels", "allow_remainder", "init_values", "distillation_head",
)  # fmt: skip


def save_checkpoint(model: VisionTransformer, path: str | Path, format: str) -> Path:
    """Write a model as its neighbours in the field do, so that their libraries load it.

    What is written is recognised again before it takes its place: a model that the format cannot
    describe in full is refused.

    Args:
        model: whose weights, evaluation transform and labels are written.
        path: "timm" and "transformers" write a folder with `config.json` and
            `model.safetensors`; "google" writes an `.npz`. It must not exist yet.
        format: "timm", "google" (vision_transformer, or big_vision where that has the parts) or
            "transformers".

    Returns:
        The path.

    Raises:
        ValueError: if the format is unknown, the path exists, or the format has no place for a
            part of the model; the message names it.

    Example:
        >>> import tempfile
        >>> model = VisionTransformer(32, 8, hidden_dim=16, depth=1, num_heads=2, num_classes=3)
        >>> folder = save_checkpoint(model, Path(tempfile.mkdtemp()) / "vit", format="timm")
        >>> sorted(file.name for file in folder.iterdir())
        ['config.json', 'model.safetensors']
    """
    path = Path(path)
    if format not in FORMATS:
        raise ValueError(f"format must be one of {FORMATS}, not {format!r}.")
    if path.exists():
        raise ValueError(f"{path} exists already: choose another path, or remove it first.")
    if format == "google" and path.suffix != ".npz":
        raise ValueError(f"Google's format is one .npz file: give a path like {path}.npz.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".saving-") as folder:
        target = Path(folder) / path.name
        if format == "google":
            _write_google(model, target)
        else:
            target.mkdir()
            write = _write_timm if format == "timm" else _write_transformers
            write(model, target)
        _check(model, target, format)
        shutil.move(target, path)
    return path


def _write_timm(model: VisionTransformer, folder: Path) -> None:
    config, split_gate = timm_config(model)
    arrays = save_arrays(model, timm_entries(model.get_config(), split_gate=split_gate))
    _add_fixed_positions(model, arrays, "pos_embed")
    for name in [n for n in arrays if n.endswith(".running_mean")]:
        count = name.replace("running_mean", "num_batches_tracked")
        arrays[count] = np.zeros([], np.int64)
    write_safetensors(folder / "model.safetensors", arrays)
    _write_json(folder / "config.json", config)


def _write_transformers(model: VisionTransformer, folder: Path) -> None:
    config, prefix, names = transformers_config(model)
    entries = transformers_entries(model.get_config(), config["model_type"], prefix, names)
    arrays = save_arrays(model, entries)
    write_safetensors(folder / "model.safetensors", arrays)
    _write_json(folder / "config.json", config)
    _write_json(folder / "preprocessor_config.json", write_processor(model.preprocessing))


def _write_google(model: VisionTransformer, file: Path) -> None:
    config = model.get_config()
    new = config["pooling"] == "map" or config["no_embed_class"]
    new = new or config["position_embedding"] != "learned"
    layout, prefix = (NEW_LAYOUT, "params/") if new else (OLD_LAYOUT, "")
    arrays = save_arrays(model, google_entries(config, layout, prefix))
    heads = config["num_heads"]
    for name, value in arrays.items():
        if re.search(r"/(query|key|value)/(kernel|bias)$", name):
            arrays[name] = value.reshape(*value.shape[:-1], heads, -1)
        elif name.endswith("/out/kernel"):
            arrays[name] = value.reshape(heads, -1, value.shape[-1])
    with file.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


def _add_fixed_positions(
    model: VisionTransformer, arrays: dict[str, np.ndarray], name: str
) -> None:
    """A sine-cosine table as learned positions, for a library that knows no other."""
    config = model.get_config()
    if config["position_embedding"] == "sincos2d":
        table = sincos2d_table(model.grid, model.hidden_dim).astype(np.float32)
        prefix = 0 if config["no_embed_class"] else model.num_prefix_tokens
        arrays[name] = np.concatenate([np.zeros([prefix, table.shape[1]], np.float32), table])[None]


def _check(model: VisionTransformer, path: Path, format: str) -> None:
    """Recognise what was written, and compare it with the model."""
    with open_arrays(path) as arrays:
        source, _, _ = recognise(arrays, path, None, model.image_size)
        again = VisionTransformer.default_arguments() | source.arguments
    config = model.get_config()
    expected = {key: value for key, value in config.items() if key not in _NOT_COMPARED}
    if config["position_embedding"] == "sincos2d" and format == "timm":
        expected["position_embedding"] = "learned"
    if not config["class_token"] or config["position_embedding"] == "none":
        expected.pop("no_embed_class")  # says nothing without a class token
    lost = [
        f"{key}={value!r} would come back as {again[key]!r}"
        for key, value in expected.items()
        if not _equal(value, again[key])
    ]
    if lost:
        raise ValueError(
            f"The format {format!r} cannot hold this model: {'; '.join(lost)}. Save it in another "
            f"format, or with `model.save('model.keras')`."
        )


def _equal(one: Any, other: Any) -> bool:
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return tuple(value) if isinstance(value, list | tuple) else value

    one, other = plain(one), plain(other)
    if isinstance(one, dict) and isinstance(other, dict):
        return all(
            one.get(k, _STEM_DEFAULTS.get(k)) == other.get(k, _STEM_DEFAULTS.get(k))
            for k in one.keys() | other.keys()
        )
    return bool(one == other)


_STEM_DEFAULTS = {
    "width": 64, "variance_epsilon": 0.0, "std_epsilon": 1e-5, "norm_epsilon": 1e-6
}  # fmt: skip


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
