"""Charts as inline SVG, coloured by the page's style sheet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from training.evaluation.calibration import CalibrationBins
from training.report.embedding import EmbeddingMap
from training.report.html import Html, escape, join, tag

COLOURED = 10  # classes that are told apart by colour
_SIDE = 280  # of the square of a reliability diagram
_LEFT, _TOP = 46, 8
_HISTOGRAM = 56  # the height of the confidences below it
_WIDTH, _MOST_HEIGHT, _LEAST_HEIGHT, _MARGIN = 560, 520, 260, 14
_LONGEST_NAME = 24
_LONGEST_IN_TABLE = 140  # the longest of ImageNet's 1,000 is shorter


def reliability_chart(bins: CalibrationBins, name: str) -> Html:
    """The reliability diagram of Guo et al. (2017), with the confidences as a histogram below.

    Args:
        bins: from `calibration_bins`.
        name: what the chart is of, for those who cannot see it.

    Returns:
        An `svg` element.

    Example:
        >>> from training.evaluation.calibration import calibration_bins
        >>> chart = reliability_chart(calibration_bins(np.array([0.7]), np.array([True])), "A")
        >>> chart.count('class="bar"')
        1
    """
    drawn = []
    width = _SIDE / len(bins.counts)
    most = bins.counts.max()
    low = _TOP + _SIDE
    floor = low + 34 + _HISTOGRAM
    for index in np.flatnonzero(bins.counts).tolist():
        x = _LEFT + index * width
        accuracy, confidence = float(bins.accuracies[index]), float(bins.confidences[index])
        count = int(bins.counts[index])
        tall = _HISTOGRAM * count / most
        text = tag(
            "title",
            f"confidence {bins.edges[index]:.2f} to {bins.edges[index + 1]:.2f}: accuracy "
            f"{accuracy:.3f}, mean confidence {confidence:.3f}, {count:,} examples",
        )
        bottom, top = sorted((accuracy, confidence))
        drawn += [
            _rect(x, low - _SIDE * accuracy, width, _SIDE * accuracy, "bar", text),
            _rect(x, low - _SIDE * top, width, _SIDE * (top - bottom), "gap", text),
            _rect(x, floor - tall, width, tall, "count", text),
        ]
    ticks = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        x, y = _LEFT + _SIDE * share, low - _SIDE * share
        ticks += [
            _line(_LEFT, y, _LEFT + _SIDE, y, "grid"),
            _text(_LEFT - 6, y + 4, f"{share:g}", "tick", "end"),
            _text(x, low + 16, f"{share:g}", "tick", "middle"),
        ]
    labels = [
        _line(_LEFT, low, _LEFT + _SIDE, _TOP, "diagonal"),
        _line(_LEFT, floor, _LEFT + _SIDE, floor, "axis"),
        _text(_LEFT + _SIDE / 2, floor + 18, "confidence", "name", "middle"),
        _text(_LEFT - 6, floor - _HISTOGRAM + 10, f"{most:,}", "tick", "end"),
        tag(
            "text",
            "accuracy",
            class_="name",
            text_anchor="middle",
            transform=f"translate(11 {_TOP + _SIDE / 2:g}) rotate(-90)",
        ),
    ]
    return _svg(
        _LEFT + _SIDE + 8,
        floor + 26,
        f"Reliability diagram of {name}: accuracy over confidence in {len(bins.counts)} bins; the "
        f"table beside it has the numbers.",
        "reliability",
        join([*ticks, *drawn, *labels], "\n"),
    )


def scatter_chart(
    embedding: EmbeddingMap,
    classes: np.ndarray,
    correct: np.ndarray,
    titles: Sequence[str],
    coloured: Sequence[tuple[int, str]],
    name: str,
) -> Html:
    """The map of the embeddings: a dot for a right answer, a ring for a mistake.

    Args:
        embedding: M points.
        classes: the class of each, int [M].
        correct: whether the answer was right, bool [M].
        titles: what is shown when one points at it, M of them.
        coloured: the classes that have a colour and a name on the map, and their names, at most
            10; all others are grey.
        name: what the chart is of, for those who cannot see it.

    Returns:
        An `svg` element.

    Example:
        >>> embedding = EmbeddingMap(np.eye(2), np.array([1.0, 0.0]))
        >>> chart = scatter_chart(embedding, np.arange(2), np.array([True, False]),
        ...                       ["one.png", "two.png"], [(0, "ape")], "A")
        >>> chart.count("<circle"), chart.count("wrong")
        (2, 1)
    """
    spans = np.ptp(embedding.points, axis=0)
    scale = min(
        (side - 2 * _MARGIN) / max(span, 1e-9)
        for side, span in zip((_WIDTH, _MOST_HEIGHT), spans.tolist(), strict=True)
    )
    height = float(np.clip(scale * spans[1] + 2 * _MARGIN, _LEAST_HEIGHT, _MOST_HEIGHT))
    middle = (embedding.points.max(axis=0) + embedding.points.min(axis=0)) / 2
    # The second component grows upwards, as in every chart, and not as SVG counts.
    places = (embedding.points - middle) * [scale, -scale] + [_WIDTH / 2, height / 2]  # [M, 2]
    colour_of = {index: place for place, (index, _) in enumerate(coloured)}
    groups = []
    # Grey ones first, so that they do not cover the others.
    for colour in [None, *range(len(coloured))]:
        points = [
            tag(
                "circle",
                tag("title", titles[place]),
                cx=f"{places[place, 0]:.1f}",
                cy=f"{places[place, 1]:.1f}",
                r="3",
                class_=None if correct[place] else "wrong",
            )
            for place in range(len(places))
            if colour_of.get(int(classes[place])) == colour
        ]
        kind = "grey" if colour is None else f"c{colour}"
        if points:
            groups.append(tag("g", join(points, "\n"), class_=kind))
    names = []
    for colour, (index, label) in enumerate(coloured):
        own = places[classes == index]
        if len(own):
            x, y = np.median(own, axis=0)
            names.append(_text(x, y, shorten(label), f"label c{colour}", "middle"))
    return _svg(
        _WIDTH,
        height,
        f"Map of {len(places):,} embeddings of {name} by their first two principal components, "
        f"coloured by class.",
        "scatter",
        join([*groups, *names], "\n"),
    )


def shorten(name: str, longest: int = _LONGEST_NAME) -> str:
    """A name for a place where there is little room.

    Args:
        name: any.
        longest: how many characters. Default 24.

    Returns:
        The first of the synonyms that commas separate, cut where it is long.

    Example:
        >>> shorten("tench, Tinca tinca")
        'tench'
    """
    name = name.split(",")[0].strip() or name
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def clipped(name: str) -> Html:
    """The name of a class in a table, cut where it would push the numbers out of sight.

    Args:
        name: any.

    Returns:
        The markup; what is cut off is in its title.

    Example:
        >>> clipped("tench, Tinca tinca")
        'tench, Tinca tinca'
    """
    if len(name) <= _LONGEST_IN_TABLE:
        return escape(name)
    return tag("span", f"{name[: _LONGEST_IN_TABLE - 1]}…", class_="clipped", title=name)


def _svg(width: float, height: float, text: str, kind: str, content: Html) -> Html:
    return tag(
        "svg",
        content,
        class_=f"chart {kind}",
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=text,
    )


def _rect(x: float, y: float, width: float, height: float, kind: str, *children: Html) -> Html:
    box = {"x": x + 0.5, "y": y, "width": width - 1, "height": height}
    shown = {key: f"{value:.1f}" for key, value in box.items()}
    return tag("rect", *children, **shown, class_=kind)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Html:
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    return tag("line", **{key: f"{value:.1f}" for key, value in ends.items()}, class_=kind)


def _text(x: float, y: float, text: str, kind: str, anchor: str) -> Html:
    return tag("text", text, x=f"{x:.1f}", y=f"{y:.1f}", class_=kind, text_anchor=anchor)
