"""An evaluation as one HTML file that needs nothing else."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

from keras_vit.atomic_files import write_text
from training.evaluation.progress import with_progress
from training.report import sections, tables
from training.report.collect import Findings
from training.report.html import Html, join, tag

REPORT_FILE = "report.html"

# The name of a section in the address, its heading, and what makes it.
Section = tuple[str, str, Callable[[], Html]]


def write_report(
    findings: Findings,
    directory: str | Path,
    other: Findings | None = None,
    *,
    data: str = "",
    split: str = "test",
    report: Callable[[str], None] = print,
    show_progress: bool = False,
) -> Path:
    """Write the report of one model, or of two side by side.

    Args:
        findings: of the model, from `examine`.
        directory: gets `report.html`, whole or not at all; it is made if it does not exist.
        other: of another model, from `examine` with `first=findings`. Default None.
        data: the spec of the data, for the heading. Default "".
        split: which part of it. Default "test".
        report: called with lines for the user. Default `print`.
        show_progress: whether a bar on standard error shows how far it is. Default False.

    Returns:
        The path of the file.

    Raises:
        ValueError: if the directory is a file, or `other` saw other examples.

    Example:
        >>> import tempfile
        >>> from keras_vit import VisionTransformer
        >>> from training.data import load_source
        >>> from training.report import examine
        >>> model = VisionTransformer(8, 4, hidden_dim=16, depth=1, num_heads=2, num_classes=10)
        >>> findings = examine(model, load_source("digits"))
        >>> write_report(findings, tempfile.mkdtemp(), data="digits").name
        'report.html'
    """
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"The report's directory {directory} is a file: give a directory.")
    if other is not None and other.names != findings.names:
        raise ValueError(
            f"{findings.title} was evaluated on {len(findings.names)} examples and {other.title} "
            f"on {len(other.names)} others: examine both on the same data."
        )
    parts = list(_sections(findings, other, data, split, report))
    steps = with_progress(parts, "writing the report", len(parts), show_progress)
    made = [(name, heading, make()) for name, heading, make in steps]
    path = directory / REPORT_FILE
    write_text(path, _page(made, findings, other, data, split))
    return path


def _sections(
    first: Findings, second: Findings | None, data: str, split: str, report: Callable[[str], None]
) -> Iterator[Section]:
    both = [first] if second is None else [first, second]

    def beside(make: Callable[[Findings], Html]) -> Callable[[], Html]:
        return lambda: _beside([make(one) for one in both])

    yield "numbers", "Numbers", functools.partial(tables.numbers, both)
    if second is not None:
        yield "comparison", "Comparison", functools.partial(tables.comparison, first, second)
        for name, heading, examples in (
            ("only-a", "Only A is right", second.only_first),
            ("only-b", "Only B is right", second.only_second),
        ):
            none = "There is no such image."
            yield (
                name,
                heading,
                functools.partial(sections.differing, first, second, examples, none, report),
            )
    yield "classes", "Classes", functools.partial(tables.classes, both)
    yield "confusions", "Confusions", beside(tables.confusions)
    yield "calibration", "Calibration", beside(sections.calibration)
    yield (
        "mistakes",
        "Most confident mistakes",
        beside(lambda one: sections.gallery(one, one.mistakes, "There is no mistake.", report)),
    )
    yield (
        "hits",
        "Least confident hits",
        beside(lambda one: sections.gallery(one, one.hits, "No answer is right.", report)),
    )
    yield "map", "Map of the embeddings", beside(sections.features_map)
    yield "card", "Model card", beside(lambda one: sections.card(one, data, split))


def _beside(parts: list[Html]) -> Html:
    """One part as it is; two in columns under their letters."""
    if len(parts) == 1:
        return parts[0]
    columns = (
        tag("div", tag("h3", letter), part)
        for letter, part in zip(tables.LETTERS, parts, strict=True)
    )
    return tag("div", join(columns, "\n"), class_="columns")


def _page(
    made: list[tuple[str, str, Html]],
    first: Findings,
    second: Findings | None,
    data: str,
    split: str,
) -> str:
    """The whole file."""
    static = resources.files("training.report") / "static"
    style, script = (
        Html((static / name).read_text(encoding="utf-8")) for name in ("report.css", "report.js")
    )
    title = first.title if second is None else f"{first.title} and {second.title}"
    if second is None:
        heading = tag("h1", first.title)
    else:
        names = (
            join([tag("b", letter, class_="letter"), " ", one.title])
            for letter, one in zip(tables.LETTERS, (first, second), strict=True)
        )
        heading = tag("h1", join((tag("span", name) for name in names), "\n"), class_="two")
    of = f"{data}, split {split}" if data else f"split {split}"
    links = join(
        (tag("a", text, href=f"#{name}") for name, text, _ in made),
        "\n",
    )
    body = join(
        (tag("section", tag("h2", text), content, id=name) for name, text, content in made), "\n"
    )
    return join(
        [
            Html("<!doctype html>"),
            Html('<html lang="en">'),
            tag(
                "head",
                tag("meta", charset="utf-8"),
                tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
                tag("title", f"{title}: evaluation"),
                tag("link", rel="icon", href="data:,"),
                tag("style", style),
            ),
            Html("<body>"),
            tag("a", "To the numbers", class_="skip", href="#numbers"),
            tag(
                "header",
                tag("p", "Evaluation", class_="kind"),
                heading,
                tag("p", f"{of}, {first.evaluation.examples:,} examples"),
                tag("nav", links, aria_label="Sections"),
            ),
            tag("main", body),
            tag("script", script),
            Html("</body>\n</html>\n"),
        ],
        "\n",
    )
