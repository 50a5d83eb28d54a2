"""`keras-vit predict` against a running server: what may be asked, files of answers, going on."""

import csv
import io
import json
import shutil
import sys

import pytest
from PIL import Image


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    sys.path.insert(0, str(__import__("pathlib").Path(__file__).parents[1] / "serving"))
    from colour_model import write_model

    from serving.configuration.models import ModelConfig
    from serving.local_server.server import LocalServer

    base = tmp_path_factory.mktemp("served") / "colours"
    write_model(base / "1")
    with LocalServer([ModelConfig("colours", str(base))], port=0) as server:
        yield server.address


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    colours = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
    for name, colour in colours.items():
        Image.new("RGB", (8, 8), colour).save(folder / f"{name}.png")
    shutil.copy(folder / "red.png", folder / "more" / "again.PNG")
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def ask(keras_vit, address):
    def run(*arguments):
        return keras_vit("predict", *arguments, "--name", "colours", "--address", address)

    return run


def test_folders_patterns_and_files(ask, photos):
    status, output, _ = ask(photos, "--top", "1")
    assert status == 0
    assert [line.split(": ")[1].split()[0] for line in output.splitlines()] == [
        "blue",
        "green",
        "red",
        "red",
    ]
    status, output, _ = ask(f"{photos}/*.png", photos / "red.png", "--top", "1", "--json")
    rows = [json.loads(line) for line in output.splitlines()]
    assert [row["labels"][0] for row in rows] == ["blue", "green", "red"]
    status, _, errors = ask(f"{photos}/*.tiff")
    assert status == 1
    assert "No file fits the pattern" in errors


def test_paths_on_standard_input(ask, photos, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{photos}/red.png\n\n{photos}/blue.png\n"))
    status, output, _ = ask("-", "--top", "1")
    assert status == 0
    assert len(output.splitlines()) == 2


def test_one_bad_file_does_not_end_the_run(ask, photos):
    (photos / "broken.png").write_bytes(b"no image")
    status, output, errors = ask(photos, photos / "missing.png")
    assert status == 1
    assert "2 of 6 images have no answer" in errors
    assert "broken.png: not an image that the server can read" in output
    assert "missing.png does not exist" in output
    assert "red.png: red" in output


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_file_goes_on_where_it_was_cut(ask, photos, tmp_path, kind):
    output = tmp_path / "new" / f"answers.{kind}"
    status, printed, _ = ask(photos, "--output", output, "--top", "2")
    assert (status, printed) == (0, "")
    whole = output.read_text()
    assert rows(output) == ["blue.png", "green.png", "again.PNG", "red.png"]
    output.write_text(whole[:-15])  # the last line is torn
    status, _, errors = ask(photos, "--output", output, "--top", "2")
    assert status == 0
    assert "3 images are in" in errors
    assert output.read_text() == whole


def rows(path):
    text = path.read_text()
    if path.suffix == ".csv":
        sources = [row["source"] for row in csv.DictReader(io.StringIO(text))]
    else:
        sources = [json.loads(line)["source"] for line in text.splitlines()]
    return [source.rpartition("/")[2] for source in sources]


def test_files_that_cannot_be_gone_on_with(ask, photos, tmp_path):
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "other.jsonl").write_text("[]\n")
    for name, message in [
        ("other.csv", "was begun with the columns"),
        ("other.jsonl", "something else than predictions"),
        ("x.txt", "must end with .csv or .jsonl"),
    ]:
        status, _, errors = ask(photos, "--output", tmp_path / name)
        assert status == 1
        assert message in errors
    status, _, errors = ask(photos, "--output", tmp_path / "e.csv", "--signature", "embed")
    assert "use a .jsonl file" in errors


def test_nothing_to_ask(ask, tmp_path):
    (tmp_path / "empty").mkdir()
    status, _, errors = ask(tmp_path / "empty")
    assert status == 1
    assert "No image was given" in errors
