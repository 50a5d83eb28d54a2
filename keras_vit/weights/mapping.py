"""From the arrays of a checkpoint to the variables of a model, and back.

A dialect says, for every variable of a model, which arrays (or parts of arrays) of the file hold
it and in which layout. Loading and saving read the same list, so they cannot disagree.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_vit.resampling import resample_patch_kernel, resample_positions
from keras_vit.vision_transformer import VisionTransformer
from keras_vit.weights.arrays import Arrays

POSITIONS = "position_embedding/position_embedding"
PATCH_KERNEL = "patch_embedding/projection/kernel"
HEADS = ("head/*", "distillation_head/*")


@dataclasses.dataclass(frozen=True)
class Piece:
    """An array of the file, or the part of it from `start` to `stop` along one axis.

    Args:
        key: name of the array.
        axis: along which it is cut. Default 0.
        start: first index. Default 0.
        stop: index after the last. Default None: the whole array.
    """

    key: str
    axis: int = 0
    start: int = 0
    stop: int | None = None


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where the value of one variable lies.

    Args:
        path: of the variable, such as "block_00/mlp/fc1/kernel".
        pieces: what it is made of; nothing for zeros.
        layout: "same"; "dense" (a transposed matrix, as PyTorch has it); "conv" (PyTorch's
            [out, in, height, width]); "table" ([N, D] for [1, N, D]); or "bare" ([D] for
            [1, 1, D]). A last axis that the file has split up needs no layout. Default "same".
        join: what happens to several pieces: "concatenate" on the last axis of the variable, or
            "sum". Default "concatenate".
    """

    path: str
    pieces: tuple[Piece, ...]
    layout: str = "same"
    join: str = "concatenate"


def entry(path: str, keys: str | Sequence[str | Piece], layout: str = "same") -> Entry:
    """An `Entry` from plain names."""
    keys = (keys,) if isinstance(keys, str) else keys
    pieces = tuple(key if isinstance(key, Piece) else Piece(key) for key in keys)
    return Entry(path, pieces, layout)


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint whose dialect is known.

    Args:
        arrays: the open file.
        entries: where each variable lies, for the model of `arguments`.
        arguments: of the `VisionTransformer` that the file holds.
        ignored: patterns of arrays that the model does not need, such as a decoder.
        resampling: how positions fit another size.
        patch_resampling: how patch kernels do.
        name: of the dialect, for messages.
    """

    arrays: Arrays
    entries: Callable[[VisionTransformer], Iterable[Entry]]
    arguments: dict[str, Any]
    ignored: tuple[str, ...] = ()
    resampling: str = "bicubic_antialias"
    patch_resampling: str = "bicubic_antialias"
    name: str = "timm"


def variables_by_path(model: VisionTransformer) -> dict[str, Any]:
    """The weights of a model by path; the states of random generators are not weights."""
    return {
        variable.path: variable
        for variable in model.variables
        if "seed_generator" not in variable.path
    }


def load_variables(
    model: VisionTransformer,
    source: Source,
    allow_missing: Sequence[str] = (),
    allow_unused: Sequence[str] = (),
) -> list[str]:
    """Fill a model from a checkpoint; nothing is assigned unless everything fits.

    Args:
        model: gets the values.
        source: where they come from.
        allow_missing: patterns of variables that may keep their fresh values.
        allow_unused: patterns of arrays that may stay unread.

    Returns:
        The variables that kept their fresh values.

    Raises:
        ValueError: if an array is missing, unused or has another shape; the message lists each.
    """
    entries = {e.path: e for e in source.entries(model)}
    shapes = {key: source.arrays.shape(key) for key in source.arrays}
    fresh, problems, used = [], [], set()
    plan = []
    for path, variable in variables_by_path(model).items():
        allowed = any(fnmatch.fnmatchcase(path, pattern) for pattern in allow_missing)
        found = entries.get(path)
        keys = [piece.key for piece in found.pieces] if found else []
        used.update(keys)
        missing = [key for key in keys if key not in shapes]
        if allowed and (found is None or missing or _is_fresh_head(allow_missing, path)):
            fresh.append(path)
        elif found is None:
            problems.append(f"- {path} {_shape(variable.shape)}: {source.name} has no such array")
        elif missing:
            problems.append(f"- {', '.join(missing)}: missing, for {path} {_shape(variable.shape)}")
        elif not _fits(source, found, [shapes[key] for key in keys], tuple(variable.shape)):
            given = ", ".join(f"{key} {_shape(shapes[key])}" for key in keys)
            problems.append(f"! {given} does not fit {path} {_shape(variable.shape)}")
        else:
            plan.append((variable, found))
    unused = [
        key
        for key in shapes
        if key not in used
        and 0 not in shapes[key]  # of nothing, such as no registers, nothing is lost
        and not any(fnmatch.fnmatchcase(key, p) for p in (*source.ignored, *allow_unused))
    ]
    problems += [f"+ {key} {_shape(shapes[key])}: unused by the model" for key in unused]
    if problems:
        shown = "\n  ".join(problems[:20])
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise ValueError(
            f"{source.arrays.path} does not fit {model.name} (- missing, + unused, ! wrong shape):"
            f"\n  {shown}{more}\nChoose the right architecture, or name what may differ with "
            f"allow_missing=[...] (variables) and allow_unused=[...] (arrays)."
        )
    for variable, found in plan:
        value = _read(source, found, tuple(variable.shape), model)
        variable.assign(value)
    return fresh


def save_arrays(model: VisionTransformer, entries: Iterable[Entry]) -> dict[str, np.ndarray]:
    """The arrays of a dialect from the weights of a model: `load_variables` backwards.

    Args:
        model: whose weights are written.
        entries: of the dialect, for this model.

    Returns:
        float32 arrays by name.

    Raises:
        ValueError: if the dialect has no place for a variable.
    """
    by_path = {e.path: e for e in entries}
    parts: dict[str, list[tuple[Piece, np.ndarray]]] = {}
    for path, variable in variables_by_path(model).items():
        if path not in by_path:
            raise ValueError(
                f"This format has no place for {path} {_shape(variable.shape)}: save the model in "
                f"another format, or with `model.save('model.keras')`."
            )
        found = by_path[path]
        value = np.asarray(variable, np.float32)
        if not found.pieces:
            if value.any():
                raise ValueError(f"This format has no place for {path}, which is not zero.")
            continue
        if found.join == "sum":
            values = [value, *(np.zeros_like(value) for _ in found.pieces[1:])]
        else:
            values = np.split(value, len(found.pieces), axis=-1)
        for piece, part in zip(found.pieces, values, strict=True):
            parts.setdefault(piece.key, []).append((piece, _to_layout(part, found.layout)))
    arrays = {}
    for key, pieces in parts.items():
        pieces.sort(key=lambda pair: pair[0].start)
        values = [value for _, value in pieces]
        arrays[key] = values[0] if len(values) == 1 else np.concatenate(values, pieces[0][0].axis)
    return {key: np.ascontiguousarray(value) for key, value in arrays.items()}


def _is_fresh_head(allow_missing: Sequence[str], path: str) -> bool:
    """Heads are fresh when they are allowed to be, even if the file has one of another size."""
    return any(fnmatch.fnmatchcase(path, p) for p in HEADS if p in allow_missing)


def _cut(shape: tuple[int, ...], piece: Piece) -> tuple[int, ...]:
    if piece.stop is None:
        return shape
    length = max(0, min(piece.stop, shape[piece.axis]) - piece.start)
    return (*shape[: piece.axis], length, *shape[piece.axis + 1 :])


def _fits(
    source: Source, found: Entry, shapes: list[tuple[int, ...]], target: tuple[int, ...]
) -> bool:
    """Whether arrays of these shapes make a variable of the target's shape."""
    if not found.pieces:
        return True
    given = list(zip(found.pieces, shapes, strict=True))
    if any(piece.stop is not None and piece.axis >= len(shape) for piece, shape in given):
        return False
    cut = [_cut(shape, piece) for piece, shape in given]
    if found.layout == "dense" and any(len(shape) != 2 for shape in cut):
        return False
    if found.layout == "conv" and any(len(shape) != 4 for shape in cut):
        return False
    moved = [_moved(shape, found.layout) for shape in cut]
    if found.path == POSITIONS:  # resampled when the grids differ
        patches = math.prod(source.arguments["position_grid"])
        return moved[0][-1] == target[-1] and math.prod(moved[0][:-1]) == patches
    if found.path == PATCH_KERNEL:
        return len(moved[0]) == 4 and moved[0][2:] == target[2:]
    count = len(moved) if found.join == "concatenate" else 1
    part = (*target[:-1], target[-1] // count) if target else ()
    return all(_same_up_to_splits(shape, part) for shape in moved)


def _same_up_to_splits(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether a shape is the target's, but for axes of length 1 or neighbours that were split."""
    if math.prod(shape) != math.prod(target):
        return False

    def bounds(axes: tuple[int, ...]) -> set[int]:
        product, found = 1, set()
        for axis in axes:
            product *= axis
            found.add(product)
        return found

    return bounds(target) <= bounds(shape) | {1}


def _moved(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    if layout == "dense":
        return shape[::-1]
    if layout == "conv":
        return (shape[2], shape[3], shape[1], shape[0])
    return shape


def _to_layout(value: np.ndarray, layout: str) -> np.ndarray:
    """A value in Keras' layout to that of the file."""
    if layout == "dense":
        return value.T
    if layout == "conv":
        return value.transpose(3, 2, 0, 1)
    if layout == "table":
        return value[0]
    if layout == "bare":
        return value.reshape(-1)
    return value


def _read(
    source: Source, found: Entry, shape: tuple[int, ...], model: VisionTransformer
) -> np.ndarray:
    """The value of one variable."""
    if not found.pieces:
        return np.zeros(shape, np.float32)
    values = []
    for piece in found.pieces:
        value = source.arrays[piece.key]
        if piece.stop is not None:
            cut = slice(piece.start, piece.stop)
            value = value[(slice(None),) * piece.axis + (cut,)]
        value = _numbers(source, piece.key, value)
        if found.layout == "dense":
            value = value.T
        elif found.layout == "conv":
            value = value.transpose(2, 3, 1, 0)
        values.append(value)
    if found.path == POSITIONS:
        return _positions(source, values[0], shape, model)
    if found.path == PATCH_KERNEL and values[0].shape != shape:
        return resample_patch_kernel(values[0], (shape[0], shape[1]), source.patch_resampling)
    if found.join == "sum":
        return np.sum([value.reshape(shape) for value in values], axis=0)
    part = (*shape[:-1], shape[-1] // len(values)) if shape else ()
    values = [value.reshape(part) for value in values]
    return values[0] if len(values) == 1 else np.concatenate(values, axis=-1)


def _numbers(source: Source, key: str, value: np.ndarray) -> np.ndarray:
    """An array of any real dtype as float32."""
    # Those of ml_dtypes, such as bfloat16, have the kind "V".
    if value.dtype.kind not in "fiubV":
        raise ValueError(
            f"{key!r:.100} of {source.arrays.path} has the dtype {value.dtype}, expected are real "
            f"numbers."
        )
    return np.asarray(value, np.float32)


def _positions(
    source: Source, value: np.ndarray, shape: tuple[int, ...], model: VisionTransformer
) -> np.ndarray:
    """The position table, resampled from the file's grid to the model's."""
    value = value.reshape(1, -1, value.shape[-1])  # [1, N, D]
    old_grid = source.arguments["position_grid"]
    if old_grid == model.grid:
        return value.reshape(shape)
    return np.asarray(resample_positions(value, old_grid, model.grid, source.resampling))


def _shape(shape: Iterable[int]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def expand(rows: Mapping[str, tuple[str | Sequence[str], str]], **names: Any) -> list[Entry]:
    """A table of rows to entries: every `{name}` of paths and keys is filled in.

    Args:
        rows: path -> (key or keys, layout).
        **names: what stands for each placeholder.

    Returns:
        One `Entry` for each row.
    """
    return [
        entry(
            path.format(**names),
            [k.format(**names) for k in ([keys] if isinstance(keys, str) else keys)],
            layout,
        )
        for path, (keys, layout) in rows.items()
    ]
