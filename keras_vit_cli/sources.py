"""The MODEL of a command: whatever `from_pretrained` takes."""

from __future__ import annotations

import csv
import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keras_vit import VisionTransformer


def open_model(
    source: str, architecture: str | None = None, image_size: int | tuple[int, int] | None = None
) -> VisionTransformer:
    """The model of a workdir, a file, a folder or an address.

    Args:
        source: see `keras_vit.from_pretrained`.
        architecture: a timm name, for arrays that do not come with one. Default None.
        image_size: another input size, a side or height and width. Default None.

    Returns:
        The model; what a download reports goes to standard error.

    Raises:
        ValueError: as `from_pretrained` does.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from keras_vit import create_model
        >>> path = Path(tempfile.mkdtemp()) / "model.keras"
        >>> create_model("Ti/16", num_classes=3, image_size=32, depth=1).save(path)
        >>> open_model(str(path)).num_classes
        3
    """
    from keras_vit import from_pretrained

    return from_pretrained(
        source,
        image_size=image_size,
        architecture=architecture,
        report=functools.partial(print, file=sys.stderr),
    )


def accuracy_of(source: str) -> dict[str, float]:
    """What a training workdir says about its model on the test split.

    Args:
        source: the MODEL of a command.

    Returns:
        `top1` and `top5` of the last epoch; nothing for other sources.

    Example:
        >>> accuracy_of("hf://timm/vit_tiny_patch16_224.augreg_in21k")
        {}
    """
    file = Path(source) / "metrics.csv"
    if not file.is_file():
        return {}
    with file.open() as opened:
        last = list(csv.DictReader(opened))[-1]
    return {name: float(last[f"val_{name}"]) for name in ("top1", "top5")}
