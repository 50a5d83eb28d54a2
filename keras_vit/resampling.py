"""Resizing of position grids and patch kernels.

Interpolation is linear and separable: a grid [h, w] is resized by one matrix per axis,
`rows @ grid @ columns.T`. The matrices follow the conventions of the libraries that checkpoints
come from, because a model only reproduces its published accuracy at another image size when its
positions are resized as its authors resized them.
"""

from __future__ import annotations

import numbers
from typing import Any

import keras
import numpy as np

RESAMPLINGS = ("bicubic_antialias", "bicubic", "bilinear", "bilinear_antialias", "bilinear_corners")


def resize_matrix(size_in: Any, size_out: Any, method: str = "bicubic_antialias") -> Any:
    """The matrix that resizes one axis: `resize_matrix(n, m) @ x` has m values where x has n.

    Every row sums to 1, and equal sizes give the exact identity. The methods are

    - "bicubic_antialias": `F.interpolate(mode="bicubic", antialias=True)` of PyTorch, timm's rule
      for positions. Keys' cubic with a = -0.5, stretched by `size_in / size_out` when shrinking,
      over the pixels inside, renormalised.
    - "bilinear_antialias": the same with the triangle kernel.
    - "bicubic": `F.interpolate(mode="bicubic")`, the rule of transformers. Keys' cubic with
      a = -0.75 over four pixels; beyond the border the border pixel is repeated.
    - "bilinear": `F.interpolate(mode="bilinear")`, over two pixels, with the same border.
    - "bilinear_corners": first and last values stay where they are, as in
      `scipy.ndimage.zoom(order=1)`, the rule of Google's ViT, and in
      `F.interpolate(mode="bilinear", align_corners=True)`.

    The cubic is that of "Cubic Convolution Interpolation for Digital Image Processing" (Keys,
    1981), equation 15, with a free a as in its section II.

    Args:
        size_in: number of values before, a positive int or a scalar integer tensor.
        size_out: number of values after, likewise.
        method: one of `RESAMPLINGS`. Default "bicubic_antialias".

    Returns:
        A float32 tensor [size_out, size_in].

    Raises:
        ValueError: if the method is unknown.

    Example:
        >>> keras.ops.convert_to_numpy(resize_matrix(2, 3, "bilinear_corners"))
        array([[1. , 0. ],
               [0.5, 0.5],
               [0. , 1. ]], dtype=float32)
    """
    return _resize_matrix(keras.ops, size_in, size_out, method, "float32")


def resample_positions(
    positions: Any,
    old_grid: tuple[int, int],
    new_grid: tuple[Any, Any],
    method: str = "bicubic_antialias",
) -> Any:
    """Resize learned positions from one grid of patches to another, of any aspect ratio.

    Section 3.2 of "An Image is Worth 16x16 Words" (Dosovitskiy et al., 2021) interpolates the
    positions in 2D when a model sees images of another size.

    Args:
        positions: the patches' positions [1, gh * gw, D], row by row, without those of a class
            token or registers.
        old_grid: (gh, gw), ints.
        new_grid: (gh', gw'), ints or scalar integer tensors.
        method: one of `RESAMPLINGS`. Default "bicubic_antialias".

    Returns:
        The positions [1, gh' * gw', D] in the dtype that they came in, computed in float32. The
        very same tensor if both grids are ints and equal.

    Raises:
        ValueError: if the method is unknown, or there are not gh * gw positions.

    Example:
        >>> resample_positions(keras.ops.ones([1, 4 * 4, 8]), (4, 4), (2, 6)).shape
        TensorShape([1, 12, 8])
    """
    _check_method(method)
    old_height, old_width = old_grid
    new_height, new_width = new_grid
    count, dim = positions.shape[-2:]
    if count != old_height * old_width:
        raise ValueError(
            f"There are {count} positions, but a grid of {old_height}x{old_width} patches has "
            f"{old_height * old_width}."
        )
    # Tensors are not compared here: within a graph their values are not known yet.
    if all(isinstance(size, numbers.Integral) for size in new_grid) and (
        (old_height, old_width) == (new_height, new_width)
    ):
        return positions
    dtype = keras.backend.standardize_dtype(positions.dtype)
    grid = keras.ops.cast(positions, "float32")
    grid = keras.ops.reshape(grid, (1, old_height, old_width, dim))
    rows = resize_matrix(old_height, new_height, method)
    columns = resize_matrix(old_width, new_width, method)
    # One axis after the other: the Kronecker product of both would have (gh gw)(gh' gw') entries.
    grid = keras.ops.einsum("yh,nhwd->nywd", rows, grid)
    grid = keras.ops.einsum("xw,nywd->nyxd", columns, grid)
    return keras.ops.cast(keras.ops.reshape(grid, (1, -1, dim)), dtype)


def resample_patch_kernel(
    kernel: np.ndarray, new_patch: tuple[int, int], method: str = "bicubic_antialias"
) -> np.ndarray:
    """Resize the kernel of a patch embedding by the pseudo-inverse of resizing a patch.

    Section 3.4 of "FlexiViT: One Model for All Patch Sizes" (Beyer et al., 2023): with B the
    matrix that resizes a patch, the new kernel is `pinv(B).T @ kernel`, which minimises
    `E (patch . kernel - (B patch) . new_kernel)^2` over white patches. When the patch grows
    the tokens of resized patches are the old tokens exactly; when it shrinks they are the nearest
    that fewer pixels allow.

    Args:
        kernel: [ph, pw, C, D], any floating dtype.
        new_patch: (ph', pw').
        method: how patches are resized, one of `RESAMPLINGS`. Default "bicubic_antialias".

    Returns:
        The kernel [ph', pw', C, D] in the dtype that it came in, computed in float64. The very
        same array if the size does not change.

    Raises:
        ValueError: if the method is unknown.

    Example:
        >>> resample_patch_kernel(np.ones([16, 16, 3, 8], "float32"), (32, 24)).shape
        (32, 24, 3, 8)
    """
    _check_method(method)
    height, width = kernel.shape[:2]
    if (height, width) == tuple(new_patch):
        return kernel
    # B is the Kronecker product of the axes' matrices, and pinv(kron(P, Q)) is
    # kron(pinv(P), pinv(Q)): two small inverses instead of one of (ph' pw') x (ph pw).
    rows, columns = (
        np.linalg.pinv(_resize_matrix(np, old, new, method, "float64"))
        for old, new in zip((height, width), new_patch, strict=True)
    )
    resized = np.einsum("hy,hwcd->ywcd", rows, kernel.astype("float64"), optimize=True)
    resized = np.einsum("wx,ywcd->yxcd", columns, resized, optimize=True)
    return resized.astype(kernel.dtype)


def _resize_matrix(xp: Any, size_in: Any, size_out: Any, method: str, dtype: str) -> Any:
    """`resize_matrix` in `keras.ops` or in NumPy, which share the names of all functions used.

    Offsets are fractions of integers, so they stay exact up to one rounding, and equal sizes give
    offsets that are whole: this is what makes the identity exact. The integers are below
    `2 * size_in * size_out`, so int32 is enough for sizes up to 32767.
    """
    _check_method(method)
    n_in, n_out = xp.array(size_in, dtype="int32"), xp.array(size_out, dtype="int32")
    columns = xp.expand_dims(xp.arange(n_in, dtype="int32"), 0)  # [1, n_in]
    rows = xp.expand_dims(xp.arange(n_out, dtype="int32"), 1)  # [n_out, 1]

    def divide(numerator: Any, denominator: Any) -> Any:
        return xp.array(numerator, dtype=dtype) / xp.array(denominator, dtype=dtype)

    def kernel(offset: Any) -> Any:
        if method.startswith("bilinear"):
            return xp.maximum(1.0 - xp.abs(offset), 0.0)
        return _cubic(xp, xp.abs(offset), a=-0.5 if method == "bicubic_antialias" else -0.75)

    if method.endswith("antialias"):
        # From the centre of input pixel j to that of output pixel i, in input pixels:
        # (i + 1/2) n_in / n_out - (j + 1/2). Shrinking stretches the kernel by n_in / n_out.
        offset = (2 * rows + 1) * n_in - (2 * columns + 1) * n_out
        weights = kernel(divide(offset, 2 * xp.maximum(n_in, n_out)))
        return weights / xp.sum(weights, axis=1, keepdims=True)

    if method == "bilinear_corners":
        position, unit = rows * (n_in - 1), xp.maximum(n_out - 1, 1)
    else:
        position, unit = (2 * rows + 1) * n_in - n_out, 2 * n_out
    before = xp.floor_divide(position, unit)  # [n_out, 1]: the pixel at or left of the sample
    fraction = divide(position - before * unit, unit)  # in [0, 1)
    matrix: Any = 0.0
    for tap in (-1, 0, 1, 2) if method == "bicubic" else (0, 1):
        pixel = xp.minimum(xp.maximum(before + tap, 0), n_in - 1)
        matrix = matrix + xp.where(xp.equal(pixel, columns), kernel(fraction - tap), 0.0)
    return matrix


def _cubic(xp: Any, x: Any, a: float) -> Any:
    """Keys' cubic convolution kernel at distances x >= 0."""
    # Factored: the zeros at 1 and 2 are exact, and float32 loses no digits near them.
    near = (x - 1.0) * (((a + 2.0) * x - 1.0) * x - 1.0)
    far = a * (x - 1.0) * (x - 2.0) * (x - 2.0)
    return xp.where(x <= 1.0, near, xp.where(x < 2.0, far, 0.0))


def _check_method(method: str) -> None:
    """Refuse what is not one of `RESAMPLINGS`."""
    if method not in RESAMPLINGS:
        raise ValueError(f"Unknown resampling {method!r}: choose one of {', '.join(RESAMPLINGS)}.")
