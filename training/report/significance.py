"""Whether a difference between two models may be chance."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

# With fewer images on which the models differ the normal approximation is rough.
_EXACT_BELOW = 25
_Z95 = 1.959963984540054  # the 97.5 % point of the normal distribution


class McNemar(NamedTuple):
    """The result of McNemar's test.

    Args:
        only_first: how many images only the first model is right about.
        only_second: how many only the second.
        p_value: how likely counts at least this unequal are for equally good models.
        is_exact: whether it comes from the binomial distribution itself.
    """

    only_first: int
    only_second: int
    p_value: float
    is_exact: bool


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """McNemar's test: whether two models are right equally often, on the same images.

    Only images on which exactly one model is right count. If the models are equally good, each of
    them is a fair coin. Below 25 the p-value is that of the binomial distribution, on both sides;
    otherwise that of `(|b - c| - 1)^2 / (b + c)` under chi-square with one degree of freedom:
    McNemar, "Note on the Sampling Error of the Difference Between Correlated Proportions or
    Percentages" (Psychometrika, 1947), with the continuity correction of Edwards (Psychometrika,
    1948).

    Args:
        first: whether the first model is right about each image, bool [N].
        second: whether the second model is, bool [N].

    Returns:
        A `McNemar`; the p-value is 1 if the models are right about the same images.

    Raises:
        ValueError: if the two are not of the same images.

    Example:
        >>> mcnemar(np.array([True, False, True]), np.array([True, True, True])).p_value
        1.0
    """
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(
            f"McNemar's test takes the answers of both models to the same images, [N] each, not "
            f"{list(first.shape)} and {list(second.shape)}."
        )
    only_first, only_second = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    count = only_first + only_second
    if count < _EXACT_BELOW:
        tail = sum(math.comb(count, k) for k in range(min(only_first, only_second) + 1))
        return McNemar(only_first, only_second, min(1.0, 2 * tail / 2**count), True)
    statistic = max(abs(only_first - only_second) - 1, 0) ** 2 / count
    # The chance that the square of a normal variable is larger.
    return McNemar(only_first, only_second, math.erfc(math.sqrt(statistic / 2)), False)


def difference_interval(
    only_first: int, only_second: int, examples: int
) -> tuple[float, float, float]:
    """How much better the second model is, with a 95 % interval.

    The difference of two proportions on the same examples: `(c - b) / n` with the variance
    `(b + c - (c - b)^2 / n) / n^2` (Agresti, "Categorical Data Analysis", 2002, section 10.1).

    Args:
        only_first: images that only the first model is right about, b.
        only_second: images that only the second is right about, c.
        examples: all images, n, at least 1.

    Returns:
        The difference in accuracy, and the lower and upper end of its interval, in [-1, 1].

    Raises:
        ValueError: if there are fewer examples than differences, or none.

    Example:
        >>> [round(value, 3) for value in difference_interval(10, 20, 100)]
        [0.1, -0.006, 0.206]
    """
    if examples < max(only_first + only_second, 1):
        raise ValueError(
            f"The models differ on {only_first} + {only_second} images, but there are {examples}."
        )
    difference = (only_second - only_first) / examples
    spread = only_first + only_second - (only_second - only_first) ** 2 / examples
    half = _Z95 * math.sqrt(max(spread, 0.0)) / examples
    return difference, max(difference - half, -1.0), min(difference + half, 1.0)


def wilson_interval(right: int, examples: int) -> tuple[float, float]:
    """The 95 % interval of an accuracy.

    The score interval of Wilson, "Probable Inference, the Law of Succession, and Statistical
    Inference" (Journal of the American Statistical Association, 1927).

    Args:
        right: how many examples are right, 0 to `examples`.
        examples: how many there are, at least 1.

    Returns:
        The lower and the upper end, in [0, 1].

    Raises:
        ValueError: if there are no examples, or more right ones than examples.

    Example:
        >>> [round(end, 3) for end in wilson_interval(90, 100)]
        [0.826, 0.945]
    """
    if not 0 <= right <= examples or examples < 1:
        raise ValueError(f"{right} of {examples} examples cannot be right: give 0 to all of some.")
    share, square = right / examples, _Z95**2 / examples
    centre = (share + square / 2) / (1 + square)
    half = _Z95 * math.sqrt(share * (1 - share) / examples + square / examples / 4) / (1 + square)
    return max(centre - half, 0.0), min(centre + half, 1.0)
