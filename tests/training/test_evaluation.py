"""Accuracy over every example, against numpy."""

import json

import numpy as np
import pytest
import tensorflow as tf

from training.data import load_source
from training.data.folder_source import FolderSource
from training.evaluation import evaluate


@pytest.fixture
def pictures(tmp_path, photo, encode):
    """A data set of 23 pictures in three classes, in files."""

    def make(labels=("ape", "bee", "cat"), spec="folder:pictures"):
        files = []
        for index in range(23):
            path = tmp_path / f"{index}.png"
            path.write_bytes(encode(photo(20, 30, index)))
            files.append((path, index % len(labels)))
        return FolderSource(spec, labels, {"train": files, "test": files})

    return make


def test_agrees_with_numpy(tiny_model, pictures):
    source = pictures()
    model = tiny_model(num_classes=7, labels=["x", "cat", "y", "bee", "z", "ape", "w"])
    result = evaluate(model, source, batch_size=8)
    examples = list(source.examples("test").as_numpy_iterator())
    pixels = tf.stack([model.preprocessing(example["image_bytes"]) for example in examples])
    logits = np.asarray(model(pixels), np.float64)
    right = np.array([{0: 5, 1: 3, 2: 1}[example["label"]] for example in examples])
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
        "examples",
        "images_per_second",
    }


def test_fewer_than_five_classes(tiny_model, pictures):
    assert evaluate(tiny_model(num_classes=3), pictures()).top5 == 1.0


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
