"""`keras-vit predict --offline`: what the command adds to serving.offline."""

import json
import sys

import pytest

import keras_vit
from keras_vit_cli import predict_offline
from keras_vit_cli.predict_offline import SourceImages, open_images
from serving.export import export_model


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    model = keras_vit.VisionTransformer(16, 4, hidden_dim=16, depth=1, num_heads=2, num_classes=5)
    return export_model(model, tmp_path_factory.mktemp("served")).path.parent


@pytest.fixture
def photos(tmp_path, photo, encode):
    (tmp_path / "photos").mkdir()
    for number in range(3):
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(encode(photo(seed=number), "JPEG"))
    (tmp_path / "photos" / "bad.png").write_bytes(b"...")
    return tmp_path / "photos"


def test_a_folder_and_again(keras_vit, served, photos, tmp_path):
    command = ("predict", "--offline", served, f"folder:{photos}", "--output", tmp_path / "out")
    status, output, errors = keras_vit(*command, "--shard-size", 3, "--top", 2)
    assert status == 0, errors
    assert output.startswith(f"{tmp_path}/out: 4 images in 2 files; 1 could not be read; ")
    files = sorted((tmp_path / "out").glob("part-*"))
    found = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert [len(row["labels"]) for row in found] == [2, 2, 2, 0]
    status, output, _ = keras_vit(*command, "--shard-size", 3, "--top", 2)
    assert status == 0
    assert "2 files, 2 of them finished before" in output
    status, _, errors = keras_vit(*command, "--top", 2)
    assert status == 1
    assert "settings.shard_size: 3 there, 1024 now" in errors
    assert "Traceback" not in errors


def test_a_data_set(keras_vit, served, tmp_path):
    command = ("predict", "--offline", served, "digits", "--output", tmp_path / "out")
    status, _, errors = keras_vit(*command)
    assert status == 1
    assert "no split was named; give --split, one of train (1,437), test (360)" in errors
    status, output, errors = keras_vit(*command, "--split", "test", "--signature", "embed")
    assert status == 0, errors
    assert "360 images in 1 files; 0 could not be read" in output


def test_parts_of_a_data_set_are_the_whole():
    images = SourceImages("digits", "test")
    everything = list(images)
    assert len(images) == len(everything) == len({name for name, _ in everything}) == 360
    parts = [images.part(start, start + 100) for start in range(0, 360, 100)]
    assert [len(part) for part in parts] == [100, 100, 100, 60]
    assert [image for part in parts for image in part] == everything
    assert list(images.part(100, 200).part(10, 12)) == everything[110:112]


def test_wrong_inputs_are_one_message(keras_vit, served, photos, tmp_path):
    for arguments, message in [
        ((), "No images were given"),
        (("digits", photos / "0.jpg"), "digits must be given alone"),
        ((f"folder:{photos}", "--split", "test"), "--split test is for data sets"),
        (("photos/nothing.jpg",), "There is no file 'photos/nothing.jpg'"),
        (("records:nothing",), "no TFRecord files"),
        (("digits", "--split", "dev"), "it has no split 'dev'"),
    ]:
        status, _, errors = keras_vit(
            "predict", "--offline", served, *arguments, "--output", tmp_path / "out"
        )
        assert status == 1, arguments
        assert message in errors
        assert "Traceback" not in errors
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="No images"):
        open_images((), None, None)


def test_what_stands_behind_two_dashes_is_for_beam(monkeypatch, keras_vit, served, photos):
    seen = {}
    monkeypatch.setattr(
        predict_offline, "call", lambda function, *rest: seen.update(function.keywords, rest=rest)
    )
    keras_vit("predict", "--offline", "a", "b", "--output", "c", "--beam", "X", "--", "--y", "z")
    assert seen["beam_options"] == ("--y", "z")
    assert seen["rest"][1] == ["a", "b", "--output", "c", "--beam", "X"]


def test_a_missing_beam_is_named(monkeypatch, keras_vit, served, photos, tmp_path):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    command = ("predict", "--offline", served, photos, "--output", tmp_path / "out")
    status, _, errors = keras_vit(*command, "--beam", "DirectRunner")
    assert status == 1
    assert "pip install 'keras-vit[beam]'" in errors
