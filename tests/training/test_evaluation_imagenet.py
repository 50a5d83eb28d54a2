"""ImageNet by its names, WordNet ids and numbers, and ReaL's labels."""

import json

import numpy as np
import pytest
import tensorflow as tf

from keras_vit.labels import imagenet_labels
from training.data.folder_source import FolderSource
from training.evaluation import class_indices, evaluate
from training.evaluation.classes import imagenet_numbers, wordnet_ids
from training.evaluation.real_labels import read_real_labels

NAMES = imagenet_labels(1000)
NUMBERS = tuple(str(number) for number in range(1000))


def test_wordnet_ids_are_in_the_order_of_the_outputs():
    ids = wordnet_ids()
    assert len(set(ids)) == 1000
    assert list(ids) == sorted(ids)
    # Known from the outputs of published checkpoints.
    for number, identity, name in [
        (0, "n01440764", "tench"),
        (207, "n02099601", "golden retriever"),
        (134, "n02012849", "crane"),  # the bird
        (517, "n03126707", "crane"),  # the machine
        (999, "n15075141", "toilet tissue"),
    ]:
        assert ids[number] == identity
        assert NAMES[number].split(",")[0] == name


def test_numbers_go_by_number_not_by_their_order_as_text():
    folders = tuple(sorted(NUMBERS))  # 0, 1, 10, 100, 101, …
    expected = [int(name) for name in folders]
    np.testing.assert_array_equal(class_indices(NAMES, folders), expected)
    np.testing.assert_array_equal(class_indices(wordnet_ids(), folders), expected)
    # And the other way: a model that was trained on such folders.
    backwards = class_indices(folders, wordnet_ids())
    assert [folders[output] for output in backwards] == list(NUMBERS)


def test_wordnet_ids_also_of_some_classes_only():
    ids = wordnet_ids()
    np.testing.assert_array_equal(class_indices(NAMES, ids), np.arange(1000))
    some = [999, 3, 517]
    np.testing.assert_array_equal(class_indices(NAMES, [ids[index] for index in some]), some)
    np.testing.assert_array_equal(class_indices(NUMBERS, [ids[index] for index in some]), some)
    # A model of 200 of the classes, as for ImageNet-R.
    np.testing.assert_array_equal(class_indices(ids[100:300], [ids[150], ids[299]]), [50, 199])


def test_other_spellings_of_the_names():
    names = [name.split(",")[0].upper() for name in NAMES]
    names[5] = "something else"
    np.testing.assert_array_equal(class_indices(names, wordnet_ids()), np.arange(1000))
    np.testing.assert_array_equal(class_indices(names, NAMES), np.arange(1000))
    assert imagenet_numbers(names[::-1]) is None


def test_what_is_not_imagenet():
    ids = wordnet_ids()
    with pytest.raises(
        ValueError, match=r"does not know 1 of the 2 classes of folder:x: n00000001"
    ):
        class_indices(NAMES, [ids[0], "n00000001"], "folder:x")
    with pytest.raises(ValueError, match=r"does not know 1 of the 1 classes .*: n15075141"):
        class_indices(ids[:200], [ids[999]])
    # Ten digits are not the first ten classes of ImageNet.
    with pytest.raises(ValueError, match="does not know 10 of the 10"):
        class_indices(NAMES, NUMBERS[:10])
    with pytest.raises(ValueError, match="does not know 2 of the 2"):
        class_indices(["ape", "bee"], ids[:2])


def test_names_that_two_outputs_have():
    with pytest.raises(ValueError, match=r"more than one output named crane.*WordNet ids"):
        class_indices(NAMES, ["crane", "tench, Tinca tinca"])
    np.testing.assert_array_equal(class_indices(NAMES, NAMES), np.arange(1000))
    np.testing.assert_array_equal(class_indices(["a", "a", "b"], ["b"]), [2])


@pytest.fixture
def validation(tmp_path, photo, encode):
    """Validation images of ImageNet: three numbers of files, in two classes."""

    def make(names=("00000007", "00000002", "00050000"), pattern="ILSVRC2012_val_{}.JPEG"):
        files = []
        for index, name in enumerate(names):
            path = tmp_path / pattern.format(name)
            path.write_bytes(encode(photo(20, 30, index), "JPEG"))
            files.append((path, index % 2))
        labels = (wordnet_ids()[300], wordnet_ids()[20])
        return FolderSource("folder:val", labels, {"train": files, "test": files})

    return make


@pytest.fixture
def real_json(tmp_path):
    """A file like the published one, empty but for these entries."""

    def make(entries, length=50_000):
        content = [[] for _ in range(length)]
        for index, labels in entries.items():
            content[index] = labels
        path = tmp_path / "real.json"
        path.write_text(json.dumps(content))
        return path

    return make


def best_outputs(model, source):
    pixels = [model.preprocessing(example["image_bytes"]) for example in source.examples("test")]
    return np.asarray(model(tf.stack(pixels))).argmax(-1)


@pytest.mark.parametrize("labels", [NAMES, None, tuple(sorted(NUMBERS)), wordnet_ids()])
def test_real_labels(labels, tiny_model, validation, real_json):
    model = tiny_model(num_classes=1000, labels=labels)
    source = validation()
    # The model's answers as numbers of ImageNet, whatever the order of its outputs.
    numbers = best_outputs(model, source)
    if labels is not None and labels[2] == "10":
        numbers = np.array([int(labels[output]) for output in numbers])
    one, two, last = (int(number) for number in numbers)
    wrong = (two + 1) % 1000
    for entries, top1, count in [
        ({6: [one, wrong], 1: [two], 49_999: [last]}, 1.0, 3),
        ({6: [(one + 1) % 1000, (one + 2) % 1000], 1: [two]}, 0.5, 2),
        ({1: [wrong]}, 0.0, 1),
    ]:
        result = evaluate(model, source, real_labels=real_json(entries))
        assert (result.real_top1, result.real_examples) == (top1, count)
        assert json.loads(result.to_json())["real_top1"] == top1
        assert result.examples == 3
    right = np.array([300, 20, 300])
    assert result.top1 == pytest.approx(np.mean(numbers == right), abs=1e-6)


def test_images_that_are_not_of_the_validation_set(tiny_model, validation, real_json):
    model = tiny_model(num_classes=1000)
    path = real_json({4: [1]})
    lines = []
    source = validation(["ILSVRC2012_val_00000005", "other"], pattern="{}.JPEG")
    result = evaluate(model, source, real_labels=path, report=lines.append)
    assert result.real_examples == 1
    assert "1 of 2 examples are no images of ReaL's" in lines[0]
    with pytest.raises(ValueError, match=r"None of the 3 .* named ILSVRC2012_val_N+\.JPEG"):
        evaluate(model, validation(pattern="{}.JPEG"), real_labels=path)
    with pytest.raises(ValueError, match="no label for any of the 3 examples"):
        evaluate(model, validation(), real_labels=path)


def test_real_labels_of_a_model_for_other_classes(tiny_model, validation, real_json):
    path = real_json({6: [1]})
    two = tuple(validation().labels)
    for model in (tiny_model(num_classes=5), tiny_model(num_classes=2, labels=two)):
        with pytest.raises(ValueError, match="1000 classes of ImageNet, and the model has"):
            evaluate(model, validation(), real_labels=path)


def test_files_that_are_not_real_json(tmp_path, real_json):
    with pytest.raises(ValueError, match=r"holds 7 entries: give real\.json"):
        read_real_labels(real_json({}, length=7))
    for entry in (1000, -1, "3", True, 1.0):
        with pytest.raises(ValueError, match=r"Entry 12 of .* is "):
            read_real_labels(real_json({12: [0, entry]}))
    with pytest.raises(ValueError, match="Entry 0 of"):
        read_real_labels(real_json({0: 5}))
    path = tmp_path / "other.json"
    path.write_text('{"a": 1}')
    with pytest.raises(ValueError, match="holds no list"):
        read_real_labels(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not JSON"):
        read_real_labels(path)
    with pytest.raises(FileNotFoundError):
        read_real_labels(tmp_path / "none.json")
