"""The arrays of safetensors files: 8 bytes of length, a JSON header, and the plain numbers."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_vit.weights.arrays import (
    ArrayInfo,
    Arrays,
    checked_shape,
    damaged,
    open_arrays,
    read_json,
)

_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_MAX_HEADER = 100_000_000
# No separators, no "..", no drive: a shard lies beside its index.
_FILE_NAME = re.compile(r"\w[\w.=+-]{0,250}\.safetensors")
_LIMIT = f"at most {_MAX_HEADER} are read"


class SafetensorsArrays(Arrays):
    """The arrays of one safetensors file.

    They are read, not mapped: mapped pages would count as memory of the process as long as the
    file is open, which doubles the peak of loading a model.

    Args:
        path: of the file.

    Raises:
        ValueError: if the header is damaged, or does not describe the bytes exactly.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        size = path.stat().st_size
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(path.open("rb"))
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(_MAX_HEADER, size - 8):
                raise damaged(
                    path, f"it has {size} bytes, its header alone wants {length} ({_LIMIT})"
                )
            header = read_json(path, stream.read(length))
            self._start = 8 + length
            self._offsets: dict[str, int] = {}
            self._read_header(header, size)
            self._stream = stream
            stack.pop_all()  # no error: it stays open

    def close(self) -> None:
        """Close the file."""
        super().close()
        self._stream.close()

    def _read(self, name: str, info: ArrayInfo) -> np.ndarray:
        value = np.empty(info.shape, _dtype(info.dtype))
        self._stream.seek(self._start + self._offsets[name])
        buffer: Any = value.reshape(-1).view(np.uint8)
        if self._stream.readinto(buffer) != value.nbytes:
            raise damaged(self.path, f"it was cut short while it was read, at {name!r:.100}")
        return value

    def _read_header(self, header: dict[str, Any], size: int) -> None:
        metadata = header.pop("__metadata__", {})
        if isinstance(metadata, dict):
            self.metadata = {str(key): str(value) for key, value in metadata.items()}
        spans = []
        for name, description in header.items():
            info, begin, end = self._describe(name, description)
            self.infos[name], self._offsets[name] = info, begin
            spans.append((begin, end, name))
        position = 0
        for begin, end, name in sorted(spans):
            if begin != position:
                raise damaged(
                    self.path, f"{name!r:.100} begins at {begin} where {position} was expected"
                )
            position = end
        if self._start + position != size:
            raise damaged(
                self.path, f"it has {size} bytes, its header describes {self._start + position}"
            )

    def _describe(self, name: str, description: Any) -> tuple[ArrayInfo, int, int]:
        try:
            kind, shape = description["dtype"], description["shape"]
            begin, end = description["data_offsets"]
        except (TypeError, KeyError, ValueError) as error:
            raise damaged(self.path, f"the description of {name!r:.100} is incomplete") from error
        if not isinstance(kind, str) or kind not in _DTYPES:
            raise damaged(self.path, f"{name!r:.100} has the dtype {kind!r:.40}")
        shape = checked_shape(self.path, name, shape)
        if type(begin) is not int or type(end) is not int or not 0 <= begin <= end:
            raise damaged(self.path, f"{name!r:.100} has the offsets {begin!r:.30}, {end!r:.30}")
        size = math.prod(shape) * _dtype(_DTYPES[kind]).itemsize
        if end - begin != size:
            raise damaged(
                self.path, f"{name!r:.100} has {end - begin} bytes, its shape wants {size}"
            )
        return ArrayInfo(shape, _DTYPES[kind]), begin, end


class ShardedArrays(Arrays):
    """The arrays of several safetensors files with an index.

    Args:
        path: of the index.

    Raises:
        ValueError: if a shard is missing, lies elsewhere, or does not hold what the index says.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if path.stat().st_size > _MAX_HEADER:
            raise damaged(path, f"it is no index: {_LIMIT}")
        index = read_json(path, path.read_bytes()).get("weight_map")
        if not isinstance(index, dict) or not index:
            raise damaged(path, "it has no weight_map")
        self._shards: dict[str, Arrays] = {}
        self._shard_of: dict[str, Arrays] = {}
        try:
            for name, shard in index.items():
                self._add(name, shard)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Forget the files."""
        super().close()
        for shard in self._shards.values():
            shard.close()

    def _add(self, name: str, shard: Any) -> None:
        if not isinstance(shard, str) or not _FILE_NAME.fullmatch(shard):
            raise damaged(
                self.path, f"the shard {shard!r:.100} is not the name of a safetensors beside it"
            )
        if shard not in self._shards:
            file = self.path.parent / shard
            if not file.is_file():
                raise ValueError(
                    f"{self.path} names the shard {shard}, which is not beside it: fetch it, too."
                )
            self._shards[shard] = open_arrays(file)  # whose errors say what a pointer or a page is
        arrays = self._shards[shard]
        if name not in arrays:
            raise damaged(self.path, f"{shard} does not hold {name!r:.100}")
        self._shard_of[name] = arrays
        self.infos[name] = arrays.infos[name]
        self.metadata |= arrays.metadata

    def _read(self, name: str, info: ArrayInfo) -> np.ndarray:
        return self._shard_of[name][name]


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as one safetensors file, in the order of their names.

    Args:
        path: of the file.
        arrays: float32 or integer arrays by name.
    """
    codes = {name: code for code, name in _DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name in sorted(arrays):
        value = arrays[name]
        header[name] = {
            "dtype": codes[value.dtype.name],
            "shape": list(value.shape),
            "data_offsets": [position, position + value.nbytes],
        }
        position += value.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name in sorted(arrays):
            stream.write(np.ascontiguousarray(arrays[name]).data)


def _dtype(name: str) -> np.dtype:
    """A numpy dtype, those of ml_dtypes included."""
    if name == "bfloat16" or name.startswith("float8"):
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))
    return np.dtype(name)
