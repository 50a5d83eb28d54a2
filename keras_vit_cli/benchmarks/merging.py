"""Token merging: accuracy against speed."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_vit import Preprocessing, VisionTransformer
from keras_vit_cli.benchmarks.ours import open_session
from serving.export import export_model
from serving.fused import TokenMerging, fuse
from training.data import DataSource
from training.evaluation.accuracy import check_split, evaluation_batches, model_outputs
from training.evaluation.progress import with_progress


def table(
    model: VisionTransformer,
    source: DataSource,
    split: str,
    choices: Sequence[TokenMerging | None],
    *,
    batch_size: int,
    threads: int,
    rounds: int,
) -> list[dict[str, Any]]:
    """Measure a model with several ways of merging.

    Args:
        model: with a head.
        source: the data.
        split: which part of it, with labels.
        choices: what to compare; the first is what the others are compared with.
        batch_size: images of a step.
        threads: of the operations of the timed exports.
        rounds: how many steps of each are timed, in turns.

    Returns:
        A row for each choice: `count`, `images_per_second`, `speedup`, `top1`, `agreement` and
        `images`.

    Raises:
        ValueError: if the data do not go with the model, or its tokens cannot be merged.
    """
    check_split(source, split, batch_size)
    output_of = model_outputs(model, source.labels, source.spec)
    functions = [tf.function(fuse(model, choice).logits, autograph=False) for choice in choices]
    seconds = _times(model, choices, batch_size, threads, rounds)
    truth, answers = answers_on(
        source,
        split,
        model.preprocessing,
        batch_size,
        lambda images: [np.argmax(function(images), -1) for function in functions],
    )
    rows = compared(output_of[truth], answers, seconds, batch_size)
    return [
        {"count": choice.count if choice else 0, **row}
        for choice, row in zip(choices, rows, strict=True)
    ]


def answers_on(
    source: DataSource,
    split: str,
    preprocessing: Preprocessing,
    batch_size: int,
    answer: Callable[[tf.Tensor], Sequence[np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
    """Ask several forms of a model about a data set.

    Args:
        source: the data.
        split: which part of it, with labels.
        preprocessing: makes the images.
        batch_size: how many at a time.
        answer: normalised images [B, H, W, C] to the best class [B] of each form.

    Returns:
        The labels of the data, int [N], and the answers [forms, N].
    """
    labels, answers = [], []
    batches = evaluation_batches(source, split, preprocessing, batch_size=batch_size)
    with source.damage.explained():
        for images, numbers in with_progress(
            batches, f"evaluating {split}", -(-source.splits[split] // batch_size), True
        ):
            labels.append(np.asarray(numbers))
            answers.append(answer(images))
    return np.concatenate(labels), np.concatenate(answers, axis=1)


def compared(
    truth: np.ndarray, answers: np.ndarray, seconds: Sequence[float], batch_size: int
) -> list[dict[str, Any]]:
    """Speed and accuracy of several forms of a model, beside the first of them.

    Args:
        truth: the right answers, [N].
        answers: those of each form, [forms, N].
        seconds: of a step of each.
        batch_size: images of a step.

    Returns:
        A row for each form: `images_per_second`, `speedup`, `top1`, `agreement` and `images`.

    Example:
        >>> rows = compared(np.array([1, 2]), np.array([[1, 2], [1, 0]]), [2.0, 1.0], 4)
        >>> rows[1]["speedup"], rows[1]["agreement"]
        (2.0, 0.5)
    """
    return [
        {
            "images_per_second": round(batch_size / taken, 2),
            "speedup": round(seconds[0] / taken, 3),
            "top1": round(float((answer == truth).mean()), 4),
            "agreement": round(float((answer == answers[0]).mean()), 4),
            "images": len(truth),
        }
        for taken, answer in zip(seconds, answers, strict=True)
    ]


def _times(
    model: VisionTransformer,
    choices: Sequence[TokenMerging | None],
    batch_size: int,
    threads: int,
    rounds: int,
) -> list[float]:
    """Seconds of the median step of each export."""
    calls = []
    for choice in choices:
        with tempfile.TemporaryDirectory() as base:
            export = export_model(model, base, batch_sizes=(batch_size,), token_merging=choice)
            session, signatures = open_session(export.path, threads)
        (given,) = signatures["images"].inputs.values()
        output = signatures["images"].outputs["scores"].name
        calls.append(session.make_callable(output, [given.name]))
    return median_seconds(calls, batch_size, model.preprocessing.output_shape, rounds)


def median_seconds(
    calls: Sequence[Callable[[np.ndarray], Any]],
    batch_size: int,
    shape: tuple[int, ...],
    rounds: int,
) -> list[float]:
    """Let functions take turns.

    Args:
        calls: each takes uint8 pixels [batch_size, *shape].
        batch_size: images of a step.
        shape: of an image.
        rounds: steps of each that are timed.

    Returns:
        Seconds of the median step of each.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (batch_size, *shape), np.uint8)
    seconds: list[list[float]] = [[] for _ in calls]
    for number in range(rounds + 2):  # the first two fill caches
        for call, taken in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            call(pixels)
            if number >= 2:
                taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in seconds]


def print_merging(rows: Sequence[dict[str, Any]], title: str) -> None:
    """Show what `table` gives.

    Args:
        rows: its rows.
        title: what was measured.
    """
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=title)
    for name in ("merged in a block", "images/s", "faster", "top1", "same as without"):
        shown.add_column(name, justify="right")
    for row in rows:
        shown.add_row(
            str(row["count"]),
            f"{row['images_per_second']:,.1f}",
            f"{row['speedup']:.2f}",
            f"{row['top1']:.4f}",
            f"{row['agreement']:.2%}",
        )
    Console(highlight=False).print(shown)
