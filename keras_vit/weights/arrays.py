"""Reading the arrays of an untrusted checkpoint, one at a time, without executing anything."""

from __future__ import annotations

import abc
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class ArrayInfo:
    """What is known about an array before it is read.

    Args:
        shape: of the array.
        dtype: its name, such as "float32" or "bfloat16".
    """

    shape: tuple[int, ...]
    dtype: str


class Arrays(Mapping[str, np.ndarray]):
    """The named arrays of an open checkpoint; a context manager.

    Reading an item reads that array alone. It may be a read-only view of the file: copy it before
    you change it, and while you hold it the file stays open, even after `close()`.

    Args:
        path: of the file or folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.infos: dict[str, ArrayInfo] = {}
        self.metadata: dict[str, str] = {}
        self._closed = False

    def shape(self, name: str, rank: int | None = None) -> tuple[int, ...]:
        """The shape of an array, without reading it; an error if it has not `rank` full axes."""
        shape = self.infos[name].shape
        if rank is not None and (len(shape) != rank or 0 in shape):
            raise ValueError(
                f"{name!r:.100} of {self.path} has the shape {list(shape)}, expected are {rank} "
                f"axes that are not empty: this is not the array of a Vision Transformer."
            )
        return shape

    def close(self) -> None:
        """Release the file."""
        self._closed = True

    def __getitem__(self, name: str) -> np.ndarray:
        info = self.infos[name]
        if self._closed:
            raise ValueError(f"{self.path} is closed: read {name!r} before you close it.")
        try:
            return self._read(name, info)
        except MemoryError as error:
            size = " x ".join(map(str, info.shape))
            raise ValueError(
                f"{name!r:.100} of {self.path} ({size}, {info.dtype}) does not fit into memory."
            ) from error
        except OSError as error:
            raise ValueError(f"{name!r:.100} of {self.path} cannot be read: {error}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def __len__(self) -> int:
        return len(self.infos)

    def __contains__(self, name: object) -> bool:  # the Mapping's own would read the array
        return name in self.infos

    def __enter__(self) -> Arrays:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @abc.abstractmethod
    def _read(self, name: str, info: ArrayInfo) -> np.ndarray: ...


def open_arrays(path: str | Path) -> Arrays:
    """Open a checkpoint, whatever it is called: its content decides.

    Args:
        path: an `.npz`, a `.safetensors`, a file of PyTorch (which needs torch), an index of
            shards (`*.index.json`), or a folder that holds one of them.

    Returns:
        The open `Arrays`.

    Raises:
        ValueError: if it is none of these, or damaged, or would have to run code.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "arrays.npz"
        >>> np.savez(file, **{"a/b": np.zeros([2, 3])})
        >>> with open_arrays(file) as arrays:
        ...     arrays.shape("a/b")
        (2, 3)
    """
    try:
        file = _file_of(Path(path)) if Path(path).is_dir() else Path(path)
        if not file.is_file():  # nor a pipe, which would wait for someone to write
            raise ValueError(f"There is no file {file}: give a checkpoint, or a folder with one.")
        return _open_file(file)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    except RecursionError as error:
        raise damaged(Path(path), "what it holds is nested too deeply") from error


def damaged(path: Path, reason: str) -> ValueError:
    """The error for a file that is not what it says it is."""
    return ValueError(f"{path} is damaged or not trustworthy: {reason}. Fetch it again.")


def checked_shape(path: Path, name: str, shape: Any) -> tuple[int, ...]:
    """A shape that a file declares, if it is one.

    Args:
        path: of the file.
        name: of the array.
        shape: what the file says.

    Returns:
        The shape as a tuple of ints.

    Raises:
        ValueError: if it is no list of whole numbers from 0, at most 32 of them and less than
            2^56 elements.
    """
    if (
        not isinstance(shape, list | tuple)
        or len(shape) > 32
        or not all(type(side) is int and side >= 0 for side in shape)
        # numpy's own limit counts the other sides of an empty array, too
        or math.prod(max(side, 1) for side in shape) >= 2**56
    ):
        # without the shape: Python refuses to print the largest numbers
        raise damaged(path, f"{name!r:.100} has an impossible shape")
    return tuple(shape)


def read_json(path: Path, text: bytes) -> dict[str, Any]:
    """A JSON object in which no name comes twice.

    Args:
        path: of the file, for the message.
        text: the JSON.

    Returns:
        The object.

    Raises:
        ValueError: if it is not one.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name comes twice")
        return found

    try:
        content = json.loads(text.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"its JSON cannot be read ({error!s:.200})") from error
    if not isinstance(content, dict):
        raise damaged(path, f"its JSON is a {type(content).__name__}, not an object")
    return content


def _open_file(file: Path) -> Arrays:
    # Imported here because each of them builds on this module.
    from keras_vit.weights.npz import NpzArrays, member_names
    from keras_vit.weights.safetensors import SafetensorsArrays, ShardedArrays
    from keras_vit.weights.torch_files import TorchArrays

    with file.open("rb") as stream:
        start = stream.read(512)
    if file.name.endswith(".index.json"):
        return ShardedArrays(file)
    # First, as the length of a header may look like the first bytes of a pickle.
    if start[4:9] == b"\0\0\0\0{":
        return SafetensorsArrays(file)
    found = _describe(start)
    if start.startswith(b"PK"):
        names = member_names(file)
        if any(name.endswith(".npy") for name in names):
            return NpzArrays(file)
        if any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
            return TorchArrays(file, zipped=True)
        if "model.weights.h5" in names:
            found = "is a saved Keras model, which keras_vit.load_model opens"
    elif start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return TorchArrays(file, zipped=False)
    elif start[8:9] == b"{":  # with a length that is too large, which the error says
        return SafetensorsArrays(file)
    raise ValueError(
        f"{file} {found}; expected are the arrays of a checkpoint: .npz, .safetensors or a file "
        f"of PyTorch."
    )


def _file_of(folder: Path) -> Path:
    """The checkpoint in a folder."""
    for patterns in (
        ("model.safetensors",),
        ("model.safetensors.index.json",),
        ("*.safetensors",),
        ("pytorch_model.bin",),
        ("*.bin", "*.pth", "*.pt"),
        ("*.npz",),
    ):
        files = sorted(file for p in patterns for file in folder.glob(p) if file.is_file())
        if len(files) == 1:
            return files[0]
        if files:
            names = ", ".join(file.name for file in files[:20])
            raise ValueError(f"{folder} holds several checkpoints: name one of {names}.")
    names = ", ".join(sorted(file.name for file in folder.iterdir())[:20]) or "nothing"
    raise ValueError(
        f"{folder} holds no checkpoint (model.safetensors, model.safetensors.index.json, "
        f"pytorch_model.bin, *.pth or *.npz): it holds {names}."
    )


def _describe(start: bytes) -> str:
    """What the first bytes of a file look like."""
    head = start.lstrip()[:60].lower()
    if not start:
        return "is empty"
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page: the address leads to a page about the file, not to the file"
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file: run `git lfs pull`"
    if start.startswith(b"\x89HDF"):
        return "is an HDF5 file"
    if start.startswith(b"PK"):
        return "is a zip archive without arrays"
    return f"begins with {start[:16]!r}"
