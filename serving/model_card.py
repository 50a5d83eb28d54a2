"""What a version says about itself, in files that no server needs."""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

from keras_vit import VisionTransformer
from keras_vit.description import description
from serving.card_file import CARD_FILE
from serving.fused import TokenMerging

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


def model_card(
    model: VisionTransformer,
    dtype: str,
    token_merging: TokenMerging | None,
    streams: int,
    origin: Origin,
) -> dict[str, Any]:
    """Everything that one wants to know of a served model without loading it.

    Args:
        model: what is served.
        dtype: of its weights in the file.
        token_merging: how many tokens its blocks merge, or None.
        streams: in how many parts its tokens are computed.
        origin: where it comes from.

    Returns:
        Plain JSON values: architecture, source, preprocessing with its fingerprint, parameters,
        accuracy if known, and versions.

    Example:
        >>> model = VisionTransformer(32, 8, hidden_dim=16, depth=1, num_heads=2, num_classes=3)
        >>> model_card(model, "float32", None, 1, Origin())["parameters"] == model.count_params()
        True
    """
    known = description(model)
    return {
        "architecture": known.pop("architecture"),
        "source": origin.source,
        "accuracy": origin.accuracy,
        "dtype": dtype,
        "compute_dtype": model.blocks[0].compute_dtype,
        "token_merging": dataclasses.asdict(token_merging) if token_merging else None,
        "streams": streams,
        **known,
        "exported": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def write_card(
    directory: Path,
    model: VisionTransformer,
    dtype: str,
    token_merging: TokenMerging | None,
    streams: int,
    origin: Origin,
) -> None:
    """Write a version's card, and its labels one per line.

    Args:
        directory: of the version.
        model: what is served.
        dtype: of its weights in the file.
        token_merging: how many tokens its blocks merge, or None.
        streams: in how many parts its tokens are computed.
        origin: where it comes from.
    """
    card = directory / CARD_FILE
    card.parent.mkdir(exist_ok=True)
    content = model_card(model, dtype, token_merging, streams, origin)
    card.write_text(json.dumps(content, indent=2) + "\n")
    if model.labels:
        # One line each, whatever is in a label.
        lines = (" ".join(label.split()) for label in model.labels)
        (directory / LABELS_FILE).write_text("\n".join(lines) + "\n")
