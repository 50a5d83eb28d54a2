"""Weights and images that are the same wherever they are made: by name, from a seed."""

import zlib

import numpy as np


def weights(name, shape, dtype="float32"):
    """An array for a weight of this name: nothing trivial, and activations of ordinary size."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    values = np.asarray(random.standard_normal(shape))
    last = name.rsplit(".", 1)[-1]
    if "num_batches_tracked" in name:
        return np.zeros(shape, "int64")
    if last == "running_var":
        values = 0.5 + 0.5 * np.abs(values)
    elif last in ("gamma", "lambda1", "gamma_1", "gamma_2") or (
        len(shape) == 1 and last == "weight"
    ):
        values = 1 + 0.2 * values  # norms and layer scales
    elif len(shape) in (2, 4):
        values = values / np.sqrt(np.prod(shape[1:]))
    else:
        values = 0.2 * values
    return np.asarray(values, dtype)


def images(height, width, channels=3):
    """Two images [2, H, W, C] in [-1, 1]."""
    random = np.random.default_rng(height * 10_000 + width)
    return random.uniform(-1, 1, (2, height, width, channels)).astype("float32")


def difference(outputs, expected):
    """Largest absolute difference over the standard deviation of the expected outputs."""
    return float(np.abs(np.asarray(outputs) - expected).max() / expected.std())
