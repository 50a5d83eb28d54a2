"""The arrays of PyTorch's own files, by PyTorch itself and without running what they hold."""

from __future__ import annotations

import pickle
import re
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from keras_vit.weights.arrays import ArrayInfo, Arrays, damaged

# Where training scripts put the weights; as in timm the averages, which are evaluated, come first.
_NESTED = ("state_dict_ema", "model_ema", "state_dict", "model", "module")
# What data parallelism and compilation put before every name.
_WRAPPERS = re.compile(r"^((module|_orig_mod)\.)+")
# Before it `weights_only` had holes that ran code: CVE-2025-32434 and CVE-2026-24747.
_MIN_TORCH = (2, 10)
# What torch and its unpickler raise for damaged and for hostile files.
_REFUSED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    NameError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
)
_CONVERT = """convert it to safetensors where you trust it:
  import torch, safetensors.torch
  safetensors.torch.save_file(torch.load({name!r}, {trust}), "model.safetensors")"""


class TorchArrays(Arrays):
    """The tensors of a file that `torch.save` wrote.

    Args:
        path: of the file.
        zipped: whether it is a zip archive, as torch has written them since 1.6.

    Raises:
        ValueError: if torch is not installed or too old, or the file holds more than tensors.
    """

    def __init__(self, path: Path, *, zipped: bool) -> None:
        super().__init__(path)
        torch = _import_torch(path)
        # torch compresses nothing: only a bomb is larger than its file.
        if zipped:
            with zipfile.ZipFile(path) as archive:
                if any(member.compress_type for member in archive.infolist()):
                    raise damaged(path, "it is compressed, which torch.save never does")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what matters is an error
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        except _REFUSED as error:
            raise ValueError(_refusal(path, str(error))) from error
        if not isinstance(content, dict):
            raise ValueError(
                f"{path} holds a {type(content).__name__}, expected is a dictionary of tensors."
            )
        self._tensors = _state_dict(content, torch)
        if not self._tensors:
            names = ", ".join(str(key)[:40] for key in list(content)[:10])
            raise ValueError(
                f"{path} holds no tensors, neither itself nor under {_NESTED}; it holds: {names}. "
                f"Save the part that you need again, with torch.save."
            )
        for name, tensor in self._tensors.items():
            self._check(name, tensor)
            self.infos[name] = ArrayInfo(tuple(tensor.shape), _dtype(tensor))

    def close(self) -> None:
        """Forget the tensors."""
        super().close()
        self._tensors.clear()

    def _check(self, name: str, tensor: Any) -> None:
        if tensor.device.type != "cpu" or str(tensor.layout) != "torch.strided":
            raise damaged(self.path, f"{name!r:.100} is a {tensor.device.type} {tensor.layout}")
        if tensor.is_nested:
            raise ValueError(f"{self.path}: {name!r:.100} is nested; expected are numbers.")
        if _dtype(tensor).startswith("q"):
            raise ValueError(f"{self.path}: {name!r:.100} is quantized; expected are numbers.")
        # A few numbers repeated by strides of 0 would fill any memory.
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise damaged(self.path, f"{name!r:.100} is larger than what is stored of it")

    def _read(self, name: str, info: ArrayInfo) -> np.ndarray:
        import ml_dtypes
        import torch

        # A copy, so that nothing of the file is left when it is closed.
        try:
            tensor = self._tensors[name].detach().resolve_conj().resolve_neg()
            if info.dtype == "bfloat16" or info.dtype.startswith("float8"):
                # torch cannot hand these to numpy: it gets the bits.
                bits = tensor.view(torch.uint16 if info.dtype == "bfloat16" else torch.uint8)
                return np.array(bits.numpy(), order="C").view(getattr(ml_dtypes, info.dtype))
            return np.array(tensor.numpy(), order="C")
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"{name!r:.100} of {self.path} ({info.dtype}) cannot be read: {error}"
            ) from error


def _import_torch(path: Path) -> Any:
    convert = _CONVERT.format(name=path.name, trust="weights_only=True")
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f"{path} is a file of PyTorch, which only PyTorch reads: install torch, or {convert}"
        ) from error
    if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < _MIN_TORCH:
        raise ValueError(
            f"{path} needs torch {'.'.join(map(str, _MIN_TORCH))} or newer, as a file could run "
            f"code in torch {torch.__version__}: update torch, or {convert}"
        )
    return torch


def _refusal(path: Path, reason: str) -> str:
    """What to say when torch does not load a file."""
    wanted = re.search(
        r"(?i)unsupported (global|class|function)\W+[^\n]{0,80}?(?= was| whose|$)", reason
    )
    if wanted:
        convert = _CONVERT.format(name=path.name, trust="weights_only=False")
        return (
            f"{path} wants to run code of its own and is not loaded ({wanted[0]}). Take a "
            f".safetensors of the same model, or {convert}"
        )
    # torch puts advice about its own options before its reason
    reason = reason.rpartition("WeightsUnpickler error:")[2].strip() or "no reason given"
    reason = reason.splitlines()[0][:200]
    return (
        f"{path} is not loaded: it wants to run code of its own, or is damaged ({reason}). Fetch "
        f"it again, or take a .safetensors of the same model."
    )


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _state_dict(content: dict[Any, Any], torch: Any, depth: int = 3) -> dict[str, Any]:
    """The tensors by name, from under the keys where training scripts put them."""
    for key in _NESTED:
        inner = content.get(key)
        if depth and isinstance(inner, dict) and (found := _state_dict(inner, torch, depth - 1)):
            return found
    return {
        _WRAPPERS.sub("", key): value
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, torch.Tensor)
    }
