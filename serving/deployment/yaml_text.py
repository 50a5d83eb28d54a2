"""YAML that people read: in the order it was built, texts as blocks, no anchors."""

from __future__ import annotations

from typing import Any

import yaml


def to_yaml(*documents: dict[str, Any], comment: str = "") -> str:
    r"""Write documents as YAML.

    Args:
        documents: of dicts, lists, strings, numbers and booleans.
        comment: lines to stand above them. Default none.

    Returns:
        The text; documents are separated by `---`.

    Example:
        >>> print(to_yaml({"files": {"a": "1\n2\n"}}, comment="Two lines."), end="")
        # Two lines.
        files:
          a: |
            1
            2
    """
    lines = (f"# {line}".rstrip() for line in comment.splitlines())
    head = "".join(f"{line}\n" for line in lines)
    return head + yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=10**6)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        """Write what occurs twice twice: anchors are hard to edit."""
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:
        """Indent lists below their key."""
        return super().increase_indent(flow, indentless=False)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
