"""The files that tell more about an evaluation than one number."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from keras_vit.atomic_files import write_text
from training.evaluation.accuracy import Evaluation
from training.evaluation.confusion_picture import plot_confusion


def write_evaluation(evaluation: Evaluation, directory: str | Path, title: str = "") -> list[Path]:
    """Write the numbers, the classes and the confusions of an evaluation.

    Args:
        evaluation: what to write.
        directory: where to; it is made if it does not exist. It gets
            `evaluation.json`: the line of `Evaluation.to_json`.
            `per_class.csv`: label, examples, top1 and top5 of each class; the last two are empty
            for a class without examples.
            `confusion.csv`: a row for each class and a column for each class, and each other output
            that was an answer; both start with the labels.
            `confusion.png`: the same as a picture.
        title: above the picture. Default "".

    Returns:
        The paths of the four files.

    Raises:
        ValueError: if the directory is a file.

    Example:
        >>> import tempfile
        >>> result = Evaluation(
        ...     top1=0.5, top5=1.0, loss=0.7, calibration_error=0.1, examples=2,
        ...     images_per_second=9.0, output_labels=("ape", "bee"), class_outputs=np.array([0, 1]),
        ...     class_top5=np.array([1.0, 1.0]), confusion=np.array([[1, 0], [1, 0]])
        ... )
        >>> directory = Path(tempfile.mkdtemp())
        >>> [path.name for path in write_evaluation(result, directory)]
        ['evaluation.json', 'per_class.csv', 'confusion.csv', 'confusion.png']
        >>> print((directory / "confusion.csv").read_text(), end="")
        label,ape,bee
        ape,1,0
        bee,1,0
    """
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"The output {directory} is a file: give a directory.")
    names = ("evaluation.json", "per_class.csv", "confusion.csv", "confusion.png")
    numbers, per_class, confusion, picture = paths = [directory / name for name in names]
    write_text(numbers, evaluation.to_json() + "\n")
    rows = zip(
        evaluation.class_labels,
        evaluation.class_examples.tolist(),
        map(_number, evaluation.class_top1),
        map(_number, evaluation.class_top5),
        strict=True,
    )
    _write_csv(per_class, ("label", "examples", "top1", "top5"), rows)
    columns = answered_outputs(evaluation)
    _write_csv(
        confusion,
        ("label", *(evaluation.output_labels[output] for output in columns)),
        (
            (label, *counts)
            for label, counts in zip(
                evaluation.class_labels, evaluation.confusion[:, columns].tolist(), strict=True
            )
        ),
    )
    plot_confusion(evaluation, picture, title)
    return paths


def answered_outputs(evaluation: Evaluation) -> np.ndarray:
    """The outputs that are a class of the data or were an answer, rising.

    Args:
        evaluation: with C classes and K outputs.

    Returns:
        int64, at least C and at most K of them.
    """
    answers = np.flatnonzero(evaluation.confusion.sum(axis=0))
    return np.union1d(answers, evaluation.class_outputs)


def _number(share: float) -> str:
    return "" if math.isnan(share) else f"{share:.6g}"


def _write_csv(path: Path, header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())
