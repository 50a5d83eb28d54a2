"""Bytes to the model's input, against PIL."""

import io
import math

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_vit import Preprocessing
from keras_vit.decoding import decode_image

PIL_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos3": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
}


def pil_transform(image, spec):
    """The same transform as timm and torchvision do it: uint8 [H, W, 3]."""
    height, width = spec.image_size
    resample = PIL_FILTERS[spec.interpolation]
    rows, columns = (math.floor(side / spec.crop_fraction) for side in spec.image_size)
    w, h = image.size
    if spec.resize_mode == "squash":
        size = (columns, rows)
    elif spec.resize_mode == "crop" and rows == columns:
        size = (rows, int(rows * h / w)) if w < h else (int(rows * w / h), rows)
    else:
        limit = max if spec.resize_mode == "pad" else min
        ratio = limit(h / rows, w / columns)
        size = (round(w / ratio), round(h / ratio))
    padded = [max(0, target - side) for target, side in zip((width, height), size, strict=True)]
    size_padded = (size[0] + padded[0], size[1] + padded[1])
    canvas = Image.new("RGB", size_padded, tuple(round(255 * mean) for mean in spec.mean))
    canvas.paste(image.resize(size, resample), (padded[0] // 2, padded[1] // 2))
    left, top = round((size_padded[0] - width) / 2), round((size_padded[1] - height) / 2)
    return np.asarray(canvas.crop((left, top, left + width, top + height)))


@pytest.mark.parametrize("interpolation", sorted(PIL_FILTERS.keys() - {"nearest"}))
@pytest.mark.parametrize("mode", ["crop", "squash", "pad"])
@pytest.mark.parametrize("size", [(70, 91), (33, 20), (9, 200)])
@pytest.mark.parametrize("image_size", [32, (33, 24)])
def test_agrees_with_pil(photo, encode, interpolation, mode, size, image_size):
    pixels = photo(*size)
    spec = Preprocessing(image_size, resize_mode=mode, interpolation=interpolation)
    ours = (np.asarray(spec(encode(pixels))) * 0.5 + 0.5) * 255
    difference = np.abs(ours - pil_transform(Image.fromarray(pixels), spec))
    assert difference.mean() < 1
    assert (difference > 8).mean() <= 0.001


@pytest.mark.parametrize("mode", ["crop", "squash"])
def test_nearest_is_that_of_pil(photo, mode):
    pixels = photo(70, 91)  # where two pixels are equally near PIL's own sums decide, elsewhere
    spec = Preprocessing(32, resize_mode=mode, interpolation="nearest")
    expected = pil_transform(Image.fromarray(pixels), spec)
    np.testing.assert_array_equal(spec.resize(pixels), expected)


def test_no_antialias_is_plain_bilinear(photo):
    pixels = photo(64, 64)
    spec = Preprocessing(
        32, resize_mode="squash", crop_fraction=1.0, interpolation="bilinear", antialias=False
    )
    expected = tf.image.resize(pixels, [32, 32], "bilinear", antialias=False)
    np.testing.assert_allclose(spec.from_pixels(pixels), spec.normalize(expected), atol=1e-5)


def test_non_square_targets_and_batches(photo):
    pixels = np.stack([photo(50, 70, seed) for seed in range(3)])
    spec = Preprocessing(image_size=(16, 40))
    batch = spec.from_pixels(pixels)
    assert batch.shape == (3, 16, 40, 3)
    np.testing.assert_allclose(batch[1], spec.from_pixels(pixels[1]), atol=1e-6)


def test_same_size_and_full_crop_change_nothing(photo):
    pixels = photo(24, 24)
    spec = Preprocessing(24, crop_fraction=1.0)
    np.testing.assert_allclose(spec.from_pixels(pixels), spec.normalize(pixels), atol=1e-5)


def test_normalisation():
    pixels = np.array([[[0, 128, 255]]], np.uint8)
    spec = Preprocessing(1, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    expected = (pixels / 255 - spec.mean) / spec.std
    np.testing.assert_allclose(spec.normalize(pixels), expected, atol=1e-6)
    low_high = Preprocessing.from_value_range(-2, 6, image_size=1)
    black_white = np.array([[[0, 0, 255]]], np.uint8)
    np.testing.assert_allclose(low_high.normalize(black_white), [[[-2, -2, 6]]], atol=1e-5)


FORMATS = [
    ("PNG", "RGB"), ("PNG", "L"), ("PNG", "P"), ("PNG", "1"), ("PNG", "RGBA"), ("PNG", "LA"),
    ("GIF", "P"), ("BMP", "RGB"), ("BMP", "L"), ("BMP", "P"), ("BMP", "RGBA"),
    ("JPEG", "RGB"), ("JPEG", "L"),
]  # fmt: skip


@pytest.mark.parametrize(("image_format", "mode"), FORMATS)
def test_formats_decode_as_pil_does(photo, encode, image_format, mode):
    data = encode(Image.fromarray(photo(20, 30)).convert(mode), image_format)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    for decode in (decode_image, tf.function(decode_image)):
        decoded = np.asarray(decode(tf.constant(data), 1000)).astype(int)
        # JPEG decoders may differ in the last bit of the colour conversion.
        assert np.abs(decoded - expected).max() <= (1 if image_format == "JPEG" else 0)


def test_first_frame_of_an_animation_and_other_depths(photo, encode):
    frames = [Image.fromarray(photo(20, 30, seed)) for seed in range(3)]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(data, 1000).shape == (20, 30, 3)
    deep = Image.fromarray(photo(20, 30)[..., 0].astype(np.uint16) * 257)
    np.testing.assert_array_equal(decode_image(encode(deep), 1000)[..., 1], photo(20, 30)[..., 0])
    cmyk = encode(frames[0].convert("CMYK"), "JPEG")
    expected = np.asarray(Image.open(io.BytesIO(cmyk)).convert("RGB")).astype(int)
    assert np.abs(decode_image(cmyk, 1000).numpy() - expected).mean() < 3


def test_bmp_stored_top_down(photo, encode):
    data = bytearray(encode(photo(20, 32), "BMP"))
    data[22:26] = (-20).to_bytes(4, "little", signed=True)
    np.testing.assert_array_equal(decode_image(bytes(data), 1000), photo(20, 32)[::-1])


BAD = {
    "empty": lambda encode, pixels: b"",
    "garbage": lambda encode, pixels: b"not an image" * 50,
    "high garbage": lambda encode, pixels: bytes(range(128, 256)) * 4,
    "truncated JPEG": lambda encode, pixels: encode(pixels, "JPEG")[:-200],
    "truncated PNG": lambda encode, pixels: encode(pixels)[:-200],
    "truncated BMP": lambda encode, pixels: encode(pixels, "BMP")[:-200],
    "PNG header only": lambda encode, pixels: encode(pixels)[:20],
    "JPEG magic only": lambda encode, pixels: b"\xff\xd8\xff",
    "GIF magic only": lambda encode, pixels: b"GIF89a",
    "BMP magic only": lambda encode, pixels: b"BM",
    "WebP": lambda encode, pixels: encode(pixels, "WEBP"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("graph", [False, True])
def test_bad_bytes_are_refused(photo, encode, kind, graph):
    data = tf.constant(BAD[kind](encode, photo()))
    spec = Preprocessing(16)
    with pytest.raises(tf.errors.InvalidArgumentError):
        (tf.function(spec) if graph else spec)(data)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "BMP"])
def test_pixel_limit_is_read_from_the_header(photo, encode, image_format):
    data = encode(photo(30, 40), image_format)
    assert Preprocessing(16, max_pixels=1200)(data).shape == (16, 16, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="max_pixels=1199"):
        Preprocessing(16, max_pixels=1199)(data)


def test_a_header_that_lies_is_refused_before_decoding(encode, photo):
    data = bytearray(encode(photo()))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    with pytest.raises(tf.errors.InvalidArgumentError, match="max_pixels"):
        Preprocessing(16)(bytes(data))


def test_config_round_trip_and_errors():
    spec = Preprocessing((16, 24), mean=(0.1, 0.2, 0.3), interpolation="bilinear", antialias=False)
    assert Preprocessing.from_config(spec.get_config()) == spec
    for wrong, message in [
        ({"image_size": 0}, "image_size"),
        ({"resize_mode": "stretch"}, "resize_mode"),
        ({"interpolation": "cubic"}, "bicubic"),
        ({"crop_fraction": 1.5}, "crop_fraction"),
        ({"std": (1, 1, 0)}, "std"),
        ({"mean": (1, 1)}, "three"),
        ({"max_pixels": 0}, "max_pixels"),
    ]:
        with pytest.raises(ValueError, match=message):
            Preprocessing(**wrong)
    with pytest.raises(ValueError, match="high must be above low"):
        Preprocessing.from_value_range(1, 1)
