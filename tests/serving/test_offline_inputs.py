"""The images of a prediction without a server: files, folders, patterns and records."""

import os
import shutil

import pytest
import tensorflow as tf
from colour_model import png
from offline_runs import rows

from serving.offline.images import find_files
from serving.offline.model import find_version
from serving.offline.output import Settings
from serving.offline.prediction import predict_offline
from serving.offline.records import find_records


def test_files_folders_and_patterns(photos):
    everything = [name for name, _ in find_files([f"folder:{photos}"])]
    assert len(everything) == 9
    assert [name for name, _ in find_files([str(photos), str(photos / "a.png")])] == everything
    assert len(find_files([f"{photos}/*.png"])) == 3
    assert len(find_files([f"{photos}/notes.txt"])) == 1  # named, so it is wanted
    for specs, message in [
        ([f"folder:{photos}/nothing"], "is not a directory"),
        ([f"{photos}/nothing.png"], "There is no file"),
        ([f"{photos}/*.gif"], "holds no images"),
    ]:
        with pytest.raises(ValueError, match=message):
            find_files(specs)


def test_names_that_are_not_utf8_are_left_out_and_named(photos, caplog):
    everything = list(find_files([str(photos)]))
    (photos / "more" / "Grüße.png").write_bytes(png((1, 2, 3)))
    strange = photos / "more" / os.fsdecode(b"caf\xe9.png")
    try:
        strange.write_bytes(png((1, 2, 3)))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (photos / os.fsdecode(b"d\xe9")).mkdir()
    shutil.copy(strange, photos / os.fsdecode(b"d\xe9") / "e.png")
    found = list(find_files([str(photos)]))
    assert len(found) == len(everything) + 1
    assert "/more/caf\\xe9.png is left out" in caplog.text
    assert "/d\\xe9/e.png is left out" in caplog.text
    caplog.clear()
    assert [name for name, _ in find_files([f"{photos}/more/[Gc]*.png"])] == [
        f"{photos}/more/Grüße.png"
    ]
    assert "/more/caf\\xe9.png is left out" in caplog.text
    with pytest.raises(ValueError, match=r"caf\\xe9.png is not UTF-8: rename it"):
        find_files([str(strange)])


def test_links_to_folders_are_followed(photos, tmp_path):
    everything = len(find_files([str(photos)]))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "z.png").write_bytes(png((1, 2, 3)))
    (photos / "more" / "link").symlink_to(tmp_path / "other")
    assert len(find_files([str(photos)])) == everything + 1


def test_a_file_that_vanishes_is_a_row_that_is_not_valid(base, photos, tmp_path, caplog):
    images = find_files([str(photos)])
    names = [name for name, _ in images]
    (photos / "b.png").unlink()
    summary = predict_offline(find_version(str(base)), images, str(tmp_path / "out"))
    assert summary.invalid == 3
    assert [row["source"] for row in rows(tmp_path / "out")] == names
    assert "b.png cannot be read" in caplog.text


@pytest.mark.parametrize("count", [1, 7, 40])
def test_parts_are_the_whole(tmp_path, count):
    for number in range(count):
        (tmp_path / f"{number:02}.png").write_bytes(b"x" * number)
    images = find_files([str(tmp_path)])
    everything = list(images)
    assert len(everything) == count
    for size in (1, 3, 50):
        parts = [images.part(start, start + size) for start in range(0, count, size)]
        assert [image for part in parts for image in part] == everything


@pytest.fixture
def records(tmp_path):
    """Two files of records: four and three images, of which one is no image."""
    folder = tmp_path / "records"
    folder.mkdir()
    images = [*(png((40 * number, 10, 10)) for number in range(6)), b"no image"]
    for number, part in enumerate([images[:4], images[4:]]):
        path = str(folder / f"test-{number:05}-of-00002.tfrecord")
        with tf.io.TFRecordWriter(path) as writer:
            for data in part:
                writer.write(example(data))
    return folder, images


def example(data, name="image/encoded"):
    value = tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))
    return tf.train.Example(features=tf.train.Features(feature={name: value})).SerializeToString()


def test_records(base, records, tmp_path):
    folder, expected = records
    images = find_records(str(folder))
    assert [data for _, data in images] == expected
    assert [name.rpartition("/")[2] for name, _ in images][3:5] == [
        "test-00000-of-00002.tfrecord#3",
        "test-00001-of-00002.tfrecord#0",
    ]
    everything = list(images)
    for start in range(7):
        for stop in range(start, 8):
            assert list(images.part(start, stop)) == everything[start:stop]
            assert len(images.part(start, stop)) == min(stop, 7) - start
    assert list(images.part(2, 6).part(1, 3)) == everything[3:5]
    assert len(find_records(str(folder), "test")) == 7
    summary = predict_offline(
        find_version(str(base)), images, str(tmp_path / "out"), Settings(shard_size=2)
    )
    assert (summary.images, summary.invalid) == (7, 1)
    assert [row["source"] for row in rows(tmp_path / "out")] == [name for name, _ in everything]


def test_damaged_records_cost_only_themselves(records):
    folder, expected = records
    first, second = sorted(folder.iterdir())
    data = bytearray(first.read_bytes())
    position = data.index(expected[1])
    data[position + 20] ^= 1
    first.write_bytes(bytes(data))
    second.write_bytes(second.read_bytes()[:-6])  # the last one is cut short
    found = [data for _, data in find_records(str(folder))]
    assert found == [expected[0], b"", *expected[2:6], b""]


def test_records_of_another_kind(records, tmp_path):
    folder, _ = records
    other = tmp_path / "other.tfrecord"
    with tf.io.TFRecordWriter(str(other)) as writer:
        writer.write(example(b"...", "image"))
    text = tmp_path / "text.tfrecord"
    text.write_text("this is no file of records at all")
    zipped = tmp_path / "zipped.tfrecord"
    with tf.io.TFRecordWriter(str(zipped), "GZIP") as writer:
        writer.write(example(b"..."))
    for path, split, message in [
        (other, None, "no tf.Examples with the feature image/encoded; its first record has image"),
        (text, None, "is no TFRecord file"),
        (zipped, None, "is compressed"),
        (folder, "train", "no TFRecord files of the split train"),
        (tmp_path / "nothing", None, "no TFRecord files"),
    ]:
        with pytest.raises(ValueError, match=message):
            find_records(str(path), split)
