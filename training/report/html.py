"""Markup in which text is escaped unless it is markup already."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import Any

_VOID = {"img", "link", "meta"}
# Control characters and those that are none: a page with one of them is not valid.
_NOT_IN_HTML = re.compile("[\0-\x08\x0b\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]")


class Html(str):
    """Markup: `tag` puts it in as it is, and escapes every other string."""

    __slots__ = ()


def escape(text: Any) -> Html:
    """Text for an element or an attribute in quotes.

    Args:
        text: anything; a name that is no valid Unicode, or has control characters, loses what a
            page cannot hold.

    Returns:
        The markup; `Html` is returned as it is.

    Example:
        >>> escape('<b> & "c"')
        '&lt;b&gt; &amp; &quot;c&quot;'
    """
    if isinstance(text, Html):
        return text
    # File names that are not UTF-8 come as surrogates, which no UTF-8 file can hold.
    written = str(text).encode("utf-8", "replace").decode()
    return Html(html.escape(_NOT_IN_HTML.sub("\ufffd", written)))


def join(parts: Iterable[Any], between: str = "") -> Html:
    """Several pieces as one; those that are not `Html` are escaped.

    Args:
        parts: text, markup, or None, which is left out.
        between: markup between them. Default "".

    Returns:
        The markup.

    Example:
        >>> join([Html("<hr>"), None, "a < b"])
        '<hr>a &lt; b'
    """
    return Html(between.join(escape(part) for part in parts if part is not None))


def tag(name: str, *children: Any, **attributes: Any) -> Html:
    """An element of HTML or SVG.

    Args:
        name: such as "td".
        *children: text, which is escaped, `Html`, or None, which is left out.
        **attributes: of the element; `class_` is class and `aria_label` is aria-label. None and
            False leave one out, True gives it no value.

    Returns:
        The markup.

    Example:
        >>> tag("td", "a < b", class_="number", hidden=True, title=None)
        '<td class="number" hidden>a &lt; b</td>'
    """
    written = [name]
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            written.append(key)
        elif value is not None and value is not False:
            written.append(f'{key}="{escape(value)}"')
    start = f"<{' '.join(written)}>"
    return Html(start if name in _VOID else f"{start}{join(children)}</{name}>")
