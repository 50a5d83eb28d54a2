"""Sizes read from headers are those that PIL finds, for every format and cut."""

import numpy as np
import pytest
from PIL import Image

from serving.page.headers import Header, read_header


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "BMP"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (30, 47), (301, 260)])
def test_sizes(encode, photo, image_format, height, width):
    assert read_header(encode(photo(height, width), image_format)) == Header(height, width)


@pytest.mark.parametrize(
    "options", [{"progressive": True}, {"comment": b"x" * 300}, {"dpi": (9, 9)}]
)
def test_kinds_of_jpeg(encode, photo, options):
    assert read_header(encode(photo(30, 47), "JPEG", **options)) == Header(30, 47)


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize(("orientation", "is_turned"), [(1, False), (3, True), (6, True)])
def test_turned_photographs(encode, photo, endian, orientation, is_turned):
    exif = Image.Exif()
    exif.endian = endian
    exif[0x010F] = "a camera"
    exif[0x0112] = orientation
    data = encode(photo(30, 47), "JPEG", exif=exif)
    assert read_header(data) == Header(30, 47, is_turned)


def test_a_bitmap_stored_from_the_top():
    data = bytearray(b"BM" + bytes(52))
    data[18:26] = np.array([5, -4], "<i4").tobytes()
    assert read_header(bytes(data)) == Header(4, 5)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "BMP"])
def test_files_cut_short_or_damaged_have_no_size_or_the_right_one(encode, photo, image_format):
    data = encode(photo(30, 47), image_format)
    for length in range(200):
        assert read_header(data[:length]) in (None, Header(30, 47))
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(data)
        for position in rng.integers(0, min(len(data), 400), 3):
            damaged[position] = rng.integers(256)
        read_header(bytes(damaged))  # comes to an end without an error


def test_what_is_no_image():
    for data in (b"", b"text", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP", b"GIF89a" + bytes(4)):
        assert read_header(data) is None
