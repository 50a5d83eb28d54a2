"""The MODEL of a command: whatever `from_pretrained` takes."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keras_vit import VisionTransformer


def open_model(
    source: str, architecture: str | None = None, image_size: int | None = None
) -> VisionTransformer:
    """The model of a workdir, a file, a folder or an address.

    Args:
        source: see `keras_vit.from_pretrained`.
        architecture: a timm name, for arrays that do not come with one. Default None.
        image_size: another input size. Default None.

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
