"""Prediction without a server: every image once, whatever happens to the run.

`KERAS_VIT_KILLS=10 KERAS_VIT_IMAGES=2000 pytest tests/serving/test_offline.py -k killed` is the
long form.
"""

import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from colour_model import png

from serving.export import export_model
from serving.offline import beam
from serving.offline.images import FileImages, find_files
from serving.offline.model import OfflineModel, find_version
from serving.offline.output import Output, Settings
from serving.offline.prediction import ahead, predict_offline
from serving.offline.records import find_records

KILLS = int(os.environ.get("KERAS_VIT_KILLS", "1"))
IMAGES = int(os.environ.get("KERAS_VIT_IMAGES", "400"))
COLOURS = {"a.png": (250, 0, 0), "b.png": (0, 250, 0), "c.png": (0, 0, 250)}


@pytest.fixture
def photos(tmp_path):
    """A folder in folders: seven images, two files that are none, and what is not looked at."""
    folder = tmp_path / "photos"
    (folder / "more" / "deep").mkdir(parents=True)
    for name, colour in COLOURS.items():
        (folder / name).write_bytes(png(colour))
        (folder / "more" / "deep" / name).write_bytes(png(colour))
    (folder / "more" / "d.PNG").write_bytes(png((9, 9, 200)))
    (folder / "more" / "bad.jpg").write_bytes(b"no image")
    (folder / "more" / "empty.png").write_bytes(b"")
    (folder / "notes.txt").write_text("not an image")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "e.png").write_bytes(png((1, 1, 1)))
    return folder


def shards(output):
    return sorted(path for path in output.iterdir() if path.name.startswith("part-"))


def rows(output):
    return [json.loads(line) for path in shards(output) for line in path.read_text().splitlines()]


def times(output):
    return {path.name: path.stat().st_mtime_ns for path in shards(output)}


def predict(base, photos, output, batch_size=2, **settings):
    settings = Settings(**{"shard_size": 4, **settings})
    return predict_offline(
        find_version(str(base)), find_files([str(photos)]), str(output), settings,
        batch_size=batch_size,
    )  # fmt: skip


def test_every_image_has_one_row_in_order(base, photos, tmp_path):
    summary = predict(base, photos, tmp_path / "out")
    assert (summary.images, summary.invalid, summary.shards) == (9, 2, 3)
    assert [path.name for path in shards(tmp_path / "out")] == [
        f"part-0000{number}-of-00003.jsonl" for number in range(3)
    ]
    found = rows(tmp_path / "out")
    names = [row["source"].removeprefix(f"{photos}/") for row in found]
    deep = [f"more/deep/{name}" for name in COLOURS]
    assert names == [*COLOURS, "more/bad.jpg", "more/d.PNG", *deep, "more/empty.png"]
    bad = [row for row in found if not row["valid"]]
    assert [row["source"].rpartition("/")[2] for row in bad] == ["bad.jpg", "empty.png"]
    assert all(row["labels"] == [] == row["scores"] for row in bad)
    assert [row["labels"][0] for row in found[:3]] == ["red", "green", "blue"]


@pytest.mark.parametrize("signature", ["serving_default", "probabilities", "embed", "attention"])
def test_rows_are_the_results_of_the_client(base, server, photos, tmp_path, signature):
    from serving import Client

    predict(base, photos, tmp_path / "out", signature=signature, top_k=2)
    found = rows(tmp_path / "out")
    files = [row["source"] for row in found]
    method = {"serving_default": "predict"}.get(signature, signature)
    options = {"top_k": 2} if method == "predict" else {}
    with Client(server.address, "colours") as client:
        expected = getattr(client, method)(files, **options)
    for row, result in zip(found, expected, strict=True):
        for name, value in row.items():
            wanted = getattr(result, name)
            if isinstance(value, list) and name != "labels":
                assert np.shape(value) == np.shape(wanted) or not np.size(wanted)
                np.testing.assert_allclose(np.ravel(value), np.ravel(wanted), rtol=1e-5, atol=1e-6)
            else:
                assert (tuple(value) if name == "labels" else value) == wanted


@pytest.mark.parametrize("signature", ["serving_default", "probabilities", "embed", "attention"])
def test_parquet_holds_what_json_lines_hold(base, photos, tmp_path, signature):
    pyarrow = pytest.importorskip("pyarrow.dataset", reason="needs pip install pyarrow")
    # A first shard of bad images only: its columns must have types all the same.
    (photos / "0.png").write_bytes(b"")
    for form in ("jsonl", "parquet"):
        predict(base, photos, tmp_path / form, signature=signature, file_format=form, shard_size=1)
    lines = rows(tmp_path / "jsonl")
    # A reader of folders takes the shards and nothing else.
    table = pyarrow.dataset(tmp_path / "parquet", format="parquet").to_table()
    found = table.to_pylist()
    assert len(found) == len(lines) == 10
    for row, line in zip(found, lines, strict=True):
        assert row == line


def test_a_missing_pyarrow_is_named_before_the_work(base, photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"pip install 'keras-vit\[parquet\]'"):
        predict(base, photos, tmp_path / "out", file_format="parquet")
    assert not (tmp_path / "out").exists()


# === Going on ===


def test_only_what_is_missing_or_torn_is_done_again(base, photos, tmp_path):
    output = tmp_path / "out"
    predict(base, photos, output)
    before, content = times(output), rows(output)
    assert predict(base, photos, output).finished_before == 3
    assert times(output) == before
    first, second, third = shards(output)
    third.write_bytes(third.read_bytes()[:-9])  # cut short
    first.unlink()
    assert predict(base, photos, output, batch_size=4).finished_before == 1
    assert times(output)[second.name] == before[second.name]
    assert [row["source"] for row in rows(output)] == [row["source"] for row in content]
    second.write_text(second.read_text().replace("red", "rot", 1))  # changed, of the same length
    (output / "_finished" / f"{first.stem}.json").write_text("{")
    assert predict(base, photos, output).finished_before == 1
    assert rows(output) == content


def test_a_run_that_is_stopped_leaves_whole_shards_only(base, photos, tmp_path):
    output = tmp_path / "out"

    def stop(done, total):
        if done > 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_offline(
            find_version(str(base)),
            find_files([str(photos)]),
            str(output),
            Settings(shard_size=4),
            batch_size=2,
            progress=stop,
        )
    assert [path.name for path in output.iterdir() if "part" in path.name] == [
        "part-00000-of-00003.jsonl"
    ]
    assert predict(base, photos, output).finished_before == 1


def test_results_of_something_else_are_not_mixed(base, renamed, photos, tmp_path):
    output = tmp_path / "out"
    predict(base, photos, output)
    before = times(output)
    for change in ({"shard_size": 5}, {"signature": "embed"}, {"top_k": 1}):
        (name,) = change
        with pytest.raises(ValueError, match=rf"settings\.{name}: .* there, .* now"):
            predict(base, photos, output, **change)
    # Another file, then one with another content.
    (photos / "z.png").write_bytes(png((5, 5, 5)))
    with pytest.raises(ValueError, match=r"input\.images: 9 there, 10 now"):
        predict(base, photos, output)
    (photos / "z.png").unlink()
    data = (photos / "a.png").read_bytes()
    (photos / "a.png").write_bytes(png((1, 2, 3)))
    with pytest.raises(ValueError, match="sizes, times: "):
        predict(base, photos, output)
    (photos / "a.png").write_bytes(data)
    # Another model under the same number, and a new version.
    with pytest.raises(ValueError, match=r"model\.sha256: "):
        predict(renamed, photos, output)
    shutil.copytree(renamed, base / "2")
    with pytest.raises(ValueError, match=r"model\.version: 1 there, 2 now"):
        predict(base, photos, output)
    assert times(output) == before


def test_a_try_that_came_to_nothing_binds_nobody(base, photos, tmp_path):
    """A manifest without a shard, and what a kill leaves of files that were being written."""
    output = tmp_path / "out"
    predict(base, photos, output, shard_size=100)
    (shard,) = shards(output)
    shard.unlink()
    left = [
        output / f".{shard.name}.123.jsonl",
        output / "._manifest.json.123.json",
        output / "_finished" / f".{shard.stem}.json.123.json",
    ]
    for path in left:
        path.write_text("{")
    assert predict(base, photos, output, signature="embed").finished_before == 0
    assert "embedding" in rows(output)[0]
    assert not [path for path in left if path.exists()]


def test_files_that_no_prediction_wrote_are_left_alone(base, photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("")
    with pytest.raises(ValueError, match="files that no prediction wrote"):
        predict(base, photos, tmp_path / "out")
    with pytest.raises(ValueError, match="is a file"):
        predict(base, photos, tmp_path / "out" / "thesis.txt")


def test_two_runs_do_not_write_one_directory(base, photos, tmp_path):
    images = find_files([str(photos)])
    version = find_version(str(base))
    output = Output(str(tmp_path / "out"), len(images), Settings(shard_size=4))
    with output.opened(images, version), pytest.raises(ValueError, match="Another run is writing"):
        predict(base, photos, tmp_path / "out")
    assert predict(base, photos, tmp_path / "out").images == 9


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_that_is_killed_again_and_again_has_every_image_once(tmp_path, encode, tiny_model):
    folder, output, base = tmp_path / "photos", tmp_path / "out", tmp_path / "served"
    export_model(tiny_model(), base)
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        data = encode(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8), "JPEG")
        (folder / f"{number:05}.jpg").write_bytes(data if number % 50 else b"damaged")
    command = [
        *(sys.executable, "-m", "keras_vit_cli", "predict", "--offline", str(base)),
        *(f"folder:{folder}", "--output", str(output), "--shard-size", "10", "--batch-size", "3"),
    ]

    def start():
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def count():
        return len(shards(output)) if output.exists() else 0

    generator = random.Random(KILLS)
    for _ in range(KILLS):
        before, process = count(), start()
        # Not in the imports, where there is nothing to break: at a random moment after a shard.
        while process.poll() is None and count() == before:
            time.sleep(0.005)
        time.sleep(generator.uniform(0, 0.15))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it ended before it was killed: more images"
        assert all(len(path.read_text().splitlines()) == 10 for path in shards(output))
    output_of_last, _ = start().communicate(timeout=600)
    text = output_of_last.decode()
    assert f"{IMAGES:,} images" in text, text
    names = [row["source"] for row in rows(output)]
    assert names == sorted(str(path) for path in folder.iterdir())
    assert sum(not row["valid"] for row in rows(output)) == len(range(0, IMAGES, 50))
    assert not [path for path in output.iterdir() if path.name.startswith(".part")]


# === Inputs ===


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


# === The model ===


def test_versions(base, renamed, photos, tmp_path):
    shutil.copytree(renamed, base / "12")
    assert find_version(str(base)).version == 12
    assert find_version(str(base), 1).version == 1
    assert find_version(f"{base}/1/").version == 1
    for path, version, message in [
        (base, 3, "no exported version 3 .there: 1, 12."),
        (tmp_path / "nothing", None, "no exported version .there: none."),
        (base / "1", 2, "its name is not 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            find_version(str(path), version)


def test_what_is_wrong_with_a_model_is_said(base, photos, tmp_path):
    write_without = tf.Module()
    spec = tf.TensorSpec([None], tf.string, "image_bytes")
    embed = tf.function(lambda image_bytes: {"embedding": tf.zeros([1, 2])}, input_signature=[spec])
    tf.saved_model.save(write_without, str(tmp_path / "other" / "1"), signatures={"embed": embed})
    version = find_version(str(tmp_path / "other"))
    for signature in ("serving_default", "embed"):
        with pytest.raises(ValueError, match=f"no signature {signature} with the outputs"):
            OfflineModel(version, signature)
    (base / "1" / "variables" / "variables.index").write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be loaded"):
        predict(base, photos, tmp_path / "out")
    for arguments, message in [
        ({"shard_size": 0}, "shard_size is 0"),
        ({"file_format": "csv"}, "format is 'csv'"),
        ({"signature": "logits"}, "signature is 'logits'"),
        ({"top_k": 0}, "top_k is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            predict(base, photos, tmp_path / "wrong", **arguments)


# === Beam ===


def test_the_pipeline_of_beam_writes_the_same(base, photos, tmp_path):
    pytest.importorskip("apache_beam", reason="needs pip install apache_beam")
    predict(base, photos, tmp_path / "here")
    images, version = find_files([str(photos)]), find_version(str(base))
    output, settings = tmp_path / "there", Settings(shard_size=4)
    summary = beam.predict_with_beam(version, images, str(output), settings, batch_size=3)
    assert (summary.images, summary.invalid, summary.finished_before) == (9, 2, 0)
    assert_close(rows(output), rows(tmp_path / "here"))
    # Each goes on with what the other has left.
    before = times(output)
    shards(output)[1].unlink()
    summary = beam.predict_with_beam(version, images, str(output), settings)
    assert summary.finished_before == 2
    shards(output)[2].unlink()
    assert predict(base, photos, output).finished_before == 2
    assert times(output)[shards(output)[0].name] == before[shards(output)[0].name]
    assert_close(rows(output), rows(tmp_path / "here"))


def test_the_steps_of_the_pipeline(base, photos, tmp_path):
    """What Beam's workers do, without Beam: rows may come in any order."""
    images, version = find_files([str(photos)]), find_version(str(base))
    output = Output(str(tmp_path / "out"), len(images), Settings(shard_size=4))
    model = OfflineModel(version)
    with output.opened(images, version) as finished:
        assert not finished
        grouped = {}
        for shard in output.shards:
            part = pickle.loads(pickle.dumps((shard, images.part(shard.start, shard.stop))))
            for key, image in beam.read_part(part):
                number, row = beam.by_shard((key, model([image])[0]))
                grouped.setdefault(number, []).insert(0, row)
        for group in grouped.items():
            beam.write_shard(group, pickle.loads(pickle.dumps(output)))
    predict(base, photos, tmp_path / "here")
    assert_close(rows(tmp_path / "out"), rows(tmp_path / "here"))
    assert predict(base, photos, tmp_path / "out").finished_before == 3


def test_a_missing_beam_is_named(base, photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    images, version = find_files([str(photos)]), find_version(str(base))
    with pytest.raises(ValueError, match=r"pip install 'keras-vit\[beam\]'"):
        beam.predict_with_beam(version, images, str(tmp_path / "out"))


def assert_close(found, expected):
    """The same rows, up to what batches of another size change in the last digits."""
    assert [{**row, "scores": None} for row in found] == [
        {**row, "scores": None} for row in expected
    ]
    for row, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(row["scores"], other["scores"], rtol=1e-5)


# === Threads ===


def test_ahead_works_before_it_is_asked_and_hands_errors_on():
    made = []

    def items():
        for number in range(5):
            made.append(number)
            yield number
        raise OSError("the disk")

    taken = ahead(items(), 2)
    assert next(taken) == 0
    deadline = time.monotonic() + 5
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert made == [0, 1, 2]  # two more than was taken, and no others
    assert [next(taken) for _ in range(4)] == [1, 2, 3, 4]
    with pytest.raises(OSError, match="the disk"):
        next(taken)


def test_an_input_that_ends_early_is_no_success(base, tmp_path):
    class Shorter(FileImages):
        def __iter__(self):
            yield from list(super().__iter__())[:1]

    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.png").write_bytes(png((1, 2, 3)))
    images = Shorter([str(tmp_path / f"{name}.png") for name in ("a", "b", "c")])
    for size in (1, 2):
        with pytest.raises(RuntimeError, match="has changed since it was listed"):
            predict_offline(
                find_version(str(base)),
                images,
                str(tmp_path / f"out{size}"),
                Settings(shard_size=size),
            )
