"""What the head sees of many images, in two dimensions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class EmbeddingMap(NamedTuple):
    """The first two principal components of M vectors.

    Args:
        points: float64 [M, 2].
        explained: the share of the variance that each of the two has, in [0, 1], float64 [2].
    """

    points: np.ndarray
    explained: np.ndarray


def embedding_map(features: np.ndarray) -> EmbeddingMap:
    """Principal component analysis (Pearson, 1901; Hotelling, 1933) down to two dimensions.

    Args:
        features: float [M, D], finite, M at least 1.

    Returns:
        The `EmbeddingMap`; the largest value of each component is positive, so that one set of
        features has one map. Vectors that are all equal have points and shares of zero.

    Raises:
        ValueError: if there are no vectors, or they are not finite.

    Example:
        >>> embedding_map(np.array([[0.0, 2.0], [0.0, -2.0]])).points.tolist()
        [[2.0, 0.0], [-2.0, 0.0]]
    """
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or not features.size:
        raise ValueError(f"A map is made of vectors [M, D], not of {list(features.shape)}.")
    if not np.isfinite(features).all():
        raise ValueError("The features hold numbers that are not finite: there is no map of them.")
    centred = features - features.mean(axis=0)
    wide = centred.shape[1] > len(centred)
    # Of the two products the smaller one has all that is wanted: both have the same eigenvalues.
    product = centred @ centred.T if wide else centred.T @ centred
    values, vectors = np.linalg.eigh(product)  # rising
    values, vectors = values[::-1][:2], vectors[:, ::-1][:, :2]
    total = float(np.trace(product))
    if total <= np.finfo(np.float32).eps * float(np.sum(features**2)):  # nothing but rounding
        return EmbeddingMap(np.zeros([len(features), 2]), np.zeros(2))
    values = np.maximum(values, 0)
    points = vectors * np.sqrt(values) if wide else centred @ vectors  # [M, 2 or 1]
    points *= np.sign(points[np.abs(points).argmax(axis=0), np.arange(points.shape[1])])
    missing = [(0, 0), (0, 2 - points.shape[1])]  # of one vector, or of one dimension
    return EmbeddingMap(np.pad(points, missing) + 0.0, np.pad(values / total, missing[1]))
