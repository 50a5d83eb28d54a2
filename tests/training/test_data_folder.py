"""Image folders as a data source: splits, unreadable files, the index of checked files."""

import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from training.data import image_check, load_source, steps_per_epoch
from training.data.folder_source import FolderSource


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Where the index of checked files is kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path, encode):
    """A function that writes small images: {relative path: bytes or None} -> root."""

    def write(files, name="photos"):
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        for number, path in enumerate(files):
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            content = files[path] if isinstance(files, dict) else None
            if content is None:
                image_format = {".png": "PNG", ".gif": "GIF", ".bmp": "BMP"}.get(
                    file.suffix.lower(), "JPEG"
                )
                content = encode(np.full((6, 8, 3), number, np.uint8), image_format)
            file.write_bytes(content)
        return root

    return write


@pytest.fixture
def open_folder():
    """A function that opens a folder: path -> source, what was reported."""

    def do(root, **options):
        lines = []
        return load_source(f"folder:{root}", report=lines.append, **options), "\n".join(lines)

    return do


@pytest.fixture
def looked_at(monkeypatch):
    """The names of the files that each look at images decoded."""
    looks = []
    check_all = image_check._check_all

    def counted(files, report):
        looks.append([file.name for file in files])
        return check_all(files, report)

    monkeypatch.setattr(image_check, "_check_all", counted)
    return looks


def listed(source, split):
    """Path -> class name of the examples of a split."""
    return {
        Path(example["name"].decode()): source.labels[example["label"]]
        for example in source.examples(split).as_numpy_iterator()
    }


def two_classes(count):
    return [f"{name}/{i:02}.png" for name in ("cat", "dog") for i in range(count)]


# === Layouts ===


def test_a_test_folder_alone_is_a_set_to_evaluate_on(folder, open_folder):
    root = folder(["val/dog/a.png", "val/cat/b.png", "val/cat/c.png"])
    source, report = open_folder(root)
    assert source.labels == ("cat", "dog")
    assert source.splits == {"test": 3}
    assert list(source.class_counts("test")) == [2, 1]
    assert not report
    with pytest.raises(ValueError, match="nothing to train on"):
        steps_per_epoch(source, 2)


@pytest.mark.parametrize("test_folder", ["test", "val", "validation"])
def test_train_and_test_folders_become_the_splits(folder, open_folder, test_folder):
    root = folder(
        [f"train/{path}" for path in ("dog/a.png", "cat/b.png", "cat/c.png")]
        + [f"{test_folder}/{path}" for path in ("cat/d.png", "dog/e.png")]
    )
    source, report = open_folder(root)
    assert source.labels == ("cat", "dog")
    assert source.splits == {"train": 3, "test": 2}
    assert listed(source, "train") == {
        root / "train/cat/b.png": "cat",
        root / "train/cat/c.png": "cat",
        root / "train/dog/a.png": "dog",
    }
    assert listed(source, "test") == {
        root / test_folder / "cat/d.png": "cat",
        root / test_folder / "dog/e.png": "dog",
    }
    assert report == ""


def test_an_example_holds_the_bytes_of_its_file(folder, open_folder):
    root = folder(["train/a/1.png", "train/b/2.jpg", "test/a/3.gif", "test/b/4.bmp"])
    source, _ = open_folder(root)
    for split in ("train", "test"):
        for example in source.examples(split).as_numpy_iterator():
            assert example["image_bytes"] == Path(example["name"].decode()).read_bytes()


def test_shuffled_gives_every_file_once_in_an_order_of_the_seed(folder, open_folder):
    source, _ = open_folder(folder(two_classes(10)))

    def names(seed):
        dataset = source.shuffled("train", tf.constant(seed, tf.int64))
        return [example["name"] for example in dataset.as_numpy_iterator()]

    assert sorted(names(1)) == sorted(str(path).encode() for path in listed(source, "train"))
    assert names(1) == names(1)
    assert names(1) != names(2)


def test_the_paths_are_not_copied_into_the_graph_of_an_epoch():
    files = [(Path(f"cat/{i}.png"), 0) for i in range(1000)]
    source = FolderSource("folder:x", ("cat",), {"train": files})

    @tf.function
    def epoch(seed):
        return source.shuffled("train", seed)._variant_tensor

    graph = epoch.get_concrete_function(tf.TensorSpec([], tf.int64)).graph
    assert "cat/7.png" not in str(graph.as_graph_def())


def test_class_folders_alone_are_split_in_each_class(folder, open_folder):
    root = folder([f"cat/{i:02}.png" for i in range(20)] + [f"dog/{i:02}.png" for i in range(40)])
    source, report = open_folder(root, seed=3)
    train, test = listed(source, "train"), listed(source, "test")
    assert not set(train) & set(test)
    assert set(train) | set(test) == set(root.rglob("*.png"))
    assert sorted(test.values()) == ["cat"] * 2 + ["dog"] * 4
    assert all(path.parent.name == label for path, label in (train | test).items())
    assert "6 of its images" in report
    assert "seed 3" in report


def test_the_split_is_the_same_for_a_seed_and_another_for_another(folder, open_folder):
    root = folder(two_classes(30))
    first, again, other = (listed(open_folder(root, seed=seed)[0], "test") for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_train_folder_without_a_test_folder_is_split(folder, open_folder):
    source, _ = open_folder(folder([f"train/{path}" for path in two_classes(10)]))
    assert source.splits == {"train": 18, "test": 2}


def test_a_class_with_one_image_keeps_it_for_training(folder, open_folder):
    source, _ = open_folder(folder(["cat/a.png", "cat/b.png", "dog/only.png"]))
    assert "dog" in listed(source, "train").values()
    assert set(listed(source, "test").values()) == {"cat"}


def test_nested_folders_and_upper_case_extensions_are_found(folder, open_folder):
    root = folder(
        ["train/cat/2024/may/A.JPG", "train/cat/b.JpEg", "train/dog/c.PNG", "test/cat/x/d.png"]
    )
    source, _ = open_folder(root)
    assert listed(source, "train") == {
        root / "train/cat/2024/may/A.JPG": "cat",
        root / "train/cat/b.JpEg": "cat",
        root / "train/dog/c.PNG": "dog",
    }
    assert source.splits["test"] == 1


def test_hidden_files_and_folders_and_other_files_are_ignored(folder, open_folder):
    root = folder(
        {
            **dict.fromkeys(two_classes(2)),
            "cat/._00.png": b"resource fork",
            "cat/.thumbnails/00.png": b"a thumbnail",
            "cat/notes.txt": b"text",
            ".cache/x.png": b"hidden",
            "readme.png": b"not in a class",
        }
    )
    source, report = open_folder(root)
    assert source.labels == ("cat", "dog")
    assert sum(source.splits.values()) == 4
    assert "cannot be read" not in report


def test_a_folder_below_a_hidden_one_is_used(folder, open_folder):
    source, _ = open_folder(folder(two_classes(2), name=".hidden"))
    assert sum(source.splits.values()) == 4


def test_a_test_split_without_some_classes_is_reported(folder, open_folder):
    _, report = open_folder(folder(["train/cat/a.png", "train/dog/b.png", "test/cat/c.png"]))
    assert "No test images for 1 classes: dog." in report


# === Unreadable images ===


@pytest.fixture
def with_bad_images(folder, encode, photo):
    """A folder of six good images and five bad ones."""
    png, jpeg = encode(photo()), encode(photo(), "JPEG")
    return folder(
        {
            **dict.fromkeys(two_classes(3)),
            "cat/garbage.jpg": b"this is no image at all",
            "cat/empty.png": b"",
            "dog/header.png": png[:20],
            "dog/half.png": png[: len(png) // 2],
            "dog/half.jpg": jpeg[: len(jpeg) // 2],
        }
    )


def test_unreadable_images_are_named_with_the_reason_counted_and_left_out(
    with_bad_images, open_folder
):
    source, report = open_folder(with_bad_images)
    assert sum(source.splits.values()) == 6
    assert "5 images cannot be read:" in report
    assert f"{with_bad_images}/cat/garbage.jpg: it is not a JPEG, PNG, GIF or BMP image" in report
    assert f"{with_bad_images}/cat/empty.png: it is empty" in report
    assert f"{with_bad_images}/dog/header.png: its header is cut short" in report
    assert f"{with_bad_images}/dog/half.png: it is damaged or cut short" in report
    assert f"{with_bad_images}/dog/half.jpg: it is damaged or cut short" in report
    left = set(listed(source, "train")) | set(listed(source, "test"))
    assert {path.name for path in left} == {"00.png", "01.png", "02.png"}


def test_unreadable_images_are_refused_on_request(with_bad_images, open_folder):
    with pytest.raises(ValueError, match="5 images cannot be read") as error:
        open_folder(with_bad_images, bad_images="refuse")
    assert "garbage.jpg: it is not" in str(error.value)
    assert "--bad-images skip" in str(error.value)


def test_a_picture_that_announces_too_many_pixels_is_left_out(folder, open_folder, encode):
    png = bytearray(encode(np.zeros((4, 4, 3), np.uint8)))
    png[16:24] = (60_000).to_bytes(4, "big") * 2
    _, report = open_folder(folder({**dict.fromkeys(two_classes(2)), "cat/bomb.png": bytes(png)}))
    assert "bomb.png: its header announces too many pixels" in report


def test_images_of_one_pixel_and_of_400_million_in_a_folder(folder, open_folder, encode):
    header = struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 20_000, -20_000, 1, 24, *[0] * 6)
    one = encode(np.zeros((1, 1, 3), np.uint8))
    files = {**dict.fromkeys(two_classes(2)), "cat/one.png": one, "dog/vast.bmp": b"BM" + header}
    source, report = open_folder(folder(files))
    assert sum(source.splits.values()) == 5
    assert "dog/vast.bmp: its header announces too many pixels" in report
    assert "one.png" not in report


def test_what_opening_has_left_out_is_known(with_bad_images, open_folder):
    source, _ = open_folder(with_bad_images)
    assert len(source.left_out) == 5
    assert source.left_out[f"{with_bad_images}/cat/empty.png"] == "it is empty"


def test_a_start_leaves_out_the_first_files_and_does_not_read_them(folder, open_folder):
    source, _ = open_folder(folder(two_classes(10)))

    def names(start):
        dataset = source.shuffled("train", tf.constant(1, tf.int64), start)
        return [example["name"].decode() for example in dataset.as_numpy_iterator()]

    order = names(0)
    for path in order[:5]:
        Path(path).unlink()
    assert names(5) == names(tf.constant(5, tf.int64)) == order[5:]
    assert names(len(order)) == []


def test_a_name_that_is_not_utf8_is_left_out(folder, open_folder):
    root = folder(two_classes(3))
    strange = os.fsencode(root) + b"/cat/caf\xe9.png"
    try:
        shutil.copy(next((root / "cat").iterdir()), strange)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    source, report = open_folder(root)
    assert sum(source.splits.values()) == 6
    assert "caf\\xe9.png: its name is not UTF-8" in report
    assert list(source.left_out) == [f"{root}/cat/caf\\xe9.png"]
    (root / "dog").rename(root / os.fsdecode(b"d\xf6g"))
    with pytest.raises(ValueError, match="No readable training images are left for"):
        open_folder(root)


def test_a_link_to_nowhere_is_left_out_until_it_leads_somewhere(folder, open_folder, tmp_path):
    root = folder(two_classes(2))
    (root / "cat/lost.png").symlink_to(tmp_path / "elsewhere.png")
    source, report = open_folder(root)
    assert sum(source.splits.values()) == 4
    assert "cat/lost.png: it cannot be opened" in report
    shutil.copy(root / "cat/00.png", tmp_path / "elsewhere.png")
    source, report = open_folder(root)
    assert sum(source.splits.values()) == 5
    assert "lost.png" not in report


def test_a_file_that_could_not_be_opened_is_looked_at_again(folder, open_folder, looked_at):
    root = folder(two_classes(2))
    (root / "cat/folder.png").mkdir()
    for _ in range(2):
        assert "cat/folder.png: it cannot be opened" in open_folder(root)[1]
    assert looked_at[1] == ["folder.png"]


def test_only_the_first_unreadable_images_are_shown(folder, open_folder):
    root = folder(
        {**dict.fromkeys(two_classes(2)), **{f"cat/bad{i:02}.jpg": b"bad" for i in range(13)}}
    )
    _, report = open_folder(root)
    assert "13 images cannot be read" in report
    assert report.count("it is not a JPEG") == 10
    assert "and 3 more" in report


# === The index of checked files ===


def test_a_second_opening_decodes_nothing_and_says_the_same(
    with_bad_images, open_folder, looked_at
):
    first, first_report = open_folder(with_bad_images)
    second, second_report = open_folder(with_bad_images)
    assert [len(files) for files in looked_at] == [11, 0]
    assert second_report == first_report
    assert listed(second, "train") == listed(first, "train")


def test_changed_and_new_files_are_looked_at_again(with_bad_images, open_folder, looked_at, encode):
    open_folder(with_bad_images)
    (with_bad_images / "cat/empty.png").write_bytes(encode(np.zeros((3, 3, 3), np.uint8)))
    (with_bad_images / "cat/new.png").write_bytes(b"bad")
    source, report = open_folder(with_bad_images)
    assert looked_at[1] == ["empty.png", "new.png"]
    assert sum(source.splits.values()) == 7
    assert "cat/new.png" in report
    assert "cat/empty.png" not in report


def test_a_file_of_the_same_size_with_another_time_is_looked_at_again(
    folder, open_folder, looked_at
):
    root = folder(two_classes(2))
    open_folder(root)
    os.utime(root / "cat/01.png", (1, 1))
    open_folder(root)
    assert looked_at[1] == ["01.png"]


def test_the_index_stays_in_the_cache_folder(folder, open_folder, cache):
    root = folder(two_classes(2))
    before = set(root.rglob("*"))
    open_folder(root)
    assert set(root.rglob("*")) == before
    assert len(list((cache / "keras-vit/checked-images").iterdir())) == 1


def test_a_moved_folder_is_looked_at_again(folder, open_folder, looked_at, tmp_path):
    root = folder(two_classes(2))
    open_folder(root)
    shutil.copytree(root, tmp_path / "copy")
    source, _ = open_folder(tmp_path / "copy")
    assert len(looked_at[1]) == 4
    assert all(path.is_relative_to(tmp_path / "copy") for path in listed(source, "train"))


@pytest.mark.parametrize("content", [b'{"cut', b"\xff\x00\xfe"])
def test_a_damaged_index_is_made_anew(folder, open_folder, looked_at, cache, content):
    root = folder(two_classes(2))
    open_folder(root)
    (index,) = (cache / "keras-vit/checked-images").iterdir()
    index.write_bytes(content)
    open_folder(root)
    open_folder(root)
    assert [len(files) for files in looked_at] == [4, 4, 0]


def test_a_cache_that_cannot_be_written_does_no_harm(folder, open_folder, looked_at, cache):
    cache.write_text("a file where the folder should be")
    root = folder(two_classes(2))
    for _ in range(2):
        source, _ = open_folder(root)
        assert sum(source.splits.values()) == 4
    assert [len(files) for files in looked_at] == [4, 4]


# === Errors ===


def test_a_path_that_is_no_folder_is_refused(tmp_path, open_folder):
    with pytest.raises(ValueError, match=r"nowhere is not a directory"):
        open_folder(tmp_path / "nowhere")


def test_a_folder_without_class_folders_is_refused(folder, open_folder):
    with pytest.raises(ValueError, match="has no class folders"):
        open_folder(folder(["a.png", "b.png"]))


def test_an_empty_class_is_named(folder, open_folder):
    with pytest.raises(ValueError, match="No images in the class folders empty of"):
        open_folder(folder({**dict.fromkeys(two_classes(2)), "empty/notes.txt": b"text"}))


def test_a_test_class_that_is_not_trained_on_is_named(folder, open_folder):
    with pytest.raises(ValueError, match=r"has classes that .*train has not: bird"):
        open_folder(folder(["train/cat/a.png", "test/cat/b.png", "test/bird/c.png"]))


def test_a_class_with_nothing_readable_is_named(folder, open_folder):
    files = {**dict.fromkeys(two_classes(2)), "bird/a.jpg": b"bad", "bird/b.jpg": b"bad"}
    with pytest.raises(ValueError, match="No readable training images are left for bird"):
        open_folder(folder(files))


def test_a_folder_with_nothing_to_test_on_is_refused(folder, open_folder):
    with pytest.raises(ValueError, match="No test images"):
        open_folder(folder(["cat/a.png", "dog/b.png"]))
