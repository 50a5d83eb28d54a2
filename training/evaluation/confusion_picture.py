"""The picture of who is taken for whom."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from keras_vit.atomic_files import hidden_sibling, publish
from training.evaluation.accuracy import Evaluation

# With more classes than this the names would be too small to read.
MOST_CLASSES = 40
_MOST_NUMBERS = 20
_LONGEST_NAME = 22


def plot_confusion(evaluation: Evaluation, path: Path, title: str = "") -> None:
    """Draw the confusion matrix, a row for each class, coloured by its share of the row.

    Above 40 classes only those of the pairs that are most often confused have a row and a column
    of their own, and all others share one.

    Args:
        evaluation: what to draw.
        path: of the PNG file.
        title: above the picture. Default "".
    """
    from matplotlib.figure import Figure  # 0.5 s, and only when a picture is wanted

    counts, rows, columns = condense(evaluation)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)  # [rows, columns]
    size = 3.5 + 0.24 * max(len(rows), 8)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(range(len(columns)), [_short(name) for name in columns], rotation=90)
    axis.set_yticks(range(len(rows)), [_short(name) for name in rows])
    axis.tick_params(labelsize=8, length=0)
    axis.set_xlabel("answer of the model")
    axis.set_ylabel("class")
    axis.spines[:].set_visible(False)
    if len(rows) <= _MOST_NUMBERS:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "#222222"
                axis.text(
                    column, row, f"{count}", ha="center", va="center", fontsize=7, color=colour
                )
    figure.colorbar(image, ax=axis, shrink=0.6, label="share of the class")
    lines = [title] if title else []
    lines.append(f"top-1 {evaluation.top1:.4f} of {evaluation.examples:,} examples")
    if len(rows) < len(evaluation.class_outputs):
        lines.append(
            f"the most confused {len(rows) - 1} of {len(evaluation.class_outputs):,} classes"
        )
    axis.set_title("\n".join(lines), fontsize=10)
    with hidden_sibling(path) as temporary:
        figure.savefig(temporary, dpi=120)
        publish(temporary, path)


def condense(
    evaluation: Evaluation, most: int = MOST_CLASSES
) -> tuple[np.ndarray, list[str], list[str]]:
    """The confusion matrix with at most so many classes, the others in one row and one column.

    Args:
        evaluation: with C classes of the data.
        most: how many rows and columns may be classes. Default 40.

    Returns:
        The counts, int64 [rows, columns], and the names of the rows and of the columns. Nothing is
        lost: the counts add up to the number of examples. There is a column "others" too if the
        model answered with classes that are not the data's.

    Example:
        >>> result = Evaluation(
        ...     top1=0.5, top5=1.0, loss=0.7, calibration_error=0.1, examples=4,
        ...     images_per_second=9.0, output_labels=("ape", "bee", "cat"),
        ...     class_outputs=np.array([0, 1, 2]), class_top5=np.ones(3),
        ...     confusion=np.array([[1, 0, 0], [0, 1, 1], [0, 1, 0]])
        ... )
        >>> condense(result, most=2)[0]
        array([[1, 1, 0],
               [1, 0, 0],
               [0, 0, 1]])
    """
    square = evaluation.confusion[:, evaluation.class_outputs]  # [C, C]
    kept = np.sort(most_confused(square)[:most])  # in the order of the outputs
    labels = evaluation.class_labels
    names = [labels[index] for index in kept]
    left = np.setdiff1d(np.arange(len(square)), kept)
    outside = evaluation.confusion.sum(1) - square[:, kept].sum(1)  # [C]
    rows, columns, counts = list(names), list(names), square[np.ix_(kept, kept)]
    if len(left):
        rows.append(f"{len(left)} others")
        counts = np.vstack([counts, square[np.ix_(left, kept)].sum(0)])
    if len(left) or outside.any():
        columns.append("others")
        column = np.append(outside[kept], outside[left].sum())[: len(counts)]
        counts = np.hstack([counts, column[:, None]])
    return counts, rows, columns


def most_confused(square: np.ndarray) -> np.ndarray:
    """All classes, those of the pairs that are most often confused first.

    Args:
        square: how many examples of a class (row) were taken for another (column), int [C, C].

    Returns:
        int64 [C].

    Example:
        >>> most_confused(np.array([[5, 0, 0], [0, 5, 1], [0, 0, 5]]))
        array([1, 2, 0])
    """
    rows, columns = np.nonzero(square)  # few of many: an example is one at most
    wrong = rows != columns
    rows, columns = rows[wrong], columns[wrong]
    size = len(square)
    first, second = np.minimum(rows, columns), np.maximum(rows, columns)
    pairs, pair_of = np.unique(first * size + second, return_inverse=True)  # [P]
    counts = np.bincount(pair_of, square[rows, columns], minlength=len(pairs))  # [P]
    strongest = pairs[np.argsort(-counts, kind="stable")]
    classes = np.stack([strongest // size, strongest % size], axis=1)  # [P, 2]
    return np.array(list(dict.fromkeys([*classes.ravel().tolist(), *range(size)])), np.int64)


def _short(name: str) -> str:
    """The first of the synonyms, cut where it is long."""
    name = name.split(",")[0]
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
