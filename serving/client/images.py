"""From whatever a caller has to image bytes or pixels, and into batches."""

import io
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serving.client.errors import ImageInputError, MissingImageError

_EXPECTED = "a path, encoded bytes, a PIL image, or a uint8 array of shape [H, W, 3]"
# Modes that PNG can hold; any other PIL image becomes RGB first.
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


@dataclass(frozen=True, slots=True)
class Image:
    """One image as the caller gave it.

    Attributes:
        index: its position among the caller's images.
        source: what results call it.
        content: a path, bytes, a uint8 array [H, W, 3] or a PIL image.

    Example:
        >>> Image(0, "image 0", np.zeros((8, 8, 3), np.uint8)).encoded()[1:4]
        b'PNG'
    """

    index: int
    source: str
    content: Any

    @property
    def is_pixels(self) -> bool:
        """Whether it is an array, which needs no decoding."""
        return isinstance(self.content, np.ndarray)

    def encoded(self) -> bytes:
        """The image as a file's bytes.

        Returns:
            The bytes given or read, or a lossless PNG of the pixels.

        Raises:
            MissingImageError: if the file vanished or cannot be read.
            ImageInputError: if a PIL image cannot be read from its file.
        """
        if isinstance(self.content, bytes):
            return self.content
        if isinstance(self.content, Path):
            try:
                return self.content.read_bytes()
            except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
                raise MissingImageError(f"cannot read image {self.content}: {error}") from error
        if self.is_pixels:
            return _png(self.content)
        buffer = io.BytesIO()
        picture = self.content
        try:
            if picture.mode not in _PNG_MODES:
                picture = picture.convert("RGB")
            picture.save(buffer, "PNG")
        except OSError as error:  # PIL reads the file only now
            raise ImageInputError(f"{self.source} cannot be encoded: {error}") from error
        return buffer.getvalue()


def collect(images: Any) -> list[Image]:
    """Name, check and number the images of a call, before anything is sent.

    Args:
        images: one image or several. An image is a path (`str` or `Path`), encoded bytes, a PIL
            image or a uint8 array [H, W, 3]; several are any iterable of those or a uint8 array
            [N, H, W, 3].

    Returns:
        One entry per image, in order. Files are checked but not read yet.

    Raises:
        MissingImageError: naming the files that are not there.
        ImageInputError: if something is not an image in one of these forms.

    Example:
        >>> [image.source for image in collect([b"...", np.zeros((8, 8, 3), np.uint8)])]
        ['image 0', 'image 1']
    """
    collected = [_image(index, item) for index, item in enumerate(as_items(images))]
    missing = [
        image.source
        for image in collected
        if isinstance(image.content, Path) and not image.content.is_file()
    ]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" * (len(missing) > 5))
        raise MissingImageError(
            f"no such image file: {shown}. Nothing was sent; check the path (relative to "
            f"{Path.cwd()}; a folder must be expanded to its files)."
        )
    return collected


def collect_one(index: int, item: Any) -> Image:
    """Name and check one image of a stream.

    Args:
        index: its position.
        item: in any form of `collect`.

    Returns:
        The image; a file is checked but not read yet.

    Raises:
        MissingImageError: if the file is not there.
        ImageInputError: if it is not an image in one of these forms.

    Example:
        >>> collect_one(3, b"...").source
        'image 3'
    """
    image = _image(index, item)
    if isinstance(image.content, Path) and not image.content.is_file():
        what = "is a folder" if image.content.is_dir() else "does not exist"
        raise MissingImageError(f"{image.source} {what}: give the path of an image file")
    return image


def batches(
    images: list[Image], max_batch_size: int, *, pixels_apart: bool
) -> Iterator[tuple[list[Image], np.ndarray]]:
    """Split images into the arrays of single requests, reading files only when their turn comes.

    Args:
        images: from `collect`.
        max_batch_size: most images of one request, at least 1.
        pixels_apart: whether arrays go out as pixels, one size at a time. Otherwise every image
            goes out encoded.

    Yields:
        The images of one request with either their bytes, object [N], or their pixels,
        uint8 [N, H, W, 3].

    Example:
        >>> images = collect(np.zeros((5, 8, 8, 3), np.uint8))
        >>> [pixels.shape for _, pixels in batches(images, 4, pixels_apart=True)]
        [(4, 8, 8, 3), (1, 8, 8, 3)]
    """
    groups: dict[Any, list[Image]] = defaultdict(list)
    for image in images:
        apart = pixels_apart and image.is_pixels
        groups[image.content.shape if apart else None].append(image)
    for shape, group in groups.items():
        for start in range(0, len(group), max_batch_size):
            batch = group[start : start + max_batch_size]
            if shape is None:
                array = np.empty(len(batch), object)  # [N]
                array[:] = [image.encoded() for image in batch]
            else:
                array = np.stack([image.content for image in batch])  # [N, H, W, 3]
            yield batch, array


def as_items(images: Any) -> Iterable[Any]:
    """See one image or several as several.

    Args:
        images: see `collect`.

    Returns:
        The images, unchecked.

    Raises:
        ImageInputError: if these are no images in one of the forms.

    Example:
        >>> as_items("seven.png")
        ['seven.png']
    """
    if isinstance(images, np.ndarray):
        return images if images.ndim == 4 else [images]
    if isinstance(images, str | Path | bytes | bytearray | memoryview) or _is_pil(images):
        return [images]
    if isinstance(images, Iterable) and not isinstance(images, Mapping):
        return images
    raise ImageInputError(
        f"cannot send {type(images).__name__}; expected {_EXPECTED}, or several of them"
    )


def _image(index: int, item: Any) -> Image:
    if isinstance(item, str | Path):
        return Image(index, str(item), Path(item))
    source = f"image {index}"
    if isinstance(item, bytes | bytearray | memoryview):
        return Image(index, source, bytes(item))
    if isinstance(item, np.ndarray):
        if item.dtype == np.uint8 and item.ndim == 3 and item.shape[2] == 3 and item.size:
            return Image(index, source, item)
        raise ImageInputError(
            f"{source} is a {item.dtype} array of shape {list(item.shape)}; expected uint8 pixels "
            "from 0 to 255 of shape [H, W, 3] (gray: repeat the channel three times; "
            "floats in [0, 1]: (255 * x).round().astype('uint8'))"
        )
    if _is_pil(item):
        return Image(index, source, item)
    raise ImageInputError(f"{source} is a {type(item).__name__}; expected {_EXPECTED}")


def _is_pil(item: Any) -> bool:
    """Recognise a PIL image without importing PIL."""
    return all(hasattr(item, name) for name in ("mode", "convert", "save"))


def _png(pixels: np.ndarray) -> bytes:
    """Encode uint8 [H, W, 3] as PNG with the standard library: one unfiltered row after another."""
    height, width, _ = pixels.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # [H, filter byte + 3 W]
    rows[:, 1:] = pixels.reshape(height, 3 * width)

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"IDAT", zlib.compress(rows.tobytes(), 1)),
            chunk(b"IEND", b""),
        )
    )
