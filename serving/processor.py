"""What the processor of this machine multiplies fast."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from serving.card_file import load_card

# Either of these multiplies bfloat16 faster than float32. Without them TensorFlow turns both
# operands of a product into float32 each time, and takes its slower kernel for it.
_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16"})


def compute_dtype_for(dtype: str, *, accelerated: bool = False) -> str:
    """Which dtype to compute in with weights of a dtype, as fast as this machine can.

    Args:
        dtype: of the weights, "float32" or "bfloat16".
        accelerated: whether a GPU or TPU computes. Default False.

    Returns:
        "bfloat16" for such weights where there are instructions for it; elsewhere "float32".

    Example:
        >>> compute_dtype_for("float32")
        'float32'
    """
    return dtype if accelerated or _BFLOAT16 & instructions() else "float32"


def advice(versions: Iterable[Path]) -> list[str]:
    """Say which exports this machine is slow with, and what to do.

    Args:
        versions: directories of the versions that are served, `BASE/N`.

    Returns:
        A line for each that computes in bfloat16 where the processor has no instructions for it.
        None of machines with a GPU.

    Example:
        >>> advice([])
        []
    """
    if _BFLOAT16 & instructions() or _has_gpu():
        return []
    return [
        f"{version} computes in bfloat16, for which this processor has no instructions: float32 is "
        f"faster here. Export it with --compute-dtype float32."
        for version in versions
        if load_card(version).get("compute_dtype") == "bfloat16"
    ]


def instructions() -> frozenset[str]:
    """The instruction sets of this machine's processor, as Linux names them.

    Returns:
        Such as "avx2" and "avx512_bf16"; nothing on other systems.

    Example:
        >>> "no such instructions" in instructions()
        False
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = (line.partition(":")[2] for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(flags, "").split())


def _has_gpu() -> bool:
    return Path("/proc/driver/nvidia").exists()  # without TensorFlow, which takes seconds
