"""Whether a model is as sure as it is right."""

from __future__ import annotations

import numpy as np


def calibration_error(confidences: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
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
    inner_edges = np.linspace(0, 1, bins + 1)[1:-1]
    bin_of = np.searchsorted(inner_edges, confidences, side="left")  # [N]
    gaps = np.bincount(bin_of, confidences - correct, minlength=bins)  # [bins]
    return float(np.abs(gaps).sum() / len(correct))
