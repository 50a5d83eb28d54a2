"""The arrays of an `.npz` file."""

from __future__ import annotations

import io
import lzma
import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.lib import format as npy_format

from keras_vit.weights.arrays import ArrayInfo, Arrays, checked_shape, damaged

_MAX_HEADER = 10_000  # as in numpy: what is longer may crash the parser of Python
_MAX_RATIO = 1_100  # deflate makes nothing more than 1032 times smaller
_PIECE = 1 << 20
# What zipfile and zlib raise for damaged archives.
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)
# What numpy raises for damaged headers, which it parses as Python literals.
_UNREADABLE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
)


class NpzArrays(Arrays):
    """The arrays of an `.npz` file, each in memory of its own; pickled objects are refused.

    Args:
        path: of the file.

    Raises:
        ValueError: if a header is damaged, or declares more than the file holds.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._archive = _open_zip(path)
        self._members: dict[str, zipfile.ZipInfo] = {}
        self._layouts: dict[str, tuple[int, np.dtype, bool]] = {}
        try:
            size = path.stat().st_size
            for member in self._archive.infolist():
                if member.filename.endswith(".npy"):
                    self._add(member, size)
        except BaseException:
            self._archive.close()
            raise

    def close(self) -> None:
        """Release the file."""
        super().close()
        self._archive.close()

    def _add(self, member: zipfile.ZipInfo, file_size: int) -> None:
        name = member.filename.removesuffix(".npy")
        if name in self.infos:
            raise damaged(self.path, f"{name!r:.100} comes twice")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise damaged(self.path, f"{name!r:.100} is compressed in a way that numpy never uses")
        if member.compress_size > file_size - member.header_offset:
            raise damaged(self.path, f"{name!r:.100} ends beyond the end of the file")
        grows = _MAX_RATIO if member.compress_type == zipfile.ZIP_DEFLATED else 1
        if member.file_size > grows * member.compress_size:
            raise damaged(self.path, f"{name!r:.100} would grow more than {grows} times")
        try:
            with self._archive.open(member) as stream:
                start = stream.read(_MAX_HEADER)
        except _BROKEN as error:
            raise damaged(self.path, f"{name!r:.100}: {error!s:.200}") from error
        begin, shape, fortran, dtype = self._header(name, start)
        shape = checked_shape(self.path, name, shape)
        size = math.prod(shape) * dtype.itemsize
        if begin + size != member.file_size:
            raise damaged(
                self.path,
                f"{name!r:.100} declares {size} bytes and holds {member.file_size - begin}",
            )
        # numpy writes bfloat16, which it does not know, as two bytes without a meaning
        kind = "bfloat16" if dtype.kind == "V" else dtype.name
        self.infos[name] = ArrayInfo(shape, kind)
        self._members[name] = member
        self._layouts[name] = begin, dtype, fortran

    def _header(self, name: str, start: bytes) -> tuple[int, tuple[int, ...], bool, np.dtype]:
        """Where the numbers begin, their shape, whether in Fortran's order, and their dtype."""
        stream = io.BytesIO(start)
        try:
            version = npy_format.read_magic(stream)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about files of Python 2, which are as good
                if version == (1, 0):
                    shape, fortran, dtype = npy_format.read_array_header_1_0(stream)
                elif version == (2, 0):
                    shape, fortran, dtype = npy_format.read_array_header_2_0(stream)
                else:
                    raise ValueError(f"version {version} of the format")
        except _UNREADABLE as error:
            raise damaged(
                self.path, f"{name!r:.100} has no header of numpy's ({error!s:.200})"
            ) from error
        if dtype.hasobject:
            raise ValueError(
                f"{self.path}: {name!r:.100} holds Python objects, which would need pickle: it "
                f"runs code of the file. Save the plain arrays again, with np.savez."
            )
        # the str of a structured dtype of two bytes is "|V2", too
        brain = dtype.str == "|V2" and dtype.names is None and dtype.subdtype is None
        if dtype.itemsize == 0 or not (brain or dtype.kind in "biufcSU"):
            raise damaged(self.path, f"{name!r:.100} has the dtype {dtype!s:.80}")
        return stream.tell(), shape, bool(fortran), dtype

    def _read(self, name: str, info: ArrayInfo) -> np.ndarray:
        begin, dtype, fortran = self._layouts[name]
        value = np.empty(math.prod(info.shape) * dtype.itemsize, np.uint8)
        try:
            with self._archive.open(self._members[name]) as stream:
                stream.read(begin)
                done = 0
                # In pieces, so that there is never a second copy; zipfile compares the checksum.
                while piece := stream.read(_PIECE):
                    value[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
                    done += len(piece)
        except _BROKEN as error:
            raise damaged(self.path, f"{name!r:.100}: {error!s:.200}") from error
        if done != value.size:
            raise damaged(self.path, f"{name!r:.100} ends after {done} of {value.size} bytes")
        if info.dtype == "bfloat16":
            import ml_dtypes

            dtype = np.dtype(ml_dtypes.bfloat16)
        value = value.view(dtype)
        if not dtype.isnative:
            value = value.byteswap(inplace=True).view(dtype.newbyteorder("="))
        return value.reshape(info.shape, order="F" if fortran else "C")


def member_names(path: Path) -> list[str]:
    """The names in a zip archive.

    Args:
        path: of the archive.

    Returns:
        The names, in the archive's order.

    Raises:
        ValueError: if its table of contents is damaged.
    """
    with _open_zip(path) as archive:
        return archive.namelist()


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except _BROKEN as error:
        raise damaged(path, f"its table of contents cannot be read ({error!s:.200})") from error
