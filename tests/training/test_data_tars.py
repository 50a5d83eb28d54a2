"""Tar shards in the layout of webdataset: members, labels, splits, damage."""

import io
import json
import os
import tarfile

import numpy as np
import pytest
import tensorflow as tf

from training.data import load_source
from training.data.records import tar_index
from training.data.records.pack import pack


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Where the places of the members are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "keras-vit" / "tar-shards"


@pytest.fixture
def png(encode):
    """A function that makes a small PNG: number -> bytes."""
    return lambda number: encode(np.full((3, 4, 3), number, np.uint8))


@pytest.fixture
def shard(tmp_path):
    """A function that writes a tar file: name, {member: bytes} -> path."""

    def write(name, members, mode="w"):
        path = tmp_path / name
        with tarfile.open(path, mode) as tar:
            for member, content in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return path

    return write


@pytest.fixture
def numbered(shard, png):
    """A function that writes a shard of images with labels: name, numbers, label of a number."""

    def write(name, numbers, label=lambda number: number % 2):
        members = {}
        for number in numbers:
            members[f"{number:03}.png"] = png(number)
            members[f"{number:03}.cls"] = str(label(number)).encode()
        return shard(name, members)

    return write


@pytest.fixture
def looked_at(monkeypatch):
    """The names of the shards that were looked through."""
    names = []
    look = tar_index._look_through

    def counted(path, size):
        names.append(path.name)
        return look(path, size)

    monkeypatch.setattr(tar_index, "_look_through", counted)
    return names


def opened(pattern, **options):
    """The source, and what was reported."""
    lines = []
    source = load_source(f"webdataset:{pattern}", report=lines.append, **options)
    return source, "\n".join(lines)


def contents(source, split):
    """Name -> bytes and class name."""
    return {
        example["name"].decode(): (example["image_bytes"], source.labels[example["label"]])
        for example in source.examples(split).as_numpy_iterator()
    }


# === Shards and splits ===


def test_a_folder_of_train_and_test_shards(numbered, png, tmp_path):
    numbered("train-000000.tar", range(10))
    numbered("train-000001.tar", range(10, 16))
    numbered("test-000000.tar", range(16, 20))
    numbered("other.tar", range(20, 30))
    source, report = opened(tmp_path)
    assert source.splits == {"train": 16, "test": 4}
    assert source.labels == ("0", "1")
    assert contents(source, "train") == {
        f"{tmp_path}/train-{number // 10:06}.tar/{number:03}.png": (png(number), str(number % 2))
        for number in range(16)
    }
    assert report == ""


@pytest.mark.parametrize("pattern", ["{train,val}-{000..001}.tar", "*.tar"])
def test_a_pattern_names_the_shards(numbered, tmp_path, pattern):
    for number, split in enumerate(("train", "val")):
        for place in range(2):
            numbered(f"{split}-{place:03}.tar", range(20 * number + 5 * place, 20 * number + 5))
    assert opened(tmp_path / pattern)[0].splits == {"train": 5, "test": 5}


def test_without_test_shards_a_seeded_tenth_of_each_class_is_kept(numbered, tmp_path):
    numbered("all.tar", range(40))
    source, report = opened(tmp_path / "all.tar", seed=3)
    assert source.splits == {"train": 36, "test": 4}
    assert source.class_counts("test").tolist() == [2, 2]
    assert "4 of its images, drawn with seed 3, are kept for testing" in report
    assert contents(opened(tmp_path / "all.tar", seed=3)[0], "test") == contents(source, "test")
    assert contents(opened(tmp_path / "all.tar", seed=4)[0], "test") != contents(source, "test")


def test_missing_shards_of_a_range_are_named(numbered, tmp_path):
    numbered("train-000.tar", range(4))
    with pytest.raises(ValueError, match=r"2 of the 3 shards .*train-001.tar, .*train-002.tar"):
        opened(tmp_path / "train-{000..002}.tar")


@pytest.mark.parametrize("pattern", ["none-{00..03}.tar", "empty", "x*.tar"])
def test_a_pattern_without_files_is_refused(tmp_path, pattern):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="names no files: expected are shards"):
        opened(tmp_path / pattern)


def test_addresses_and_commands_are_refused():
    with pytest.raises(ValueError, match="copy the shards here, or pack them"):
        opened("https://host/train-{00..15}.tar")
    with pytest.raises(ValueError, match="is a command"):
        opened("pipe:cat x.tar")


# === Labels ===


def test_names_as_labels_become_sorted_classes(numbered, tmp_path):
    numbered("all.tar", range(20), lambda number: ("dog", "cat")[number % 2])
    source, _ = opened(tmp_path / "all.tar")
    assert source.labels == ("cat", "dog")
    assert {
        int(name[-7:-4]) % 2: label for name, (_, label) in contents(source, "train").items()
    } == {
        0: "dog",
        1: "cat",
    }


def test_labels_in_json(shard, png, tmp_path):
    members = {}
    for number in range(20):
        members[f"a/{number}.jpg"] = png(number)
        members[f"a/{number}.json"] = json.dumps({"label": number % 2, "url": "x"}).encode()
    shard("all.tar", members)
    assert opened(tmp_path / "all.tar")[0].class_counts("train").tolist() == [9, 9]


@pytest.mark.parametrize(
    ("file", "content"),
    [("classes.txt", "cat\ndog\nbird\n"), ("info.json", '{"labels": ["cat", "dog", "bird"]}')],
)
def test_class_names_beside_the_shards(numbered, tmp_path, file, content):
    (tmp_path / file).write_text(content)
    numbered("train-0.tar", range(20), lambda number: number % 2)
    numbered("test-0.tar", range(20, 24), lambda number: number % 3)
    source, report = opened(tmp_path)
    assert source.labels == ("cat", "dog", "bird")
    assert "No training images for 1 classes: bird." in report


def test_wrong_labels_are_named(numbered, tmp_path):
    numbered("all.tar", range(20), lambda number: ("dog", "cat")[number % 2])
    (tmp_path / "classes.txt").write_text("cat\n")
    with pytest.raises(ValueError, match="labels that the classes beside it have not: dog"):
        opened(tmp_path / "all.tar")
    (tmp_path / "classes.txt").write_text("cat\ndog\ncat\n")
    with pytest.raises(ValueError, match="names cat more than once"):
        opened(tmp_path / "all.tar")
    numbered("all.tar", range(20), lambda number: number % 2 - 1)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(ValueError, match=r"labels outside 0 … 1, .* with -1\."):
        opened(tmp_path / "all.tar")
    (tmp_path / "classes.txt").unlink()
    numbered("all.tar", range(20), lambda number: (number, "cat")[number % 2])
    with pytest.raises(ValueError, match=r"labels that are names .* and others that are numbers"):
        opened(tmp_path / "all.tar")


# === Orders ===


def test_shuffled_gives_every_image_once_and_starts_anywhere(numbered, tmp_path):
    numbered("all.tar", range(50))
    source, _ = opened(tmp_path / "all.tar")

    def order(seed, start=0):
        dataset = source.shuffled("train", tf.constant(seed, tf.int64), start)
        return [example["name"].decode() for example in dataset.as_numpy_iterator()]

    assert sorted(order(1)) == sorted(contents(source, "train"))
    assert order(1) == order(1) != order(2)
    assert order(1, tf.constant(20, tf.int64)) == order(1)[20:]


def test_tars_can_be_packed(numbered, tmp_path):
    numbered("all.tar", range(30))
    source, _ = opened(tmp_path / "all.tar")
    pack(source, str(tmp_path / "packed"))
    packed = load_source(f"records:{tmp_path}/packed")
    for split in ("train", "test"):
        assert sorted(contents(packed, split).values()) == sorted(contents(source, split).values())


# === Damage ===


def test_examples_that_cannot_be_used_are_named(shard, png, tmp_path):
    members = {}
    for number in range(300):
        members[f"{number}.png"] = png(number % 256)
        members[f"{number}.cls"] = b"01"[number % 2 : number % 2 + 1]
    del members["7.cls"]
    members["8.png"] = b""
    members["9.jpg"] = png(9)
    members["notes.txt"] = b"read me"
    members["._1.png"] = b"resource fork"
    path = shard("all.tar", members)
    source, report = opened(path)
    assert sum(source.splits.values()) == 298
    assert "3 images cannot be read" in report
    assert f"{path}/7.png: it has no label beside it" in report
    assert f"{path}/8.png: it is empty" in report
    assert f"{path}/9.jpg: 9.png is the same example's image" in report
    assert set(source.left_out) == {f"{path}/{name}" for name in ("7.png", "8.png", "9.jpg")}
    with pytest.raises(ValueError, match="3 images cannot be read"):
        opened(path, bad_images="refuse")


def test_a_shard_that_is_cut_short_is_named(numbered, tmp_path):
    numbered("train-0.tar", range(20))
    test = numbered("test-0.tar", range(20, 30))
    test.write_bytes(test.read_bytes()[: 512 * 2 * 2 * 5 + 540])
    with pytest.raises(ValueError, match=r"test-0.tar/025.png: its shard is cut short") as error:
        opened(tmp_path, bad_images="refuse")
    assert f"{test}/…: the shard is cut short or damaged here" in str(error.value)


@pytest.mark.parametrize("mode", ["w:gz", None])
def test_other_files_are_refused(shard, png, tmp_path, mode):
    path = shard("train-0.tar", {"1.png": png(1)}, mode or "w")
    if mode is None:
        path.write_bytes(b"no tar file" * 100)
    with pytest.raises(ValueError, match="is no uncompressed tar file"):
        opened(tmp_path)


def test_a_shard_that_goes_away_is_damage_and_no_error(numbered, tmp_path):
    path = numbered("all.tar", range(20))
    source, _ = opened(path)
    path.write_bytes(path.read_bytes()[:2000])
    assert {image for image, _ in contents(source, "test").values()} <= {b""}
    path.unlink()
    assert {image for image, _ in contents(source, "train").values()} == {b""}


# === What is remembered ===


def test_a_second_opening_looks_through_nothing_but_changed_shards(
    numbered, tmp_path, looked_at, cache
):
    numbered("train-0.tar", range(10))
    numbered("test-0.tar", range(10, 14))
    first, _ = opened(tmp_path)
    again, _ = opened(tmp_path)
    assert looked_at == ["test-0.tar", "train-0.tar"]
    assert contents(again, "train") == contents(first, "train")
    os.utime(tmp_path / "test-0.tar", (1, 1))
    opened(tmp_path)
    assert looked_at[2:] == ["test-0.tar"]
    for file in cache.iterdir():
        file.write_text('{"members": 7')
    assert contents(opened(tmp_path)[0], "train") == contents(first, "train")
