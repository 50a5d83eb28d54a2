"""`keras-vit evaluate` and `keras-vit probe`: one line of JSON, files, and errors before work."""

import csv
import json

import numpy as np
import pytest


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder of pictures in three classes, one of them without test images, and two models."""
    import keras
    from PIL import Image

    import keras_vit

    home = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    brightness = {"ape": 0, "bee": 100, "cat": 200}
    for split, classes, count in (("train", brightness, 8), ("test", ("ape", "cat"), 5)):
        for name in classes:
            folder = home / "photos" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = brightness[name] + rng.integers(0, 50, [12, 12, 3])
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")
    for name, options in (
        ("headless", {"num_classes": 0}),
        ("model", {"num_classes": 4, "labels": ["dog", "ape", "cat", "bee"]}),
        ("other", {"num_classes": 3, "labels": ["cat", "bee", "ape"]}),
    ):
        keras.utils.set_random_seed(0)
        model = keras_vit.VisionTransformer(8, 4, hidden_dim=16, depth=1, num_heads=2, **options)
        model.save(home / f"{name}.keras")
    return home


def test_evaluate_writes_files(keras_vit, files, tmp_path):
    status, output, errors = keras_vit(
        "evaluate", files / "model.keras", "--data", f"folder:{files}/photos", "--output",
        tmp_path / "out",
    )  # fmt: skip
    assert status == 0, errors
    (line,) = output.splitlines()
    result = json.loads(line)
    assert result["examples"] == 10
    assert {"top1", "top5", "loss", "calibration_error", "images_per_second"} < set(result)
    assert "real_top1" not in result
    assert "1 of the 3 classes" in errors
    assert "confusion.png" in errors
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == result
    with (tmp_path / "out" / "per_class.csv").open() as file:
        rows = {row["label"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["ape", "cat", "bee"]  # in the order of the outputs
    assert rows["bee"] == {"label": "bee", "examples": "0", "top1": "", "top5": ""}
    assert (tmp_path / "out" / "confusion.png").stat().st_size > 1000


def test_evaluate_writes_a_report(keras_vit, files, tmp_path):
    data = f"folder:{files}/photos"
    status, output, errors = keras_vit(
        "evaluate", files / "model.keras", "--data", data, "--report", tmp_path / "out",
        "--compare", files / "other.keras",
    )  # fmt: skip
    assert status == 0, errors
    (line,) = output.splitlines()
    result = json.loads(line)
    other = result["compared"]
    assert other["model"] == str(files / "other.keras")
    assert other["examples"] == result["examples"] == 10
    change = other["only_second"] - other["only_first"]
    assert other["top1"] - result["top1"] == pytest.approx(change / 10)
    assert 0 < other["p_value"] <= 1
    path = tmp_path / "out" / "report.html"
    assert str(path) in errors
    text = path.read_text()
    for word in ("McNemar", "Only A is right", "Map of the embeddings", data):
        assert word in text


def test_evaluate_refuses_before_the_work(keras_vit, files, tmp_path):
    (tmp_path / "file").write_text("[]")
    data = f"folder:{files}/photos"
    for arguments, message in [
        ((files / "none.keras", "--output", tmp_path / "file"), "--output", ),
        ((files / "none.keras", "--report", tmp_path / "file"), "--report", ),
        ((files / "none.keras", "--compare", "x"), "give --report DIR too"),
        (
            (files / "model.keras", "--report", tmp_path / "new", "--compare",
             files / "headless.keras"),
            "--compare " + str(files / "headless.keras") + ": The model has no head",
        ),
        ((files / "model.keras", "--split", "val"), "no split 'val'; it has test, train"),
        ((files / "headless.keras",), "has no head"),
        ((files / "model.keras", "--real-labels", tmp_path / "file"), "holds 0 entries"),
        ((files / "model.keras", "--real-labels", tmp_path / "none"), "No such file"),
    ]:  # fmt: skip
        status, output, errors = keras_vit("evaluate", *arguments, "--data", data)
        assert status == 1, arguments
        assert message in errors, (arguments, errors)
        assert not output
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("model", ["headless", "model"])
def test_probe_prints_one_line_of_json(keras_vit, files, model):
    status, output, errors = keras_vit(
        "probe", files / f"{model}.keras", "--data", f"folder:{files}/photos", "--shots", "1,10",
        "--neighbours", "3",
    )  # fmt: skip
    assert status == 0, errors
    (line,) = output.splitlines()
    result = json.loads(line)
    assert list(result) == [
        "fewshot_1_top1",
        "fewshot_10_top1",
        "knn_top1",
        "knn_plain_top1",
        "linear_top1",
        "train_examples",
        "test_examples",
        "dimensions",
    ]
    assert result["knn_top1"] == 1.0  # the classes differ in brightness
    assert (result["train_examples"], result["test_examples"]) == (24, 10)
    assert result["dimensions"] == 16
    assert "10 shots: 3 of 3 classes have fewer training examples" in errors


def test_probe_some_kinds(keras_vit, files):
    status, output, errors = keras_vit(
        "probe", files / "model.keras", "--data", f"folder:{files}/photos", "--kinds", "knn",
        "--neighbours", "5",
    )  # fmt: skip
    assert status == 0, errors
    assert [name for name in json.loads(output) if "top1" in name] == ["knn_top1", "knn_plain_top1"]


def test_probe_refuses_before_the_work(keras_vit, files):
    data = f"folder:{files}/photos"
    for arguments, message in [
        (("--kinds", "svm"), "fewshot, knn, linear: choose some of these, not svm"),
        (("--kinds", ","), "not nothing"),
        (("--shots", "1,x"), "--shots 1,x is not a list of numbers"),
        (("--shots", "0"), "1 or more, not 0"),
        (("--split", "val"), "no split 'val'"),
        (("--train-split", "val"), "no split 'val'"),
        (("--neighbours", "25", "--kinds", "knn"), "choose from 1 to 24"),
        (("--batch-size", "0"), "batch_size must be at least 1"),
    ]:
        status, output, errors = keras_vit(
            "probe", files / "model.keras", "--data", data, *arguments
        )
        assert status == 1, arguments
        assert message in errors, (arguments, errors)
        assert not output
    status, _, errors = keras_vit("probe", files / "none.keras", "--data", data)
    assert status == 1
    assert "There is nothing at" in errors


def test_help_teaches(keras_vit):
    status, output, _ = keras_vit("probe", "--help")
    assert status == 0
    for text in ("fewshot", "big_vision", "DINO", "--shots", "penalty", "frozen"):
        assert text in output
    status, output, _ = keras_vit("evaluate", "--help")
    for text in ("--real-labels", "real.json", "confusion.csv", "calibration"):
        assert text in output
