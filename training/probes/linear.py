"""Logistic regression on features, its penalty chosen on a held-out part of the training data."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from training.probes.extraction import Features, check_features

# Of the penalty l2 / 2 * |weights|², beside the mean cross-entropy of the examples.
PENALTIES = tuple(10.0**exponent for exponent in range(-5, 2))
_HELD_OUT = 0.2
_MOST_ITERATIONS = 1000


@dataclasses.dataclass(frozen=True)
class LinearProbeResult:
    """The accuracy of a linear probe and how its penalty was chosen.

    Args:
        top1: on the test features.
        l2: the penalty that was chosen.
        held_out: for each penalty, the accuracy on the held-out part of the training features.
        converged: whether the last fit was done before it ran out of iterations.
    """

    top1: float
    l2: float
    held_out: dict[float, float]
    converged: bool


def linear_probe(
    train: Features,
    test: Features,
    num_classes: int,
    penalties: Sequence[float] = PENALTIES,
    seed: int = 0,
) -> LinearProbeResult:
    """Train a multinomial logistic regression on standardised features.

    A fifth of each class is held out, and the penalty of the best accuracy on it (of equal ones
    the strongest) is taken to train on all of it again. The test features take no part in that.

    Args:
        train: features to train on.
        test: features to judge on.
        num_classes: of the data.
        penalties: weights of the L2 penalty to try. Default 1e-5, 1e-4 to 10.
        seed: of the held-out part. Default 0.

    Returns:
        A `LinearProbeResult`.

    Raises:
        ValueError: if there are fewer than two classes, no class has two training examples, a
            penalty is not above 0, or the features do not fit each other.

    Example:
        >>> train = Features(np.eye(3, dtype="float32")[np.arange(30) % 3], np.arange(30) % 3)
        >>> linear_probe(train, train, num_classes=3).top1
        1.0
    """
    check_features(train, test, num_classes)
    if not len(penalties) or min(penalties) <= 0:
        given = ", ".join(map(str, penalties)) or "nothing"
        raise ValueError(f"penalties must be above 0, at least one of them, not {given}.")
    if len(np.unique(train.labels)) < 2:
        raise ValueError("The training features are all of one class: a probe needs two or more.")
    held_out = hold_out(train.labels, seed)  # [N]
    if not held_out.any():
        raise ValueError(
            f"The {len(train.labels)} training examples have no class with two of them: none can "
            f"be held out to choose the penalty. Give more examples."
        )
    part = Features(train.values[~held_out], train.labels[~held_out])
    rest = Features(train.values[held_out], train.labels[held_out])
    accuracies = {l2: _fit(part, l2)[0].score(*rest) for l2 in sorted(set(penalties))[::-1]}
    best = max(accuracies, key=lambda l2: accuracies[l2])  # the first of equals
    classifier, converged = _fit(train, best)
    return LinearProbeResult(
        top1=float(classifier.score(*test)),
        l2=best,
        held_out={l2: float(accuracy) for l2, accuracy in accuracies.items()},
        converged=converged,
    )


def hold_out(labels: np.ndarray, seed: int) -> np.ndarray:
    """Choose a fifth of each class.

    Args:
        labels: int64 [N].
        seed: of the choice.

    Returns:
        Whether an example is held out, bool [N]; at least one of each class that has two or more.

    Example:
        >>> hold_out(np.array([0, 0, 0, 0, 0, 1]), seed=0).sum()
        np.int64(1)
    """
    generator = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), bool)
    for index in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == index))
        count = max(1, round(len(members) * _HELD_OUT)) if len(members) > 1 else 0
        chosen[members[:count]] = True
    return chosen


def _fit(features: Features, l2: float) -> tuple[Any, bool]:
    """A trained classifier with `score(values, labels)`, and whether it converged."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    # scikit-learn's C multiplies the sum over the examples, not their mean.
    classifier = make_pipeline(
        StandardScaler(),
        LogisticRegression(C=1 / (l2 * len(features.labels)), max_iter=_MOST_ITERATIONS),
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        classifier.fit(np.asarray(features.values, np.float64), features.labels)
    failed = any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    return classifier, not failed
