"""Accuracy over every example, against numpy."""

import csv
import json
from typing import ClassVar

import numpy as np
import pytest
import tensorflow as tf

from training.data import DataSource, load_source
from training.data.folder_source import FolderSource
from training.evaluation import Evaluation, calibration_error, evaluate, write_evaluation
from training.evaluation.confusion_picture import condense
from training.evaluation.progress import with_progress


@pytest.fixture
def pictures(tmp_path, photo, encode):
    """A data set of 23 pictures in three classes, in files."""

    def make(labels=("ape", "bee", "cat"), spec="folder:pictures", used=None):
        files = []
        for index in range(23):
            path = tmp_path / f"{index}.png"
            path.write_bytes(encode(photo(20, 30, index)))
            files.append((path, index % (used or len(labels))))
        return FolderSource(spec, labels, {"train": files, "test": files})

    return make


LABELS = ["x", "cat", "y", "bee", "z", "ape", "w"]
# Of ape, bee and cat.
OUTPUTS = {0: 5, 1: 3, 2: 1}


def answers(model, source):
    """The logits of every example in float64, and its class."""
    examples = list(source.examples("test").as_numpy_iterator())
    pixels = tf.stack([model.preprocessing(example["image_bytes"]) for example in examples])
    return np.asarray(model(pixels), np.float64), [example["label"] for example in examples]


def test_agrees_with_numpy(tiny_model, pictures):
    source = pictures()
    model = tiny_model(num_classes=7, labels=LABELS)
    result = evaluate(model, source, batch_size=8)
    logits, labels = answers(model, source)
    right = np.array([OUTPUTS[label] for label in labels])
    ranks = np.argsort(-logits, -1)
    log_sum = np.log(np.exp(logits).sum(-1))
    assert result.examples == 23
    assert result.top1 == pytest.approx(np.mean(ranks[:, 0] == right), abs=1e-6)
    assert result.top5 == pytest.approx(np.mean((ranks[:, :5] == right[:, None]).any(-1)), abs=1e-6)
    loss = np.mean(log_sum - logits[np.arange(23), right])
    assert result.loss == pytest.approx(loss, abs=1e-5)
    assert result.images_per_second > 0
    assert set(json.loads(result.to_json())) == {
        "top1",
        "top5",
        "loss",
        "calibration_error",
        "examples",
        "images_per_second",
    }


def test_classes_and_confusions_agree_with_numpy(tiny_model, pictures):
    source = pictures()
    model = tiny_model(num_classes=7, labels=LABELS)
    result = evaluate(model, source, batch_size=8)
    logits, labels = answers(model, source)
    assert result.class_labels == ("cat", "bee", "ape")  # in the order of the outputs
    assert result.output_labels == tuple(LABELS)
    expected = np.zeros((3, 7), int)
    for label, row in zip(labels, logits, strict=True):
        expected[2 - label, row.argmax()] += 1
    np.testing.assert_array_equal(result.confusion, expected)
    np.testing.assert_array_equal(result.class_examples, [7, 8, 8])
    for place, (label, output) in enumerate([(2, 1), (1, 3), (0, 5)]):
        rows = logits[np.array(labels) == label]
        assert result.class_top1[place] == pytest.approx(np.mean(rows.argmax(-1) == output))
        in_top5 = (np.argsort(-rows, -1)[:, :5] == output).any(-1)
        assert result.class_top5[place] == pytest.approx(in_top5.mean())


def guo(confidences, correct):
    """The loop of the paper: bins that hold their upper edge."""
    error = 0.0
    for index in range(15):
        inside = (confidences > index / 15) & (confidences <= (index + 1) / 15)
        if inside.any():
            gap = abs(correct[inside].mean() - confidences[inside].mean())
            error += inside.mean() * gap
    return error


def test_calibration_error_agrees_with_the_paper(tiny_model, pictures):
    rng = np.random.default_rng(0)
    for size in (1, 10, 5000):
        confidences = rng.uniform(size=size)
        correct = rng.uniform(size=size) < confidences**2
        assert calibration_error(confidences, correct) == pytest.approx(guo(confidences, correct))
    assert calibration_error(confidences, rng.uniform(size=5000) < confidences) < 0.03
    assert calibration_error(np.ones(4), np.ones(4, bool)) == 0
    assert calibration_error(np.ones(4), np.zeros(4, bool)) == 1
    source = pictures()
    model = tiny_model(num_classes=3)
    logits, labels = answers(model, source)
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = guo(shares.max(-1), shares.argmax(-1) == labels)
    assert evaluate(model, source).calibration_error == pytest.approx(expected, abs=1e-5)


def test_calibration_error_refuses_what_is_no_probability():
    with pytest.raises(ValueError, match="from 0 to 1, not logits"):
        calibration_error(np.array([3.0]), np.array([True]))
    with pytest.raises(ValueError, match="from 0 to 1"):
        calibration_error(np.array([np.nan]), np.array([True]))
    with pytest.raises(ValueError, match=r"shape \[2\] and correct \[1\]"):
        calibration_error(np.ones(2), np.ones(1))
    with pytest.raises(ValueError, match="at least one"):
        calibration_error(np.ones(0), np.ones(0))


def test_fewer_than_five_classes(tiny_model, pictures):
    assert evaluate(tiny_model(num_classes=3), pictures()).top5 == 1.0


def test_a_head_of_zeros_is_not_right_five_times(tiny_model, pictures):
    model = tiny_model(num_classes=8)
    for variable in model.get_layer("head").weights:
        variable.assign(np.zeros(variable.shape))
    labels = tuple("abcdefgh")
    result = evaluate(model, pictures(labels))
    assert result.top1 == pytest.approx(3 / 23, abs=1e-6)
    assert result.top5 == pytest.approx(15 / 23, abs=1e-6)


def test_a_class_without_examples(tiny_model, pictures):
    lines = []
    source = pictures(("ape", "bee", "cat", "dog"), used=3)
    result = evaluate(tiny_model(num_classes=4), source, report=lines.append)
    (line,) = lines
    assert line.startswith("No test examples for 1 of the 4 classes")
    assert line.endswith(": dog")
    np.testing.assert_array_equal(np.isnan(result.class_top1), [False, False, False, True])
    np.testing.assert_array_equal(np.isnan(result.class_top5), [False, False, False, True])
    assert 0 <= result.top1 <= 1
    assert "NaN" not in result.to_json()


def test_answers_that_are_no_numbers(tiny_model, pictures):
    model = tiny_model(num_classes=3)
    model.get_layer("head").bias.assign([np.nan, 0, 0])
    with pytest.raises(ValueError, match="answers to 23 of 23 examples are not finite"):
        evaluate(model, pictures())


def test_classes_that_the_model_does_not_know(tiny_model, pictures):
    model = tiny_model(num_classes=2, labels=["ape", "bee"])
    with pytest.raises(ValueError, match=r"does not know 1 of the 3 classes .*: cat"):
        evaluate(model, pictures())
    with pytest.raises(ValueError, match="3 classes, the model 2"):
        evaluate(tiny_model(num_classes=2), pictures())
    with pytest.raises(ValueError, match="no head"):
        evaluate(tiny_model(num_classes=0), pictures())


def test_unknown_split(tiny_model):
    with pytest.raises(ValueError, match="no split 'val'; it has test, train"):
        evaluate(tiny_model(), load_source("digits"), split="val")
    with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
        evaluate(tiny_model(), load_source("digits"), batch_size=0)


class Unlabelled(DataSource):
    """As a test split whose labels are secret."""

    spec, labels = "secret", ("ape", "bee", "cat")
    splits: ClassVar = {"train": 0, "test": 23}

    def __init__(self, source):
        self._source = source

    def examples(self, split):
        label = tf.constant(-1, tf.int64)
        return self._source.examples(split).map(lambda example: example | {"label": label})

    def shuffled(self, split, seed, start=0):
        raise AssertionError("an evaluation takes the examples in order")


def test_a_split_without_labels(tiny_model, pictures):
    source = Unlabelled(pictures())
    with pytest.raises(ValueError, match="split test of secret has examples without a label"):
        evaluate(tiny_model(num_classes=3), source)
    with pytest.raises(ValueError, match="split train of secret has no examples"):
        evaluate(tiny_model(num_classes=3), source, split="train")


def made_up(confusion, outputs=None, labels=None):
    """An evaluation with these confusions."""
    confusion = np.asarray(confusion)
    classes, size = confusion.shape
    return Evaluation(
        top1=0.5,
        top5=1.0,
        loss=1.0,
        calibration_error=0.1,
        examples=int(confusion.sum()),
        images_per_second=1.0,
        output_labels=labels or tuple(f"c{index}" for index in range(size)),
        class_outputs=np.arange(classes) if outputs is None else np.asarray(outputs),
        class_top5=np.where(confusion.sum(1) > 0, 1.0, np.nan),
        confusion=confusion,
    )


def rows(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_the_files(tmp_path):
    labels = ("ape, monkey", "bee", "cat", "dog")
    result = made_up([[3, 0, 1, 0], [0, 0, 0, 0]], outputs=[0, 3], labels=labels)
    paths = write_evaluation(result, tmp_path / "new" / "out", "a title")
    assert all(path.is_file() for path in paths)
    numbers, per_class, confusion, picture = paths
    assert numbers.read_text() == result.to_json() + "\n"
    assert rows(per_class) == [
        ["label", "examples", "top1", "top5"],
        ["ape, monkey", "4", "0.75", "1"],
        ["dog", "0", "", ""],
    ]
    # Not bee: it is neither a class of the data nor an answer.
    assert rows(confusion) == [
        ["label", "ape, monkey", "cat", "dog"],
        ["ape, monkey", "3", "1", "0"],
        ["dog", "0", "0", "0"],
    ]
    assert picture.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="is a file: give a directory"):
        write_evaluation(result, numbers)


@pytest.mark.parametrize(("classes", "size"), [(3, 3), (40, 40), (41, 41), (300, 300), (60, 500)])
def test_the_picture_loses_no_example(classes, size, tmp_path):
    confusion = np.random.default_rng(0).poisson(0.3, (classes, size))
    confusion[np.arange(classes), np.arange(classes)] += 5
    confusion[min(7, classes - 1)] += 9  # a class of many confusions has a row of its own
    result = made_up(confusion)
    counts, names, columns = condense(result)
    assert counts.shape == (len(names), len(columns))
    assert counts.sum() == confusion.sum()
    assert len(names) <= 41
    assert f"c{min(7, classes - 1)}" in names
    kept = [index for index in range(classes) if f"c{index}" in names]
    np.testing.assert_array_equal(counts[: len(kept), : len(kept)], confusion[np.ix_(kept, kept)])
    np.testing.assert_array_equal(counts[: len(kept)].sum(1), confusion[kept].sum(1))
    if classes <= 40:
        np.testing.assert_array_equal(counts, confusion)
    write_evaluation(result, tmp_path)
    assert (tmp_path / "confusion.png").stat().st_size > 1000


def test_the_most_confused_pairs_are_shown():
    confusion = 20 * np.eye(100, dtype=int)
    for count, (one, other) in enumerate([(3, 90), (50, 4), (77, 78)], start=1):
        confusion[one, other] += count
    counts, names, columns = condense(made_up(confusion), most=4)
    assert names == ["c4", "c50", "c77", "c78", "96 others"]
    assert columns == ["c4", "c50", "c77", "c78", "others"]
    assert counts.tolist() == [
        [20, 0, 0, 0, 0],
        [2, 20, 0, 0, 0],
        [0, 0, 20, 3, 0],
        [0, 0, 0, 20, 0],
        [0, 0, 0, 0, 96 * 20 + 1],
    ]
    # Without a mistake there is no pair.
    counts, names, _ = condense(made_up(np.eye(3, dtype=int)), most=2)
    assert names == ["c0", "c1", "1 others"]
    assert counts.tolist() == np.eye(3).tolist()


def test_a_bar_on_a_terminal_only(monkeypatch, capsys):
    assert list(with_progress(iter("ab"), "letters", 2, show=True)) == ["a", "b"]
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    assert list(with_progress(iter("ab"), "letters", 2, show=True)) == ["a", "b"]
    output, errors = capsys.readouterr()
    assert not output
    assert "letters" in errors
    assert list(with_progress(iter("ab"), "letters", 2, show=False)) == ["a", "b"]
    assert capsys.readouterr() == ("", "")
