"""Few-shot linear regression on features, as big_vision measures it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from training.probes.extraction import Features, check_features

SHOTS = (1, 5, 10, 25)
# All of these as in big_vision's `fewshot_lsr`: the results can be compared with published ones.
_EPSILON = 1e-5
_BIAS = 100.0
_L2 = 2.0**10
_ROWS = 8192


@dataclasses.dataclass(frozen=True)
class FewShotResult:
    """Accuracies of few-shot regressions.

    Args:
        accuracies: for each number of shots, the top-1 accuracy of each seed.
        short_classes: for each number of shots, how many classes have fewer training examples;
            of these all are taken.
    """

    accuracies: dict[int, tuple[float, ...]]
    short_classes: dict[int, int]

    def top1(self, shots: int) -> float:
        """The mean over the seeds."""
        return float(np.mean(self.accuracies[shots]))


@dataclasses.dataclass(frozen=True)
class Regression:
    """A linear regression onto -1 and +1 for each class.

    Args:
        mean: of the training features, float64 [D].
        deviation: their standard deviation and a little more, float64 [D].
        weights: float64 [D + 1, C]; the last row belongs to a constant feature of 100.
    """

    mean: np.ndarray
    deviation: np.ndarray
    weights: np.ndarray

    def scores(self, values: np.ndarray) -> np.ndarray:
        """The regression's answers: features [N, D] -> float64 [N, C]."""
        return whiten(values, self.mean, self.deviation) @ self.weights

    def predict(self, values: np.ndarray) -> np.ndarray:
        """The class of the largest answer: features [N, D] -> int64 [N]."""
        chunks = [values[start : start + _ROWS] for start in range(0, len(values), _ROWS)]
        return np.concatenate([self.scores(chunk).argmax(axis=1) for chunk in chunks])


def few_shot(
    train: Features,
    test: Features,
    num_classes: int,
    shots: Sequence[int] = SHOTS,
    seeds: Sequence[int] = (0, 1, 2),
    l2: float = _L2,
) -> FewShotResult:
    """Regress from a few examples of each class, and judge on all of the test split.

    The numbers of `big_vision/evaluators/fewshot_lsr.py`, in float64, with the same draws: a seed
    gives each class an order, and k shots are the first k of it. A class with fewer examples gives
    all that it has, as there.

    Args:
        train: features to draw from.
        test: features to judge on.
        num_classes: of the data, C.
        shots: numbers of examples of each class. Default 1, 5, 10 and 25.
        seeds: of the draws. Default 0, 1 and 2.
        l2: weight of the penalty. Default 1024.

    Returns:
        A `FewShotResult`.

    Raises:
        ValueError: if a number of shots or the penalty is too low, there is no seed, or the
            features do not fit each other.

    Example:
        >>> train = Features(np.eye(3, dtype="float32")[[0, 1, 2, 0, 1, 2]], np.arange(6) % 3)
        >>> few_shot(train, train, num_classes=3, shots=[2], seeds=[0]).accuracies
        {2: (1.0,)}
    """
    check_features(train, test, num_classes)
    check_shots(shots)
    if not len(seeds):
        raise ValueError("There is no seed to draw the shots with: give at least one.")
    if l2 <= 0:
        raise ValueError(f"l2 must be above 0, not {l2}: the regression may have no solution.")
    accuracies: dict[int, list[float]] = {count: [] for count in shots}
    for seed in seeds:
        orders = draw_orders(train.labels, num_classes, seed)
        for count in accuracies:
            drawn = np.concatenate([order[:count] for order in orders])
            model = fit_regression(train.values[drawn], train.labels[drawn], num_classes, l2)
            accuracies[count].append(float(np.mean(model.predict(test.values) == test.labels)))
    available = np.bincount(train.labels, minlength=num_classes)  # [C]
    return FewShotResult(
        {count: tuple(values) for count, values in accuracies.items()},
        {count: int(np.sum(available < count)) for count in accuracies},
    )


def check_shots(shots: Sequence[int]) -> None:
    """Refuse numbers of shots that are none.

    Args:
        shots: numbers of examples of each class.

    Raises:
        ValueError: if there is none, or one is below 1.
    """
    if not len(shots) or min(shots) < 1:
        given = ", ".join(map(str, shots)) or "nothing"
        raise ValueError(f"shots are numbers of examples of each class, 1 or more, not {given}.")


def draw_orders(labels: np.ndarray, num_classes: int, seed: int) -> list[np.ndarray]:
    """An order for the examples of each class, the one that big_vision draws with this seed.

    Args:
        labels: int64 [N].
        num_classes: C.
        seed: of the draw.

    Returns:
        For each class, the places of its examples in `labels`, int64.
    """
    generator = np.random.default_rng(seed)
    return [generator.permutation(np.flatnonzero(labels == index)) for index in range(num_classes)]


def fit_regression(
    values: np.ndarray, labels: np.ndarray, num_classes: int, l2: float = _L2
) -> Regression:
    """Least squares with a penalty, from features to -1 and, for the right class, +1.

    Args:
        values: features, [N, D].
        labels: int64 [N].
        num_classes: C.
        l2: weight of the penalty. Default 1024.

    Returns:
        The `Regression`.
    """
    values = np.asarray(values, np.float64)
    mean, deviation = values.mean(axis=0), values.std(axis=0) + _EPSILON
    x = whiten(values, mean, deviation)  # [N, D + 1]
    y = 2.0 * (labels[:, None] == np.arange(num_classes)) - 1.0  # [N, C]
    if len(x) >= x.shape[1]:
        weights = np.linalg.solve(x.T @ x + l2 * np.eye(x.shape[1]), x.T @ y)
    else:  # the same weights from a smaller system
        weights = x.T @ np.linalg.solve(x @ x.T + l2 * np.eye(len(x)), y)
    return Regression(mean, deviation, weights)


def whiten(values: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Centre and scale features, and append the constant one: [N, D] -> float64 [N, D + 1]."""
    x = (np.asarray(values, np.float64) - mean) / deviation
    return np.pad(x, ((0, 0), (0, 1)), constant_values=_BIAS)
