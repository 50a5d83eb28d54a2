"""Examples that cannot be decoded in the middle of a run: named, counted, replaced, limited."""

import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tensorflow as tf

from keras_vit import Preprocessing
from training.data.damage import DamageLog, leave_out

PREPROCESSING = Preprocessing(4)


def png_header(width, height):
    """A PNG of a few bytes that announces any size: one black bit for each pixel, compressed."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    rows = zlib.compress((b"\0" + b"\0" * -(-width // 8)) * min(height, 100))
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def bmp_header(width, height):
    """A BMP that ends behind its header."""
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, width, height, 1, 24, *[0] * 6)


@pytest.fixture
def damaged(encode, photo):
    """A function that makes a data set of as many images, those at some places damaged."""

    def make(count, bad):
        good = encode(photo(6, 8))
        contents = [bad.get(place, good) for place in range(count)]
        names = [f"shard-0.tar/{place}.png" for place in range(count)]
        return tf.data.Dataset.from_tensor_slices(
            {"image_bytes": contents, "label": tf.range(count, dtype=tf.int64), "name": names}
        )

    return make


def run(log, dataset):
    """Labels and weights that the guarded decoding gives."""
    guarded = log.guarded(
        dataset,
        lambda e: (PREPROCESSING(e["image_bytes"]), e["label"], tf.constant(1.0)),
        lambda e: (tf.zeros(PREPROCESSING.output_shape), e["label"], tf.constant(0.0)),
    )
    result = list(guarded.as_numpy_iterator())
    assert all(image.shape == (4, 4, 3) for image, _, _ in result)
    return [label for _, label, _ in result], [weight for _, _, weight in result]


def test_damaged_images_are_replaced_in_their_places_and_named_with_the_reason(
    damaged, encode, photo
):
    lines = []
    half = encode(photo())[:2000]
    bad = {3: b"no image", 5: b"", 11: half, 250: b"\x89PNG\r\n\x1a\n"}
    labels, weights = run(DamageLog(400, report=lines.append), damaged(400, bad))
    assert labels == list(range(400))
    assert [place for place, weight in enumerate(weights) if weight == 0] == sorted(bad)
    assert sorted(lines) == [
        "shard-0.tar/11.png is left out: it is damaged or cut short.",
        "shard-0.tar/250.png is left out: its header is cut short.",
        "shard-0.tar/3.png is left out: it is not a JPEG, PNG, GIF or BMP image.",
        "shard-0.tar/5.png is left out: its record is damaged or missing.",
    ]


def test_only_lost_records_are_looked_for_where_all_were_decoded(damaged):
    lines = []
    log = DamageLog(200, report=lines.append, was_decoded=True)
    labels, weights = run(log, damaged(40, {5: b"", 30: b""}))
    assert labels == list(range(40))
    assert [place for place, weight in enumerate(weights) if weight == 0] == [5, 30]
    assert sorted(lines) == [
        f"shard-0.tar/{place}.png is left out: its record is damaged or missing."
        for place in (30, 5)
    ]
    with pytest.raises(tf.errors.InvalidArgumentError, match="not a JPEG"):
        run(log, damaged(4, {2: b"no image"}))
    refusing = DamageLog(200, bad_images="refuse", was_decoded=True)
    with pytest.raises(ValueError, match=r"5\.png cannot be used"), refusing.explained():
        run(refusing, damaged(40, {5: b""}))


def test_an_image_is_named_once_however_often_it_is_met(damaged):
    lines = []
    log = DamageLog(100, report=lines.append)
    for _ in range(3):
        run(log, damaged(10, {4: b"bad"}))
    assert len(lines) == 1
    assert list(log.reasons) == ["shard-0.tar/4.png"]


def test_more_than_the_limit_stop_the_run(damaged):
    log = DamageLog(300, report=lambda line: None)
    bad = dict.fromkeys([10, 20, 30, 40], b"bad")
    with (
        pytest.raises(ValueError, match="4 of 300 examples cannot be used, and at most 3") as error,
        log.explained(),
    ):
        run(log, damaged(300, bad))
    assert "shard-0.tar/" in str(error.value)
    assert "Traceback" not in str(error.value)


def test_the_first_stops_the_run_on_request(damaged):
    log = DamageLog(300, bad_images="refuse")
    with (
        pytest.raises(ValueError, match=r"7\.png cannot be used: it is not a JPEG"),
        log.explained(),
    ):
        run(log, damaged(20, {7: b"bad"}))


def test_other_errors_stay_what_they_are():
    with pytest.raises(tf.errors.NotFoundError), DamageLog(10).explained():
        tf.io.read_file("/no/such/file")


@pytest.mark.parametrize("header", [png_header, bmp_header])
def test_an_image_of_400_million_pixels_is_left_out_without_being_decoded(damaged, header):
    lines = []
    content = header(20_000, 20_000)
    assert len(content) < 10_000
    _, weights = run(DamageLog(100, report=lines.append), damaged(3, {1: content}))
    assert weights == [1, 0, 1]
    assert lines == ["shard-0.tar/1.png is left out: its header announces too many pixels."]


def test_an_image_of_one_pixel_is_used(damaged, encode):
    one = encode(np.full([1, 1, 3], 7, np.uint8))
    assert run(DamageLog(100), damaged(2, {0: one}))[1] == [1, 1]


def test_a_deterministic_run_guards_too(damaged):
    # In a process of its own, since determinism cannot be switched off again.
    code = """
import tensorflow as tf
from training.data.damage import DamageLog
tf.config.experimental.enable_op_determinism()
good = tf.io.encode_png(tf.zeros([2, 2, 3], tf.uint8))
dataset = tf.data.Dataset.range(40).map(lambda i: {
    "image_bytes": tf.where(i % 10 == 3, tf.constant("bad"), good),
    "label": i, "name": tf.strings.as_string(i)})
log = DamageLog(1000, report=lambda line: None)
guarded = log.guarded(
    dataset, lambda e: (tf.io.decode_png(e["image_bytes"])[0, 0, 0], e["label"]),
    lambda e: (tf.constant(9, tf.uint8), e["label"]))
assert [int(x) for x, _ in guarded] == [9 * (i % 10 == 3) for i in range(40)]
assert sorted(log.reasons) == ["13", "23", "3", "33"]
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# === On opening ===


def test_what_is_left_out_on_opening_is_limited():
    bad = {f"{number}.png": "it is empty" for number in range(3)}
    lines = []
    leave_out(bad, 300, bad_images="skip", report=lines.append)
    assert "3 images cannot be read" in lines[0]
    with pytest.raises(ValueError, match="At most 2 of 299 may be left out"):
        leave_out(bad, 299, bad_images="skip", report=print)
    with pytest.raises(ValueError, match="--bad-images skip"):
        leave_out(bad, 10_000, bad_images="refuse", report=print)
