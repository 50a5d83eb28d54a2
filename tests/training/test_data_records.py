"""Record shards: packing, reading back, damage."""

import dataclasses
import functools
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from training.data import load_source
from training.data.records import beam
from training.data.records import pack as packing
from training.data.records.pack import pack

CLASSES = ("cat", "dog")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Where the index of checked files is kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory, encode):
    """A folder of 40 training and 6 test images in two classes; its source."""
    root = tmp_path_factory.mktemp("source") / "photos"
    for split, count in (("train", 20), ("test", 3)):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                image_format = ("PNG", "JPEG")[number % 2]
                pixels = np.random.default_rng(number).integers(0, 256, (5, 7, 3), np.uint8)
                file = root / split / name / f"{number:02}.{image_format.lower()}"
                file.write_bytes(encode(pixels, image_format))
    return load_source(f"folder:{root}")


@pytest.fixture(scope="module")
def packed_once(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pack") / "packed"
    pack(photos, str(folder), shards=3)
    return folder


@pytest.fixture
def packed(packed_once, tmp_path):
    """The photos as records in three shards, for a test to do with as it likes."""
    return shutil.copytree(packed_once, tmp_path / "packed")


def opened(folder, **options):
    """The source, and what was reported."""
    lines = []
    source = load_source(f"records:{folder}", report=lines.append, **options)
    return source, "\n".join(lines)


def pairs(dataset):
    """Bytes and label of each example."""
    return [(e["image_bytes"], int(e["label"])) for e in dataset.as_numpy_iterator()]


def names(dataset):
    return [example["name"].decode() for example in dataset.as_numpy_iterator()]


def damage(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


# === Packing and reading back ===


def test_the_encoded_images_and_labels_are_those_of_the_source(photos, packed):
    source, report = opened(packed)
    assert source.labels == photos.labels
    assert source.splits == photos.splits
    for split in source.splits:
        assert sorted(pairs(source.examples(split))) == sorted(pairs(photos.examples(split)))
        assert source.class_counts(split).tolist() == photos.class_counts(split).tolist()
    assert report == ""


def test_the_records_are_standard_examples(photos, packed):
    record = next(iter(tf.data.TFRecordDataset(str(packed / "train-00000-of-00003.tfrecord"))))
    features = tf.train.Example.FromString(record.numpy()).features.feature
    assert set(features) == {
        "image/encoded", "image/class/label", "image/class/text", "image/filename"
    }  # fmt: skip
    file = Path(features["image/filename"].bytes_list.value[0].decode())
    assert features["image/encoded"].bytes_list.value[0] == file.read_bytes()
    assert features["image/class/text"].bytes_list.value[0].decode() == file.parent.name
    assert features["image/class/label"].int64_list.value[0] == CLASSES.index(file.parent.name)


def test_info_lists_the_shards_with_their_checksums(packed):
    info = json.loads((packed / "info.json").read_text())
    assert info["labels"] == list(CLASSES)
    assert [len(info["shards"][split]) for split in ("train", "test")] == [3, 1]
    assert sum(shard["examples"] for shard in info["shards"]["train"]) == 40
    for shard in info["shards"]["train"] + info["shards"]["test"]:
        content = (packed / shard["file"]).read_bytes()
        assert shard["bytes"] == len(content)
        assert shard["sha256"] == hashlib.sha256(content).hexdigest()


def test_the_order_is_mixed_once_and_the_same_for_a_seed(photos, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        pack(photos, str(tmp_path / name), seed=seed)
    labels = {
        name: [label for _, label in pairs(opened(tmp_path / name)[0].examples("train"))]
        for name in "abc"
    }
    assert labels["a"] == labels["b"] != labels["c"]
    assert labels["a"] != sorted(labels["a"])
    shard = "train-00000-of-00001.tfrecord"
    assert (tmp_path / "a" / shard).read_bytes() == (tmp_path / "b" / shard).read_bytes()


def test_shards_are_made_by_size(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "_SHARD_BYTES", 4000)
    info = pack(photos, str(tmp_path / "small"))
    assert 2 < len(info.shards["train"]) < 8
    assert max(shard.bytes for shard in info.shards["train"]) < 12_000
    assert len(info.shards["test"]) == 1


def test_records_can_be_packed_again(packed, tmp_path):
    source, _ = opened(packed)
    pack(source, str(tmp_path / "again"))
    again, _ = opened(tmp_path / "again")
    assert sorted(pairs(again.examples("train"))) == sorted(pairs(source.examples("train")))


def test_a_bucket_is_written_and_read_in_its_place(photos):
    pack(photos, "ram://bucket/packed", shards=2)
    source, _ = opened("ram://bucket/packed")
    assert sorted(pairs(source.examples("test"))) == sorted(pairs(photos.examples("test")))
    with pytest.raises(ValueError, match="holds records already"):
        pack(photos, "ram://bucket/packed")


# === Orders ===


def test_shuffled_gives_every_record_once_in_an_order_of_the_seed(packed):
    source, _ = opened(packed)

    def order(seed, start=0):
        return names(source.shuffled("train", tf.constant(seed, tf.int64), start))

    in_order = names(source.examples("train"))
    assert in_order[0] == f"{packed}/train-00000-of-00003.tfrecord#0"
    assert len(set(in_order)) == 40
    assert sorted(order(1)) == sorted(in_order)
    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1) != in_order
    assert order(1, 13) == order(1, tf.constant(13, tf.int64)) == order(1)[13:]
    assert order(1, 40) == []


def test_what_a_start_leaves_out_is_not_read(packed):
    source, _ = opened(packed)
    seed = tf.constant(5, tf.int64)
    order = names(source.shuffled("train", seed))
    for shard in packed.glob("train-*.tfrecord"):
        shard.unlink()
    rest = list(source.shuffled("train", seed, 39).as_numpy_iterator())
    assert [example["name"].decode() for example in rest] == order[39:]
    assert rest[0]["image_bytes"] == b""  # a shard that is gone is damage, and no endless loop


def test_a_seed_and_a_start_may_be_symbolic(packed):
    source, _ = opened(packed)
    epochs = tf.data.Dataset.range(2).flat_map(
        lambda epoch: source.shuffled("train", epoch + 7, 38 + epoch)
    )
    expected = [
        names(source.shuffled("train", tf.constant(seed, tf.int64)))[-count:]
        for seed, count in ((7, 2), (8, 1))
    ]
    assert names(epochs) == expected[0] + expected[1]


# === Damage ===


def test_a_damaged_record_is_empty_and_the_others_are_whole(photos, packed):
    source, _ = opened(packed)
    before = pairs(source.examples("train"))
    damage(packed / "train-00001-of-00003.tfrecord", 30)
    source, _ = opened(packed)
    after = pairs(source.examples("train"))
    (place,) = [i for i, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    assert after[place] == (b"", before[place][1])
    assert names(source.examples("train"))[place] == f"{packed}/train-00001-of-00003.tfrecord#0"


def test_a_shard_that_is_cut_short_loses_its_last_records_by_name(packed, monkeypatch):
    shard = packed / "train-00002-of-00003.tfrecord"
    shard.write_bytes(shard.read_bytes()[:-1])
    number = json.loads((packed / "info.json").read_text())["shards"]["train"][2]["examples"] - 1
    source, report = opened(packed)
    assert source.splits["train"] == 39
    assert f"{shard}#{number}: its shard is cut short" in report
    assert all(image for image, _ in pairs(source.examples("train")))
    assert f"{shard}#{number}" not in names(source.examples("train"))
    with pytest.raises(ValueError, match=f"#{number}: its shard is cut short"):
        opened(packed, bad_images="refuse")
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(ValueError, match="At most 1 of 46 may be left out"):
        opened(packed)


def test_a_missing_shard_is_named(packed):
    (packed / "test-00000-of-00001.tfrecord").unlink()
    with pytest.raises(ValueError, match=r"test-00000-of-00001.tfrecord is missing"):
        opened(packed)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("info.json", "{", "is damaged"),
        ("info.json", '{"version": 1}', "is damaged"),
        ("train.index.npz", "nothing", "is missing or damaged"),
        ("train.index.npz", None, "is missing or damaged"),
        ("info.json", None, "keras-vit data pack"),
    ],
)
def test_damaged_descriptions_are_refused(packed, file, content, message):
    (packed / file).unlink() if content is None else (packed / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        opened(packed)


def test_other_places_are_refused(tmp_path):
    with pytest.raises(ValueError, match="is not a directory"):
        opened(tmp_path / "nowhere")


def change_info(folder, **changes):
    file = folder / "info.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_another_version_is_refused(packed):
    change_info(packed, version=2)
    with pytest.raises(ValueError, match="expected are version 1"):
        opened(packed)


def test_a_label_without_a_class_is_refused(packed):
    change_info(packed, labels=["cat"])
    with pytest.raises(ValueError, match=r"labels outside 0 … 0, its 1 classes: .* with 1\."):
        opened(packed)


def test_classes_of_one_split_only_are_reported(photos, tmp_path):
    root = shutil.copytree(photos.spec.removeprefix("folder:"), tmp_path / "photos")
    shutil.rmtree(root / "test/dog")
    pack(load_source(f"folder:{root}", report=lambda line: None), str(tmp_path / "one"))
    assert "No test images for 1 classes: dog." in opened(tmp_path / "one")[1]


# === What packing leaves behind ===


def test_an_interrupted_pack_leaves_nothing_and_starts_anew(photos, tmp_path):
    out = tmp_path / "new" / "packed"
    done = []

    def interrupt(count):
        done.append(count)
        if len(done) == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(photos, str(out), shards=2, advance=interrupt)
    assert list(out.parent.iterdir()) == []
    # A kill would leave the hidden folder.
    hidden = out.parent / ".packed.partial"
    hidden.mkdir()
    (hidden / "train-00007-of-00009.tfrecord").write_bytes(b"old")
    pack(photos, str(out), shards=2)
    assert [path.name for path in out.parent.iterdir()] == ["packed"]
    assert not (out / "train-00007-of-00009.tfrecord").exists()
    assert opened(out)[0].splits == photos.splits


def test_a_folder_that_exists_is_refused_and_left_alone(photos, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(ValueError, match="exists: give another folder"):
        pack(photos, str(tmp_path / "mine"))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_two_packs_to_one_place_are_refused(photos, tmp_path):
    from training.data.records.new_folder import writing

    out = str(tmp_path / "packed")
    with (
        writing(out),
        pytest.raises(ValueError, match="Another process is writing"),
        writing(out),
    ):
        pass
    assert Path(out).is_dir()


def test_wrong_numbers_of_shards_are_refused(photos, tmp_path):
    for shards in (0, 41):
        with pytest.raises(ValueError, match="not between 1 and the 40 training examples"):
            pack(photos, str(tmp_path / "packed"), shards=shards)
    assert not (tmp_path / "packed").exists()


def test_damaged_images_are_left_out_of_a_pack(packed, tmp_path):
    damage(packed / "train-00001-of-00003.tfrecord", 30)
    source, _ = opened(packed)
    lines = []
    source.damage._report = lines.append
    info = pack(source, str(tmp_path / "again"))
    assert sum(shard.examples for shard in info.shards["train"]) == 39
    assert opened(tmp_path / "again")[0].splits == {"train": 39, "test": 6}
    name = f"{packed}/train-00001-of-00003.tfrecord#0"
    assert lines == [f"{name} is left out: its record is damaged or missing."]
    source, _ = opened(packed, bad_images="refuse")
    with pytest.raises(ValueError, match="#0 cannot be used: its record is damaged"):
        pack(source, str(tmp_path / "third"))
    assert not (tmp_path / "third").exists()


# === Beam ===


def test_shards_that_workers_write_are_those_of_one_process(photos, packed, tmp_path):
    folder = tmp_path / "by-workers"
    folder.mkdir()
    opened_there = functools.partial(load_source, photos.spec, report=lambda line: None)
    results = [
        beam.write_part(part, opened_there, 0, str(folder))
        for part in reversed(packing.plan(photos, 0, 3))
    ]
    beam.finish_parts(results, opened_there, 0, str(folder))
    files = {path.name for path in packed.iterdir()}
    assert {path.name for path in folder.iterdir()} == files
    for name in files - {"train.index.npz", "test.index.npz"}:  # a zip holds the time
        assert (folder / name).read_bytes() == (packed / name).read_bytes()


def test_the_pipeline_of_beam_writes_the_same(photos, packed, tmp_path):
    pytest.importorskip("apache_beam", reason="needs pip install apache_beam")
    info = beam.pack_with_beam(photos.spec, str(tmp_path / "beam"), "DirectRunner", shards=3)
    expected = json.loads((packed / "info.json").read_text())
    assert json.loads(json.dumps(dataclasses.asdict(info))) == {
        name: value for name, value in expected.items() if name != "version"
    }


def test_a_missing_beam_is_named(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "apache_beam", None)
    with pytest.raises(ValueError, match="pip install apache_beam"):
        beam.pack_with_beam(photos.spec, str(tmp_path / "x"), "DirectRunner")
