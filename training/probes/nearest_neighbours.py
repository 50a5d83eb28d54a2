"""The vote of the nearest neighbours, as DINO measures it."""

from __future__ import annotations

import dataclasses

import numpy as np

from training.probes.extraction import Features, check_features

NUM_NEIGHBOURS = 20
# So many similarities are in memory at once (as float64, 128 MB).
_TEST_ROWS, _TRAIN_ROWS = 512, 32_768


@dataclasses.dataclass(frozen=True)
class NeighboursResult:
    """Accuracies of a vote of neighbours.

    Args:
        top1: of the vote weighted by similarity.
        plain_top1: of the vote in which each neighbour counts the same.
    """

    top1: float
    plain_top1: float


def neighbours(
    train: Features,
    test: Features,
    num_classes: int,
    k: int = NUM_NEIGHBOURS,
    temperature: float = 0.07,
) -> NeighboursResult:
    """Classify by the k nearest training examples.

    Args:
        train: features that vote.
        test: features to judge on.
        num_classes: of the data.
        k: how many neighbours vote. Default 20.
        temperature: a neighbour of cosine similarity s has the weight exp(s / temperature).
            Default 0.07, as in DINO.

    Returns:
        A `NeighboursResult`.

    Raises:
        ValueError: as `neighbour_scores`.

    Example:
        >>> train = Features(np.eye(2, dtype="float32"), np.array([0, 1]))
        >>> test = Features(np.array([[0.9, 0.1], [0.2, 0.3]], "float32"), np.array([0, 1]))
        >>> neighbours(train, test, num_classes=2, k=2)
        NeighboursResult(top1=1.0, plain_top1=0.5)
    """
    weighted, plain = neighbour_scores(train, test, num_classes, k, temperature)
    return NeighboursResult(
        top1=float(np.mean(weighted.argmax(axis=1) == test.labels)),
        plain_top1=float(np.mean(plain.argmax(axis=1) == test.labels)),
    )


def neighbour_scores(
    train: Features,
    test: Features,
    num_classes: int,
    k: int = NUM_NEIGHBOURS,
    temperature: float = 0.07,
) -> tuple[np.ndarray, np.ndarray]:
    """Each class's share of the votes, computed in float64.

    Args:
        train: features that vote, N of them.
        test: features that are voted on, M of them.
        num_classes: of the data, C.
        k: how many neighbours vote. Default 20.
        temperature: of the weighted vote. Default 0.07.

    Returns:
        The shares of the weighted and of the plain vote, each float64 [M, C]; rows add up to 1.

    Raises:
        ValueError: if k is not from 1 to N, the temperature is not above 0, or the features do not
            fit each other.

    Example:
        >>> train = Features(np.eye(2, dtype="float32"), np.array([0, 1]))
        >>> neighbour_scores(train, train, num_classes=2, k=2)[1]
        array([[0.5, 0.5],
               [0.5, 0.5]])
    """
    check_features(train, test, num_classes)
    if not 1 <= k <= len(train.labels):
        raise ValueError(
            f"k={k} neighbours were asked for: choose from 1 to {len(train.labels)}, the number of "
            f"training examples."
        )
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, not {temperature}.")
    chunks = [
        _nearest(train.values, _unit(test.values[start : start + _TEST_ROWS]), k)
        for start in range(0, len(test.values), _TEST_ROWS)
    ]
    similarities, indices = (np.concatenate(part) for part in zip(*chunks, strict=True))  # [M, k]
    # Over that of the nearest: the shares are the same, and no exponential is too large.
    weights = np.exp((similarities - similarities[:, :1]) / temperature)  # [M, k]
    labels = train.labels[indices]  # [M, k]
    plain = _shares(labels, np.ones_like(weights), num_classes)
    return _shares(labels, weights, num_classes), plain


def _nearest(train: np.ndarray, test: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The cosine similarities and places of the k nearest: unit [m, D] -> two of [m, k]."""
    best = np.empty([len(test), 0])
    places = np.empty([len(test), 0], np.int64)
    for start in range(0, len(train), _TRAIN_ROWS):
        chunk = _unit(train[start : start + _TRAIN_ROWS])
        found = test @ chunk.T  # [m, n]
        nearest = _largest(found, k)
        best = np.hstack([best, np.take_along_axis(found, nearest, 1)])
        places = np.hstack([places, nearest + start])
        kept = _largest(best, k)
        best, places = np.take_along_axis(best, kept, 1), np.take_along_axis(places, kept, 1)
    return best, places


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """Where the k largest of each row are, the largest first; all if there are fewer: [m, k]."""
    if k < values.shape[1]:
        some = np.argpartition(-values, k - 1, axis=1)[:, :k]
    else:
        some = np.tile(np.arange(values.shape[1]), (len(values), 1))
    some.sort(axis=1)  # of equal values the first in the data comes first
    order = np.argsort(-np.take_along_axis(values, some, 1), axis=1, kind="stable")
    return np.take_along_axis(some, order, 1)


def _shares(labels: np.ndarray, weights: np.ndarray, num_classes: int) -> np.ndarray:
    """Add up the weights of each class: [M, k] -> [M, C], rows that add up to 1."""
    cells = labels + num_classes * np.arange(len(labels))[:, None]
    sums = np.bincount(cells.ravel(), weights.ravel(), minlength=len(labels) * num_classes)
    scores = sums.reshape(len(labels), num_classes)
    return scores / weights.sum(axis=1, keepdims=True)


def _unit(values: np.ndarray) -> np.ndarray:
    """Rows of length 1, float64; a row of zeros stays."""
    values = np.asarray(values, np.float64)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
