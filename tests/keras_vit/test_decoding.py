"""Decoding inside the graph, against PIL, and what it refuses before it decodes."""

import io
import struct
import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_vit import decoding
from keras_vit.decoding import decode_image
from keras_vit.preprocessing import Preprocessing

MILLION = 10**6


@pytest.fixture(scope="module")
def decode():
    spec = [tf.TensorSpec([], tf.string)]
    return tf.function(lambda data: decode_image(data, MILLION), input_signature=spec)


def picture(width=50, height=40):
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def in_pil(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGB", "JPEG", {"quality": 95}),
        ("RGB", "JPEG", {"progressive": True}),
        ("RGB", "JPEG", {"subsampling": 0}),
        ("L", "JPEG", {}),
        ("CMYK", "JPEG", {}),
        ("RGB", "PNG", {}),
        ("L", "PNG", {}),
        ("P", "PNG", {}),
        ("1", "PNG", {}),
        ("P", "GIF", {}),
        ("P", "GIF", {"comment": b"words" * 200}),
        ("P", "GIF", {"save_all": True, "duration": 50, "loop": 0}),
        ("RGB", "BMP", {}),
        ("L", "BMP", {}),
        ("P", "BMP", {}),
    ],
)
def test_pixels_are_those_of_pil(decode, mode, kind, options):
    image = picture().convert(mode)
    if "save_all" in options:
        options = {**options, "append_images": [image.rotate(90), image.rotate(180)]}
    data = saved(image, kind, **options)
    difference = np.abs(decode(data).numpy().astype(int) - in_pil(data))
    assert difference.max() <= (2 if kind == "JPEG" else 0)


def test_transparency_is_left_out_as_pil_does(decode):
    image = picture().convert("RGBA")
    image.putalpha(Image.fromarray(np.arange(2000, dtype=np.uint8).reshape(40, 50)))
    data = saved(image, "PNG")
    np.testing.assert_array_equal(decode(data), in_pil(data))


def test_of_16_bits_the_upper_8_are_kept(decode):
    values = np.arange(2000, dtype=np.uint16).reshape(40, 50) * 32
    data = saved(Image.fromarray(values), "PNG")
    np.testing.assert_array_equal(
        decode(data), (values >> 8).astype(np.uint8)[..., None].repeat(3, 2)
    )


def test_a_jpeg_that_is_cut_short(decode):
    data = saved(picture(300, 200), "JPEG")
    cut = data[: len(data) // 2]
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(cut)
    recovered = decode_image(cut, MILLION, recover_truncated=True).numpy()
    np.testing.assert_array_equal(recovered[:8], in_pil(data)[:8])
    spec = Preprocessing(image_size=16, recover_truncated=True)
    assert Preprocessing.from_config(spec.get_config()) == spec
    assert np.isfinite(spec(cut)).all()
    with pytest.raises(tf.errors.InvalidArgumentError):
        spec(b"\xff\xd8\xff nothing more")


def jpeg_header(height, width):
    data = saved(picture(16, 16), "JPEG")
    start = data.index(b"\xff\xc0") + 5
    return data[:start] + struct.pack(">HH", height, width) + data[start + 4 :]


GIF = b"GIF89a" + struct.pack("<HHBBB", 10, 10, 0x80, 0, 0) + bytes(6)
HUGE_FRAME = b"\x2c" + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)


@pytest.mark.parametrize(
    "data",
    [
        jpeg_header(65500, 65500),
        saved(Image.new("1", (1001, 1000)), "PNG"),
        saved(Image.new("1", (70_000, 2)), "PNG"),  # few pixels, but a row that is too long
        b"BM" + struct.pack("<IIIIiiHH", 90, 0, 54, 40, 60_000, -60_000, 1, 24) + bytes(60),
        GIF[:6] + struct.pack("<HH", 60_000, 60_000) + GIF[10:] + b"\x2c" + bytes(12) + b";",
        GIF + HUGE_FRAME + b"\x02" + (b"\xff" + b"\x55" * 255) * 10 + b"\x00;",
    ],
)
def test_what_is_too_large_is_refused_by_its_header(decode, data):
    with pytest.raises(tf.errors.InvalidArgumentError, match="max_pixels"):
        decode(data)


def test_of_a_film_only_the_first_frame_is_unpacked(decode):
    """Frames that would be gigabytes stand behind a first one that is small."""
    first = saved(picture().convert("P"), "GIF")
    film = first[:-1] + (HUGE_FRAME + b"\x02" + (b"\xff" + b"\x55" * 255) * 2000 + b"\x00") * 3
    np.testing.assert_array_equal(decode(film + b";"), decode(first))


def test_a_film_of_a_million_tiny_blocks_is_read_in_moments(decode):
    first = saved(picture().convert("P"), "GIF")
    frame = 13 + 3 * 2 ** ((first[10] & 7) + 1)
    comment = b"\x21\xfe" + b"\x01a" * 500_000 + b"\x00" + b"\x21\xfe\x01a\x00" * 100_000
    start = time.monotonic()
    with_comments = decode(first[:frame] + comment + first[frame:])
    np.testing.assert_array_equal(with_comments, decode(first))
    # The frame itself in blocks of one byte, and of one that is never ended.
    pixels = frame + first[frame:].index(b"\x2c") + 11
    blocks, position = b"", pixels
    while size := first[position]:
        blocks += b"".join(b"\x01" + bytes([b]) for b in first[position + 1 : position + 1 + size])
        position += 1 + size
    film = first[:pixels] + blocks + b"\x00" + HUGE_FRAME
    np.testing.assert_array_equal(decode(film), decode(first))
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(first[:frame] + b"\x21\xfe" + b"\x01a" * 1_000_000)
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("length", [0, 1, 3, 6, 9, 12, 13, 20, 40])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_the_beginning_of_an_image_is_no_image(decode, kind, length):
    data = saved(picture().convert("P" if kind == "GIF" else "RGB"), kind)
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(data[:length])


def test_fingerprints_change_with_what_changes_the_pixels():
    spec = Preprocessing()
    assert spec.fingerprint == Preprocessing().fingerprint
    assert len(spec.fingerprint) == 12
    others = [
        spec.replace(image_size=384),
        spec.replace(crop_fraction=1.0),
        spec.replace(mean=(0.4, 0.5, 0.5)),
        spec.replace(interpolation="bilinear"),
        spec.replace(recover_truncated=True),
    ]
    assert len({spec.fingerprint, *(other.fingerprint for other in others)}) == 6


def test_graphs_share_one_trace(monkeypatch):
    """Tracing takes half a second, and each pipeline has a decoder."""
    traced = []
    decode = decoding._decode
    monkeypatch.setattr(decoding, "_decode", lambda *given: traced.append(1) or decode(*given))
    files = tf.data.Dataset.from_tensors(saved(picture(), "PNG"))
    for _ in range(2):
        (pixels,) = files.map(lambda data: decode_image(data, max_pixels=12_345))
        np.testing.assert_array_equal(pixels, picture())
    assert len(traced) == 1
