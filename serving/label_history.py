"""BASE/labels.json: what each label stood for. Servers overlook it."""

from __future__ import annotations

import json
from pathlib import Path

LABELS_FILE = "labels.json"


def read_history(base: Path) -> dict[str, list[int]]:
    """What each label stood for, the latest last.

    Args:
        base: the model's base directory.

    Returns:
        Versions by label; nothing where no label was ever given.

    Raises:
        ValueError: if the file is damaged.

    Example:
        >>> read_history(Path("/nowhere"))
        {}
    """
    file = base / LABELS_FILE
    if not file.exists():
        return {}
    try:
        history = json.loads(file.read_text())
        return {label: [int(v) for v in versions] for label, versions in history.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{file} is damaged ({error}): it should be like {{'stable': [1, 2]}}. Repair or "
            "delete it."
        ) from error
