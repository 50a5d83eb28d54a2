"""The parts of the page that are of one model: pictures, calibration, map and card."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import tensorflow as tf

from keras_vit.costs import costs
from keras_vit.description import description
from keras_vit.preprocessing import size_pair
from training.evaluation.calibration import calibration_bins
from training.evaluation.confusion_picture import most_confused
from training.report.charts import COLOURED, clipped, reliability_chart, scatter_chart
from training.report.collect import Example, Findings
from training.report.embedding import embedding_map
from training.report.html import Html, join, tag
from training.report.pictures import Picture, pictures
from training.report.tables import LETTERS, percent, table

Report = Callable[[str], None]


def gallery(findings: Findings, examples: Sequence[Example], nothing: str, report: Report) -> Html:
    """Images with the model's answer and where it looked.

    Args:
        findings: of the model.
        examples: that are shown.
        nothing: said if there are none.
        report: called with lines for the user.

    Returns:
        A list of figures.
    """
    if not examples:
        return tag("p", nothing)
    shown = pictures(findings.model, examples, report)
    figures = [
        _figure(example, findings, [picture], [""], [_answer(example, findings)])
        for example, picture in zip(examples, shown, strict=True)
    ]
    return tag("ul", join((tag("li", figure) for figure in figures), "\n"), class_="gallery")


def differing(
    first: Findings, second: Findings, examples: Sequence[Example], nothing: str, report: Report
) -> Html:
    """Images with the answers of two models, and where each looked.

    Args:
        first: of one model.
        second: of the other.
        examples: that are shown.
        nothing: said if there are none.
        report: called with lines for the user.

    Returns:
        A list of figures.
    """
    if not examples:
        return tag("p", nothing)
    both = (first, second)
    shown = zip(*(pictures(one.model, examples, report) for one in both), strict=True)
    figures = []
    for example, views in zip(examples, shown, strict=True):
        answers = [
            join([tag("b", letter), " ", _answer(example, one)])
            for letter, one in zip(LETTERS, both, strict=True)
        ]
        figures.append(_figure(example, first, views, LETTERS, answers))
    return tag("ul", join((tag("li", figure) for figure in figures), "\n"), class_="gallery wide")


def _figure(
    example: Example,
    findings: Findings,
    views: Sequence[Picture],
    letters: Sequence[str],
    answers: Sequence[Html],
) -> Html:
    """One example: the image, its overlays, its class, the answers and its name."""
    label = findings.label(int(findings.right[example.place]))
    kind = "small" if views[0].is_small else None
    images = [tag("img", src=views[0].image, alt=f"{label}, as the model sees it", class_=kind)]
    for view, letter in zip(views, letters, strict=True):
        if view.overlay is not None:
            alt = f"the same under the attention rollout{letter and f' of {letter}'}"
            images.append(tag("img", src=view.overlay, alt=alt, class_=kind))
    caption = tag(
        "figcaption",
        tag("span", clipped(label), class_="label"),
        *(tag("span", answer, class_="answer") for answer in answers),
        tag("span", short_name(example.name), class_="file", title=example.name),
    )
    return tag("figure", tag("div", join(images), class_="pair"), caption)


def _answer(example: Example, findings: Findings) -> Html:
    """What the model said, how sure it was, and what it gave the right class."""
    index = example.place
    best, confidence = int(findings.best[index]), float(findings.confidences[index])
    sure = percent(confidence, 1)
    if findings.correct[index]:
        return join([tag("span", "✓ right", class_="right"), f" at {sure}"])
    given = percent(float(findings.right_probabilities[index]), 1)
    wrong = tag("span", "✗ ", clipped(findings.label(best)), class_="wrong")
    return join([wrong, f" at {sure}, its class at {given}"])


def short_name(name: str) -> str:
    """The file and the folder that it is in.

    Args:
        name: of an example.

    Returns:
        The last two parts of a path; other names as they are.

    Example:
        >>> short_name("/data/photos/test/cat/7.png")
        'cat/7.png'
    """
    return "/".join(PurePath(name).parts[-2:])


def calibration(findings: Findings) -> Html:
    """The reliability diagram, and its numbers.

    Args:
        findings: of a model.

    Returns:
        A figure.
    """
    bins = calibration_bins(findings.confidences, findings.correct)
    rows = [
        (
            f"{bins.edges[index]:.2f} to {bins.edges[index + 1]:.2f}",
            f"{bins.counts[index]:,}",
            percent(bins.confidences[index]),
            percent(bins.accuracies[index]),
        )
        for index in np.flatnonzero(bins.counts).tolist()
    ]
    text = (
        f"Expected calibration error {percent(findings.evaluation.calibration_error)}. On the "
        f"dashed line the model is as often right as it is sure; orange is the gap to it."
    )
    header = ["confidence", "examples", "mean confidence", "accuracy"]
    chart = tag(
        "figure", reliability_chart(bins, findings.title), tag("figcaption", text), class_="narrow"
    )
    return tag("div", chart, table("Accuracy by confidence", header, rows), class_="row")


def features_map(findings: Findings) -> Html:
    """The map of the embeddings.

    Args:
        findings: of a model.

    Returns:
        A figure.
    """
    if not len(findings.sampled):
        return tag("p", "None of the examples that the map was to show could be read.")
    embedding = embedding_map(findings.features)
    e, sampled = findings.evaluation, findings.sampled
    right = findings.right[sampled]
    titles = []
    for index in sampled.tolist():
        label, answer = (findings.label(int(of[index])) for of in (findings.right, findings.best))
        name = short_name(findings.names[index].decode("utf-8", "replace"))
        taken = "" if findings.correct[index] else f", taken for {answer}"
        titles.append(f"{label}{taken} ({name})")
    few = len(e.class_outputs) <= COLOURED
    order = most_confused(e.confusion[:, e.class_outputs])
    chosen = np.arange(len(order)) if few else np.sort(order[:COLOURED])
    coloured = [(int(e.class_outputs[place]), e.class_labels[place]) for place in chosen]
    chart = scatter_chart(
        embedding, right, findings.correct[sampled], titles, coloured, findings.title
    )
    which = "" if few else f" Coloured are the {COLOURED} classes that are confused most."
    many = f"{len(sampled):,} of {e.examples:,}" if len(sampled) < e.examples else "All"
    text = (
        f"{many} examples as the head of the model sees them, by their first two principal "
        f"components, which hold {percent(embedding.explained.sum(), 1)} of the variance "
        f"({percent(embedding.explained[0], 1)} across, {percent(embedding.explained[1], 1)} up). "
        f"Rings are mistakes.{which}"
    )
    return tag("figure", chart, tag("figcaption", text))


def card(findings: Findings, data: str, split: str) -> Html:
    """What the model is, and what it was measured on.

    Args:
        findings: of a model.
        data: the spec of the data.
        split: which part of it.

    Returns:
        A table.
    """
    model = findings.model
    known = description(model)
    size = size_pair(model.preprocessing.image_size, "image_size")
    config = {**model.get_config(), "image_size": size, "position_grid": None}
    work = 2 * costs(config)[1] / 1e9
    rows: list[tuple[str, object]] = [
        ("model", findings.title),
        ("architecture", _fields(known["architecture"])),
        ("parameters", f"{known['parameters']:,}"),
        ("work for one image", f"{work:,.3g} GFLOPs"),
        ("input", f"{size[0]} x {size[1]} pixels, {known['num_classes']:,} outputs"),
        ("dtype", model.blocks[0].dtype_policy.name),
        ("preprocessing", _fields(known["preprocessing"])),
        ("its fingerprint", known["preprocessing_fingerprint"]),
        ("data", f"{data}, split {split}"),
        ("images per second", f"{findings.evaluation.images_per_second:,.1f}"),
        ("measured with", f"decoding and preprocessing, {findings.batch_size} images a step"),
        ("on", _devices()),
        ("versions", _fields(known["versions"])),
        ("date", datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")),
    ]
    return table("Model card", ["", "value"], rows, "card")


def _fields(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_plain(value)}" for key, value in values.items())


def _plain(value: Any) -> str:
    return " x ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _devices() -> str:
    """The accelerators that TensorFlow sees, or the processor."""
    found = [device for device in tf.config.list_physical_devices() if device.device_type != "CPU"]
    if not found:
        cores = os.cpu_count() or 1
        return f"{platform.machine()} CPU, {cores} core{'s' * (cores > 1)}"
    details = [tf.config.experimental.get_device_details(device) for device in found]
    names = [
        detail.get("device_name", device.device_type)
        for detail, device in zip(details, found, strict=True)
    ]
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
