"""The code blocks of the documentation, and how a block of commands is read."""

import json
import re
import shlex
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Run or parsed by the tests.
CODE = {"python", "sh", "json", "yaml"}
# Pictures made of letters, output, and what other tools read; and the site's own directives, which
# the test of the site builds.
NO_CODE = {"text", "{eval-rst}", "{toctree}", "{include}"}

_NEEDS = re.compile(r"<!-- needs: (.*?) -->")


class Block(NamedTuple):
    """A fenced block; `needs` are the modules named in an invisible comment above it."""

    page: Path
    line: int
    language: str
    text: str
    needs: tuple[str, ...] = ()

    def __str__(self):
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page):
    """All code blocks of a page, in order, those that are indented without a fence too.

    >>> [block.language for block in blocks(ROOT / "README.md")][:1]
    ['sh']
    """
    found, needs = [], ()
    for token in MarkdownIt("commonmark").parse(page.read_text()):
        if token.type == "html_block" and (match := _NEEDS.search(token.content)):
            needs = tuple(match[1].split())
        elif token.type in ("fence", "code_block"):
            language = token.info.split()[0] if token.info.strip() else ""
            found.append(Block(page, token.map[0] + 1, language, token.content, needs))
            needs = ()
        elif token.type.endswith("_open"):
            needs = ()
    return found


def cells(notebook):
    """The code cells of a notebook, as blocks; the line is the number of the cell."""
    found = json.loads(notebook.read_text())["cells"]
    return [
        Block(notebook, number, "python", "".join(cell["source"]))
        for number, cell in enumerate(found, 1)
        if cell["cell_type"] == "code"
    ]


def links(page):
    """Where the links and images of a page lead."""
    tokens = [
        child
        for token in MarkdownIt("commonmark").enable("table").parse(page.read_text())
        for child in token.children or []
    ]
    found = [token.attrs.get("href") or token.attrs.get("src") for token in tokens]
    return [str(target) for target in found if target]


def anchors(page):
    """The names of a page's headings, as GitHub and the site make them.

    >>> "more" in anchors(ROOT / "README.md")
    True
    """
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


class Command(NamedTuple):
    """One line of a block of commands."""

    line: str
    environment: dict[str, str]
    words: list[str]
    stdin_of: str  # what stands before the pipe

    @property
    def name(self):
        """The program, and the command of keras-vit: "keras-vit bench serving", "docker"."""
        words = self.words[:1]
        if words == ["keras-vit"]:
            count = 3 if self.words[1] in ("bench", "data") else 2
            words = self.words[:count]
        return " ".join(words)


def commands(block):
    """The commands of a block, without comments.

    >>> (one,) = commands(Block(PAGES[0], 1, "sh", "A=1 ls 'a b' |  # no\\n  keras-vit predict -"))
    >>> one.name, one.stdin_of, one.words
    ('keras-vit predict', "A=1 ls 'a b'", ['keras-vit', 'predict', '-'])
    """
    found = []
    text = re.sub(r"\s*(?:\\|\|(?:\s*#.*)?)\n\s*", _joined, block.text)
    for line in text.splitlines():
        before, _, last = line.rpartition(" | ")
        words = shlex.split(last, comments=True)
        environment = {}
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            name, _, value = words.pop(0).partition("=")
            environment[name] = value
        if words:
            found.append(Command(line.strip(), environment, words, before))
    return found


def _joined(match):
    return " | " if "|" in match[0] else " "
