"""`keras-vit data`: packing, and what is in a data set."""

import json

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path, encode):
    """A folder of photos: 10 of cats, 20 of dogs, and a file that is none."""
    for name, count in (("cat", 10), ("dog", 20)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.full((4 + number, 8, 3), number, np.uint8)
            (tmp_path / "photos" / name / f"{number:02}.png").write_bytes(encode(pixels))
    (tmp_path / "photos" / "cat" / "bad.jpg").write_bytes(b"no image")
    return tmp_path / "photos"


def test_pack_writes_shards_that_open_as_records(keras_vit, photos, tmp_path):
    status, output, errors = keras_vit(
        "data", "pack", f"folder:{photos}", tmp_path / "packed", "--shards", 2
    )
    assert status == 0, errors
    assert "27 train images in 2 shards, 3 test images in 1 shards" in output
    assert "bad.jpg: it is not a JPEG" in errors
    status, output, _ = keras_vit("data", "info", f"records:{tmp_path}/packed", "--json")
    assert status == 0
    assert json.loads(output)["splits"]["train"]["smallest"] == ["cat", 9]


def test_info_shows_a_table(keras_vit, photos):
    status, output, _ = keras_vit("data", "info", f"folder:{photos}", "--sample", 5)
    assert status == 0
    lines = {line.split("  ")[0].strip(): line.split() for line in output.splitlines()}
    assert lines["images"][1:] == ["27", "3"]
    assert lines["classes, of 2"][-2:] == ["2", "2"]
    assert lines["fewest"][1:] == ["cat:", "9", "cat:", "1"]
    assert lines["decoded"][1:] == ["5", "3"]
    assert lines["width"][1:6] == ["8", "…", "8", "…", "8"]
    assert "1 damaged images were met" in output
    assert "bad.jpg: it is not a JPEG, PNG, GIF or BMP image" in output


def test_info_prints_one_line_of_json(keras_vit, photos):
    status, output, _ = keras_vit("data", "info", f"folder:{photos}", "--json", "--all")
    assert status == 0
    summary = json.loads(output)
    assert output.count("\n") == 1
    assert summary["labels"] == ["cat", "dog"]
    assert summary["splits"]["train"]["looked_at"] == 27
    assert list(summary["damaged"].values()) == ["it is not a JPEG, PNG, GIF or BMP image"]


def test_errors_are_one_message(keras_vit, photos, tmp_path):
    for arguments, message in [
        (("pack", "photos", tmp_path / "out"), "There is no data 'photos'"),
        (("pack", f"folder:{photos}", photos), "exists: give another folder"),
        (
            ("pack", f"folder:{photos}", tmp_path / "out", "--shards", 99),
            "not between 1 and the 27",
        ),
        (("pack", f"folder:{photos}", tmp_path / "o", "--bad-images", "refuse"), "bad.jpg"),
        (("info", f"records:{photos}"), "keras-vit data pack"),
    ]:
        status, _, errors = keras_vit("data", *arguments)
        assert status == 1, arguments
        assert message in errors, (arguments, errors)
        assert "Traceback" not in errors
    assert not (tmp_path / "out").exists()
    assert keras_vit("data")[0] == 2
