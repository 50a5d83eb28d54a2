"""Whether a model is as sure as it is right."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

BINS = 15  # as in the paper


class CalibrationBins(NamedTuple):
    """Predictions in bins of equal width by their confidence: what a reliability diagram shows.

    Args:
        edges: of the bins, from 0 to 1, float64 [bins + 1].
        counts: how many predictions are in each, int64 [bins].
        confidences: the mean confidence of each, float64 [bins], NaN for an empty one.
        accuracies: the share of each that is right, float64 [bins], NaN for an empty one.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidences: np.ndarray
    accuracies: np.ndarray


def calibration_error(confidences: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """The expected calibration error of "On Calibration of Modern Neural Networks".

    As Guo et al. (ICML 2017) define it: predictions go into bins of equal width by their
    confidence; the error is the distance between the mean confidence and the accuracy of a bin,
    averaged over the predictions.

    Args:
        confidences: the probability of each prediction, in [0, 1], [N].
        correct: whether it is right, [N].
        bins: how many. Default 15, as in the paper.

    Returns:
        The error, in [0, 1].

    Raises:
        ValueError: if there is no prediction, or the two do not go together.

    Example:
        >>> calibration_error(np.array([0.75, 0.75]), np.array([True, False]))
        0.25
    """
    parts = calibration_bins(confidences, correct, bins)
    gaps = np.abs(parts.confidences - parts.accuracies)[parts.counts > 0]
    return float(np.average(gaps, weights=parts.counts[parts.counts > 0]))


def calibration_bins(
    confidences: np.ndarray, correct: np.ndarray, bins: int = BINS
) -> CalibrationBins:
    """The bins of `calibration_error`, those of the reliability diagrams of the same paper.

    Args:
        confidences: the probability of each prediction, in [0, 1], [N].
        correct: whether it is right, [N].
        bins: how many. Default 15, as in the paper.

    Returns:
        The `CalibrationBins`.

    Raises:
        ValueError: if there is no prediction, or the two do not go together.

    Example:
        >>> calibration_bins(np.array([0.75, 0.75]), np.array([True, False]), bins=2).accuracies
        array([nan, 0.5])
    """
    confidences = np.asarray(confidences, np.float64)
    correct = np.asarray(correct, np.float64)
    if confidences.ndim != 1 or confidences.shape != correct.shape or not len(correct):
        raise ValueError(
            f"confidences has the shape {list(confidences.shape)} and correct "
            f"{list(correct.shape)}: give one of each for every prediction, at least one."
        )
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}.")
    # The softmax of float32 may add up to a little more than 1.
    if not np.all((confidences >= 0) & (confidences <= 1 + 1e-6)):
        raise ValueError("Confidences are probabilities: give numbers from 0 to 1, not logits.")
    # A bin holds its upper edge and not its lower one, as in the authors' code.
    edges = np.linspace(0, 1, bins + 1)
    bin_of = np.searchsorted(edges[1:-1], confidences, side="left")  # [N]
    counts = np.bincount(bin_of, minlength=bins)  # [bins]
    sums = (np.bincount(bin_of, values, minlength=bins) for values in (confidences, correct))
    means = (
        np.divide(total, counts, out=np.full(bins, np.nan), where=counts > 0) for total in sums
    )
    return CalibrationBins(edges, counts, *means)
