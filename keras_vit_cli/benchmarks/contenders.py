"""Who can be measured: a name, the packages that it needs and the function that sets it up."""

from __future__ import annotations

import importlib.util

OURS, LIMIT = "keras-vit", "matmul-limit"
_HERE = "keras_vit_cli.benchmarks"
# name -> packages, module and function; a function takes a task and gives a `step()` and a dict.
CONTENDERS = {
    OURS: (("tensorflow",), f"{_HERE}.ours", "build"),
    LIMIT: (("tensorflow",), f"{_HERE}.ours", "build_limit"),
    "timm": (("torch", "timm"), f"{_HERE}.torch_peers", "build_eager"),
    "timm-compile": (("torch", "timm"), f"{_HERE}.torch_peers", "build_compiled"),
    "onnxruntime": (("torch", "timm", "onnx", "onnxruntime"), f"{_HERE}.torch_peers", "build_onnx"),
    "openvino": (("torch", "timm", "openvino"), f"{_HERE}.torch_peers", "build_openvino"),
    "keras-hub": (("tensorflow", "keras_hub"), f"{_HERE}.keras_hub_peer", "build"),
}
# What `pip install` calls the packages whose import names differ.
_INSTALL = {"keras_hub": "keras-hub"}


def missing(name: str) -> str | None:
    """Why a contender cannot run here.

    Args:
        name: in `CONTENDERS`.

    Returns:
        What to install, or None.

    Example:
        >>> missing("keras-vit") is None
        True
    """
    packages = [p for p in CONTENDERS[name][0] if importlib.util.find_spec(p) is None]
    if not packages:
        return None
    return f"not installed: pip install {' '.join(_INSTALL.get(p, p) for p in packages)}"
