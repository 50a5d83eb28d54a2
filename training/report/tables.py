"""The numbers of the page as tables that a screen reader can read."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from training.evaluation.accuracy import Evaluation
from training.evaluation.confusion_picture import MOST_CLASSES, condense
from training.report.charts import clipped, shorten
from training.report.collect import Findings
from training.report.html import Html, join, tag
from training.report.pictures import data_address
from training.report.significance import difference_interval, mcnemar, wilson_interval

LETTERS = ("A", "B")
_MOST_PAIRS = 20
_LARGEST_PICTURE = 250  # cells of a side: smaller ones would not be seen
_INK = (22, 138, 126)  # seen on light and on dark ground


def table(
    caption: str, header: Sequence[str | Html], rows: Sequence[Sequence[object]], kind: str = ""
) -> Html:
    """A table whose first column names the rows.

    Args:
        caption: what it shows.
        header: the name of each column.
        rows: a cell for each column, text or markup.
        kind: its class. Default "".

    Returns:
        A `table` element in one that scrolls.

    Example:
        >>> table("Ages", ["who", "age"], [["cat", 9]]).count("<td>")
        1
    """
    head = tag("tr", join(tag("th", name, scope="col") for name in header))
    body = join(
        (
            tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:]))
            for row in rows
        ),
        "\n",
    )
    content = tag(
        "table",
        tag("caption", caption),
        tag("thead", head),
        tag("tbody", body),
        class_=kind or None,
    )
    # What scrolls must be reachable by keyboard.
    return tag("div", content, class_="scroll", tabindex="0", role="region", aria_label=caption)


def percent(share: float, digits: int = 2) -> str:
    r"""A share as people read it; a dash for one that there is not.

    Example:
        >>> percent(0.1234), percent(math.nan)
        ('12.34\xa0%', '-')
    """
    return "-" if math.isnan(share) else f"{100 * share:.{digits}f}\xa0%"  # on one line


def points(difference: float) -> str:
    r"""A difference of two shares.

    Example:
        >>> points(-0.012)
        '-1.20\xa0points'
    """
    return "-" if math.isnan(difference) else f"{100 * difference:+.2f}\xa0points"


def numbers(findings: Sequence[Findings]) -> Html:
    """The numbers of one model, or of two and their difference.

    Args:
        findings: of one or two models.

    Returns:
        Tiles for one, a table for two.
    """
    columns = [_numbers(one.evaluation) for one in findings]
    if len(findings) == 1:
        return tag(
            "dl",
            join(
                (
                    tag("div", tag("dt", name), tag("dd", value), note and tag("p", note))
                    for name, (_, value, note) in columns[0].items()
                ),
                "\n",
            ),
            class_="tiles",
        )
    first, second = columns
    rows = []
    for name, (number, value, _) in first.items():
        other, other_value, _ = second[name]
        change = other - number
        shown = points(change) if value.endswith("%") else f"{change:+.4g}"
        rows.append((name, value, other_value, shown if change else "0"))
    return table("Numbers of both models", ["", *LETTERS, "B - A"], rows, "numbers")


def _numbers(evaluation: Evaluation) -> dict[str, tuple[float, str, str | None]]:
    """Name -> the number, as it is shown, and what is to be said about it."""
    e = evaluation
    low, high = wilson_interval(round(e.top1 * e.examples), e.examples)
    shown: dict[str, tuple[float, str, str | None]] = {
        "top-1": (
            e.top1,
            percent(e.top1),
            f"95 % interval {percent(low, 1)} to {percent(high, 1)}",
        ),
        "top-5": (e.top5, percent(e.top5), None),
        "loss": (e.loss, f"{e.loss:.4f}", "cross-entropy"),
        "calibration error": (
            e.calibration_error,
            percent(e.calibration_error),
            "expected, in 15 bins",
        ),
        "images per second": (e.images_per_second, f"{e.images_per_second:,.1f}", "with decoding"),
        "examples": (e.examples, f"{e.examples:,}", None),
    }
    if e.real_top1 is not None:
        shown["top-1 by ReaL"] = (e.real_top1, percent(e.real_top1), f"{e.real_examples:,} images")
    return shown


def comparison(first: Findings, second: Findings) -> Html:
    """Where each of two models is right, and whether their difference may be chance.

    Args:
        first: of one model.
        second: of another, on the same examples.

    Returns:
        A sentence with McNemar's test, and the table of four counts that it comes from.
    """
    a, b = first.correct, second.correct
    test = mcnemar(a, b)
    change, low, high = difference_interval(test.only_first, test.only_second, len(a))
    how = "exact binomial test" if test.is_exact else "chi-square with the continuity correction"
    verdict = (
        "Equally good models would seldom differ as much"
        if test.p_value < 0.05
        else "Equally good models may well differ as much"
    )
    text = (
        f"The top-1 of B minus that of A is {points(change)} (95\xa0% interval {points(low)} to "
        f"{points(high)}). {verdict}: McNemar's test gives p {_p_value(test.p_value)} ({how})."
    )
    counts = [
        ("A right", f"{np.sum(a & b):,}", f"{test.only_first:,}"),
        ("A wrong", f"{test.only_second:,}", f"{np.sum(~a & ~b):,}"),
    ]
    return join(
        [
            tag("p", text),
            table("Images by who is right", ["", "B right", "B wrong"], counts, "numbers"),
        ]
    )


def _p_value(value: float) -> str:
    return f"= {value:.2g}" if value >= 1e-4 else "< 0.0001"


def classes(findings: Sequence[Findings]) -> Html:
    """Accuracies by class, the classes of the lowest first.

    Args:
        findings: of one or two models on the same data.

    Returns:
        A table; the script of the page sorts it by any column.
    """
    header: list[str | Html] = ["class", "examples"]
    columns = []
    for letter, one in zip(LETTERS, findings, strict=False):
        of = f" {letter}" if len(findings) == 2 else ""
        header += [f"top-1{of}", f"top-5{of}", f"most often taken for{of}"]
        columns.append(_class_cells(one))
    if len(findings) == 2:
        header.append("B - A")
    # The outputs of two models may have other orders and names; the right one of an example says
    # which go together.
    pairs = _same_classes(findings)
    rows = []
    for places in pairs:
        evaluation = findings[0].evaluation
        place = places[0]
        top1 = [one.evaluation.class_top1[p] for one, p in zip(findings, places, strict=True)]
        cells = [column[p] for column, p in zip(columns, places, strict=True)]
        row = [clipped(evaluation.class_labels[place]), f"{evaluation.class_examples[place]:,}"]
        row += [cell for part in cells for cell in part]
        if len(findings) == 2:
            row.append(points(float(top1[1] - top1[0])))
        rows.append((math.inf if math.isnan(top1[0]) else float(top1[0]), row))
    rows.sort(key=lambda row: row[0])
    return table(
        "Accuracy by class, the lowest first", header, [row for _, row in rows], "classes sortable"
    )


def _same_classes(findings: Sequence[Findings]) -> list[tuple[int, ...]]:
    """For each class the places of it in the findings' `class_labels`."""
    first = findings[0]
    count = len(first.evaluation.class_outputs)
    if len(findings) == 1:
        return [(place,) for place in range(count)]
    second = findings[1]
    place_of = {int(out): place for place, out in enumerate(second.evaluation.class_outputs)}
    other_of = dict(zip(first.right.tolist(), second.right.tolist(), strict=True))
    return [
        (place, place_of[other_of[int(output)]])
        for place, output in enumerate(first.evaluation.class_outputs)
        if int(output) in other_of  # a class without examples has no accuracy to compare
    ]


def _class_cells(findings: Findings) -> list[tuple[Html | str, ...]]:
    """Top-1, top-5 and the most frequent mistake of each class."""
    e = findings.evaluation
    wrong = e.confusion.copy()
    wrong[np.arange(len(wrong)), e.class_outputs] = 0
    worst, counts = wrong.argmax(axis=1), wrong.max(axis=1)
    return [
        (
            _bar(float(top1)),
            percent(float(top5)),
            join([clipped(findings.label(output)), f" ({count:,})"]) if count else "-",
        )
        for top1, top5, output, count in zip(
            e.class_top1, e.class_top5, worst.tolist(), counts.tolist(), strict=True
        )
    ]


def _bar(share: float) -> Html:
    """A share as text on a bar of its length."""
    if math.isnan(share):
        return Html("-")
    return tag("span", percent(share), class_="share", style=f"--share:{share:.4f}")


def confusions(findings: Findings) -> Html:
    """Who is taken for whom: a table up to 40 classes, else a picture; and the most frequent pairs.

    Args:
        findings: of a model.

    Returns:
        The markup.
    """
    evaluation = findings.evaluation
    few = len(evaluation.class_outputs) <= MOST_CLASSES
    matrix = _matrix(evaluation) if few else _matrix_picture(evaluation)
    return tag("div", matrix, _pairs(findings), class_="row")


def _matrix(evaluation: Evaluation) -> Html:
    counts, rows, columns = condense(evaluation)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    header = [Html("class ↓ answer →")]
    header += [tag("span", shorten(name), title=name) for name in columns]
    cells: list[list[object]] = []
    for name, numbers, parts in zip(rows, counts.tolist(), shares.tolist(), strict=True):
        row: list[object] = [tag("span", shorten(name), title=name)]
        for number, share in zip(numbers, parts, strict=True):
            kind = "cell" if number else "cell none"
            row.append(tag("span", f"{number:,}", class_=kind, style=f"--share:{share:.3f}"))
        cells.append(row)
    size = "matrix" if len(rows) <= MOST_CLASSES // 2 else "matrix dense"
    return table("Confusion matrix: examples of a class by answer", header, cells, size)


def _matrix_picture(evaluation: Evaluation) -> Html:
    """A pixel for each pair of classes; of more than 250 classes, for each pair of groups."""
    square = evaluation.confusion[:, evaluation.class_outputs].astype(np.float64)  # [C, C]
    shares = square / np.maximum(evaluation.class_examples[:, None], 1)
    size = len(shares)
    step = -(-size // _LARGEST_PICTURE)
    starts = np.arange(0, size, step)
    shares = np.maximum.reduceat(np.maximum.reduceat(shares, starts, axis=0), starts, axis=1)
    pixels = np.zeros([*shares.shape, 4], np.uint8)
    pixels[..., :3] = _INK
    # The root, so that single confusions are seen beside the diagonal.
    pixels[..., 3] = np.round(255 * np.sqrt(shares))
    of = "class" if step == 1 else f"{step} classes, the largest share of them"
    text = (
        f"Confusion matrix of {size:,} classes in the order of the outputs, a row for each {of}; "
        f"the darker, the larger the share of the row."
    )
    image = tag(
        "img",
        src=data_address(Image.fromarray(pixels), "PNG", optimize=True),
        alt=text,
        width=len(shares),
        height=len(shares),
        class_="matrix-picture",
    )
    return tag("figure", image, tag("figcaption", text))


def _pairs(findings: Findings) -> Html:
    """The most frequent mistakes, a class and what it was taken for."""
    e = findings.evaluation
    wrong = e.confusion.copy()
    wrong[np.arange(len(wrong)), e.class_outputs] = 0
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_PAIRS]
    rows = []
    for place in order.tolist():
        row, output = divmod(place, wrong.shape[1])
        if not wrong[row, output]:
            break
        share = wrong[row, output] / e.class_examples[row]
        rows.append(
            (
                clipped(e.class_labels[row]),
                clipped(findings.label(output)),
                f"{wrong[row, output]:,}",
                percent(share),
            )
        )
    if not rows:
        return tag("p", "No example was taken for another class.")
    header = ["class", "taken for", "examples", "share of the class"]
    return table("The most frequent mistakes", header, rows)
