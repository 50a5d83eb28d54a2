"""What a report needs of every example, gathered while the model is evaluated."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_vit import VisionTransformer
from training.data import DataSource
from training.evaluation.accuracy import Batch, Evaluation, evaluate

PICTURES = 12  # of each kind
MAP_POINTS = 2000
_SEED = 0


class Example(NamedTuple):
    """One of the images that are shown.

    Args:
        place: its place among the N examples that were evaluated.
        name: of its file, or its place in the data set.
        image_bytes: encoded.
    """

    place: int
    name: str
    image_bytes: bytes


@dataclasses.dataclass(frozen=True, eq=False)
class Findings:
    """What is known of one model after its evaluation on N examples.

    Args:
        title: what the model is called, such as the path that it was read from.
        model: itself.
        evaluation: its numbers.
        batch_size: images per step of the evaluation.
        names: of all examples, N of them.
        right: the right output of each, int64 [N].
        best: the output that the model chose, int64 [N].
        confidences: its probability, float32 [N].
        right_probabilities: that of the right output, float32 [N].
        mistakes: the wrong answers of the highest probability, the highest first.
        hits: the right answers of the lowest probability, the lowest first.
        sampled: the places of M examples that a fixed seed chose, rising, int64 [M].
        features: what the head saw of these, float32 [M, D].
        only_first: examples that only the model compared with is right about; empty without one.
        only_second: examples that only this model is right about; empty without another.
    """

    title: str
    model: VisionTransformer
    evaluation: Evaluation
    batch_size: int
    names: list[bytes]
    right: np.ndarray
    best: np.ndarray
    confidences: np.ndarray
    right_probabilities: np.ndarray
    mistakes: list[Example]
    hits: list[Example]
    sampled: np.ndarray
    features: np.ndarray
    only_first: list[Example]
    only_second: list[Example]

    @property
    def correct(self) -> np.ndarray:
        """Whether each answer is right, bool [N]."""
        return self.best == self.right

    def label(self, output: int) -> str:
        """The name of an output."""
        return self.evaluation.output_labels[output]


def examine(
    model: VisionTransformer,
    source: DataSource,
    split: str = "test",
    batch_size: int = 64,
    *,
    title: str = "model",
    first: Findings | None = None,
    real_labels: str | Path | None = None,
    report: Callable[[str], None] = print,
    show_progress: bool = False,
) -> Findings:
    """Evaluate a model, and keep what a report shows: one pass over the data.

    What is kept does not grow with the data but for a few numbers and the name of each example.

    Args:
        model: with a head, and its preprocessing.
        source: the data, as for `evaluate`.
        split: which part of it. Default "test".
        batch_size: images per step. Default 64.
        title: what the model is called. Default "model".
        first: of another model on the same examples, to compare with. Default None.
        real_labels: as for `evaluate`. Default None.
        report: called with lines for the user. Default `print`.
        show_progress: whether a bar on standard error shows how far it is. Default False.

    Returns:
        The `Findings`.

    Raises:
        ValueError: as `evaluate` does, or if the two models did not see the same examples.

    Example:
        >>> from training.data import load_source
        >>> model = VisionTransformer(8, 4, hidden_dim=16, depth=1, num_heads=2, num_classes=10)
        >>> findings = examine(model, load_source("digits"))
        >>> findings.features.shape, len(findings.mistakes)
        ((360, 16), 12)
    """
    collector = _Collector(source.splits.get(split, 0), first)
    evaluation = evaluate(
        model,
        source,
        split,
        batch_size,
        real_labels=real_labels,
        observe=collector,
        report=report,
        show_progress=show_progress,
    )
    if first is not None and len(collector.names) != len(first.names):
        raise _other_examples(first, len(collector.names))
    columns = (np.concatenate(column) for column in zip(*collector.columns, strict=True))
    right, best, confidences, right_probabilities, sampled, features = columns
    return Findings(
        title,
        model,
        evaluation,
        batch_size,
        collector.names,
        right,
        best.astype(np.int64),
        confidences,
        right_probabilities,
        collector.mistakes.examples(),
        collector.hits.examples(),
        sampled,
        features,
        collector.only_first.examples(),
        collector.only_second.examples(),
    )


class _Highest:
    """The examples of the highest scores, at most `PICTURES`; of equal ones the earlier."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Example]] = []

    def offer(self, scores: np.ndarray, wanted: np.ndarray, start: int, batch: Batch) -> None:
        """Keep what is worth it of a batch, and copy the bytes of nothing else.

        Args:
            scores: [b].
            wanted: which of the examples count at all, bool [b].
            start: the place of the batch's first example.
            batch: the names and bytes are taken from it.
        """
        for place in np.flatnonzero(wanted).tolist():
            key = (float(scores[place]), -(start + place))
            if len(self._heap) == PICTURES and key < self._heap[0][:2]:
                continue
            name = batch.names[place].numpy().decode("utf-8", "replace")
            example = Example(start + place, name, batch.image_bytes[place].numpy())
            if len(self._heap) == PICTURES:
                heapq.heapreplace(self._heap, (*key, example))
            else:
                heapq.heappush(self._heap, (*key, example))

    def examples(self) -> list[Example]:
        """The highest first."""
        return [example for *_, example in sorted(self._heap, reverse=True)]


class _Collector:
    """Called with every batch of an evaluation."""

    def __init__(self, size: int, first: Findings | None) -> None:
        self._chosen = np.random.default_rng(_SEED).permutation(size)[:MAP_POINTS]
        self._first = first
        self.names: list[bytes] = []
        self.columns: list[tuple[np.ndarray, ...]] = []
        self.mistakes, self.hits = _Highest(), _Highest()
        self.only_first, self.only_second = _Highest(), _Highest()

    def __call__(self, batch: Batch) -> None:
        start, count = len(self.names), len(batch.right)
        self.names.extend(batch.names.numpy().tolist())
        best, confidences = batch.ranked[:, 0], batch.probabilities[:, 0]
        right_probabilities = np.exp(-batch.losses)
        correct = best == batch.right
        self.mistakes.offer(confidences, ~correct, start, batch)
        self.hits.offer(-confidences, correct, start, batch)
        places = start + np.arange(count)
        sampled = np.isin(places, self._chosen)
        self.columns.append(
            (
                batch.right,
                best,
                confidences,
                right_probabilities,
                places[sampled],
                # A copy: the batch's other vectors are not to be kept.
                batch.representation[sampled],
            )
        )
        if self._first is None:
            return
        these = slice(start, start + count)
        if self.names[these] != self._first.names[these]:
            raise _other_examples(self._first, start)
        before = self._first.correct[these]
        change = right_probabilities - self._first.right_probabilities[these]
        self.only_first.offer(-change, before & ~correct, start, batch)
        self.only_second.offer(change, correct & ~before, start, batch)


def _other_examples(first: Findings, place: int) -> ValueError:
    return ValueError(
        f"From example {place} on the second model did not see what {first.title} saw of its "
        f"{len(first.names)} examples, so that the two cannot be compared: one of them may refuse "
        f"images that the other takes (max_pixels, recover_truncated of its preprocessing), or the "
        f"data changed in between. `keras-vit data info` names damaged images."
    )
