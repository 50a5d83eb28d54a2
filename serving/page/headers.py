"""What the first bytes of an image file say: its size, and whether cameras want it turned.

The browser shows a photograph upright, the model sees it as it is stored: to draw on the right
place one has to know what is stored. Nothing is decoded.
"""

from __future__ import annotations

import dataclasses
import struct

_START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # those three are tables
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
_ORIENTATION = 0x0112  # the Exif tag


@dataclasses.dataclass(frozen=True)
class Header:
    """An image as it is stored.

    Args:
        height: in pixels, at least 1.
        width: in pixels, at least 1.
        is_turned: whether its Exif data say that it is to be shown turned or mirrored.
    """

    height: int
    width: int
    is_turned: bool = False


def read_header(image_bytes: bytes) -> Header | None:
    """Look at the beginning of a JPEG, PNG, GIF or BMP.

    Args:
        image_bytes: the file.

    Returns:
        Its size as stored, or None for anything else and for what is cut short.

    Example:
        >>> read_header(b"GIF89a" + bytes([4, 0, 3, 0]))
        Header(height=3, width=4, is_turned=False)
    """
    try:
        if image_bytes.startswith(b"\xff\xd8\xff"):
            return _jpeg(image_bytes)
        if image_bytes.startswith(b"\x89PNG\r\n\x1a\n"):
            width, height = struct.unpack_from(">II", image_bytes, 16)
        elif image_bytes.startswith(b"GIF8"):
            width, height = struct.unpack_from("<HH", image_bytes, 6)
        elif image_bytes.startswith(b"BM"):
            width, height = struct.unpack_from("<ii", image_bytes, 18)
            height = abs(height)  # negative where it is stored from the top
        else:
            return None
    except struct.error:
        return None
    return Header(height, width) if height > 0 and width > 0 else None


def _jpeg(data: bytes) -> Header | None:
    """Walk over the segments until the one that has the size."""
    position, is_turned = 2, False
    while True:
        fill, marker = struct.unpack_from(">BB", data, position)
        if fill != 0xFF:
            return None
        if marker == 0xFF or marker in _WITHOUT_LENGTH:
            position += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        if marker in _START_OF_FRAME:
            height, width = struct.unpack_from(">HH", data, position + 5)
            return Header(height, width, is_turned) if height and width else None
        if marker == 0xE1 and data[position + 4 : position + 10] == b"Exif\0\0":
            is_turned = _is_turned(data[position + 10 : position + 2 + length])
        position += 2 + length


def _is_turned(tiff: bytes) -> bool:
    """Whether the orientation in a block of Exif data is another than upright."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return False
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for index in range(count):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, start + 2 + 12 * index)
            if tag == _ORIENTATION:
                return 2 <= value <= 8
    except struct.error:
        pass  # damaged data about the image do not make it another image
    return False
