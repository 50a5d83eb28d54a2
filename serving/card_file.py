"""Where a version's model card is, for those who read it without the model's side."""

import json
from pathlib import Path
from typing import Any

CARD_FILE = "assets.extra/model_card.json"


def load_card(version: Path) -> dict[str, Any]:
    """Read the card of a version.

    Args:
        version: its directory, `BASE/N`.

    Returns:
        What it says; nothing where there is no card that can be read.

    Example:
        >>> load_card(Path("/nowhere/1"))
        {}
    """
    try:
        card = json.loads((version / CARD_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return card if isinstance(card, dict) else {}
