"""The TFDS sources."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_vit import Preprocessing
from training.data import (
    evaluation_batches,
    load_source,
    tfds_source,
)
from training.data.digits import Digits
from training.data.tfds_source import TfdsSource, open_tfds

# === Digits ===


@pytest.fixture(scope="module")
def digits(embedded_data):
    return load_source("digits")


def test_digits_have_their_splits_and_classes(digits):
    assert digits.splits == {"train": 1437, "test": 360}
    assert digits.labels == tuple("0123456789")


def test_digits_are_those_of_scikit_learn_in_two_disjoint_stratified_splits(digits):
    from sklearn.datasets import load_digits

    found, counts = {}, {}
    for split in ("train", "test"):
        examples = list(digits.examples(split).as_numpy_iterator())
        counts[split] = np.bincount([example["label"] for example in examples], minlength=10)
        found[split] = sorted(
            (tf.io.decode_png(example["image_bytes"]).numpy().tobytes(), int(example["label"]))
            for example in examples
        )
    original = load_digits()
    pixels = np.round(original.images * 255 / 16).astype(np.uint8)
    expected = sorted(
        (image.tobytes(), int(label)) for image, label in zip(pixels, original.target, strict=True)
    )
    # Each of the 1797 examples is in one split, once: together they are the whole set.
    assert sorted(found["train"] + found["test"]) == expected
    proportional = np.bincount(original.target) * 360 / 1797
    assert np.abs(counts["test"] - proportional).max() <= 1


def test_an_example_of_digits_is_an_undecoded_png_with_a_name(digits):
    examples = list(digits.examples("test").take(20).as_numpy_iterator())
    for example in examples:
        assert example["image_bytes"].startswith(b"\x89PNG")
        assert tf.io.decode_png(example["image_bytes"]).shape == (8, 8, 1)
        assert example["label"].dtype == np.int64
    assert len({example["name"] for example in examples}) == 20


def test_a_tfds_source_shuffles_by_the_seed(digits):
    def names(seed):
        dataset = digits.shuffled("test", tf.constant(seed, tf.int64))
        return next(dataset.batch(360).as_numpy_iterator())["name"].tolist()

    first, again, other = names(0), names(0), names(1)
    in_order = next(digits.examples("test").batch(360).as_numpy_iterator())["name"].tolist()
    assert first == again
    assert first != other
    assert first != in_order
    assert sorted(first) == sorted(in_order)


@pytest.mark.slow
def test_two_processes_may_prepare_digits_at_the_same_time(tmp_path):
    code = "import sys; from training.data import load_source; "
    code += "print(load_source('digits', data_dir=sys.argv[1]).splits)"
    root = Path(__file__).parents[2]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "data")],
            cwd=root,
            env=os.environ | {"PYTHONPATH": str(root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        out, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
        assert "{'train': 1437, 'test': 360}" in out


def test_digits_that_another_process_prepares_while_one_waits_are_opened(tmp_path, monkeypatch):
    wait = tfds_source._one_at_a_time

    @contextlib.contextmanager
    def wait_long(directory):
        with wait(directory):
            Digits(data_dir=str(tmp_path)).download_and_prepare()
            yield

    monkeypatch.setattr(tfds_source, "_one_at_a_time", wait_long)
    assert load_source("digits", data_dir=tmp_path).splits == {"train": 1437, "test": 360}


# === Other specs ===


@pytest.mark.parametrize("spec", ["", "digit", "digits:", "folder:", "tfds:", "photos", "http://x"])
def test_an_unknown_spec_is_refused_with_the_known_ones(spec):
    with pytest.raises(ValueError, match="give digits, folder:PATH or tfds:NAME") as error:
        load_source(spec)
    assert repr(spec) in str(error.value)


def test_an_unknown_tfds_name_suggests_the_nearest(tmp_path):
    with pytest.raises(ValueError, match=r"no data set 'mnits'.* Did you mean .*mnist"):
        load_source("tfds:mnits", data_dir=tmp_path)


# === Any TFDS data set ===


# Pixels come out as they are.
PLAIN = Preprocessing(4, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), crop_fraction=1.0)


class _TinyBuilder(tfds.core.GeneratorBasedBuilder):
    """What the data sets of these tests share."""

    VERSION = tfds.core.Version("1.0.0")
    SPLITS = {"train": 6, "test": 2}  # noqa: RUF012
    FEATURES = staticmethod(
        lambda: {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=["dark", "light"]),
        }
    )

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(self.FEATURES())
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(count) for split, count in self.SPLITS.items()}

    def _generate_examples(self, count):
        for i in range(count):
            image = np.full((5 + i, 7, 3), 200 * (i % 2), np.uint8)
            example = {"image": image, "label": i % 2, "text": "words"}
            yield i, {name: example[name] for name in self.FEATURES()}


class TinyLights(_TinyBuilder):
    """Dark and light pictures."""


class TinyLightsValidated(_TinyBuilder):
    """With a validation split in the place of a test split."""

    SPLITS = {"train": 4, "validation": 3}  # noqa: RUF012


class TinyLightsUntested(_TinyBuilder):
    """Without anything to test on."""

    SPLITS = {"train": 4}  # noqa: RUF012


class TinyLightsSecret(_TinyBuilder):
    """A test split without labels, as ImageNet has."""

    SPLITS = {"train": 4, "validation": 3, "test": 5}  # noqa: RUF012

    def _generate_examples(self, count):
        for i, example in super()._generate_examples(count):
            yield i, example | ({"label": -1} if count == self.SPLITS["test"] else {})


class TinyLightsByHand(_TinyBuilder):
    """Files that only a person may fetch, as ImageNet's."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = "post an order to the archive"

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(len(list(dl_manager.manual_dir.iterdir())))}


class TinyTexts(_TinyBuilder):
    """Not an image classification set."""

    FEATURES = staticmethod(
        lambda: {
            "text": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=["dark", "light"]),
        }
    )


class TinyUnlabelled(_TinyBuilder):
    """Labels that are mere numbers."""

    FEATURES = staticmethod(
        lambda: {"image": tfds.features.Image(shape=(None, None, 3)), "label": np.int64}
    )


def test_a_tfds_data_set_is_prepared_and_opened_by_its_name(tmp_path):
    source = load_source("tfds:tiny_lights", data_dir=tmp_path)
    assert source.spec == "tfds:tiny_lights"
    assert source.labels == ("dark", "light")
    assert source.splits == {"train": 6, "test": 2}
    labels = [int(example["label"]) for example in source.examples("train").as_numpy_iterator()]
    assert sorted(labels) == [0, 0, 0, 1, 1, 1]
    for images, labels in evaluation_batches(source, "train", PLAIN, batch_size=4):
        np.testing.assert_allclose(images[:, 0, 0, 0], labels.numpy() * 200 / 255, atol=1e-6)


def test_a_prepared_tfds_data_set_is_opened_without_writing(tmp_path):
    open_tfds("tiny_lights", tmp_path)
    for lock in tmp_path.rglob("*.lock"):
        lock.unlink()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert open_tfds("tiny_lights", tmp_path).splits == {"train": 6, "test": 2}
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_validation_split_stands_in_for_a_missing_test_split(tmp_path):
    source = open_tfds("tiny_lights_validated", tmp_path)
    assert source.splits["test"] == 3
    assert len(list(source.examples("test"))) == 3


def test_the_last_tenth_stands_in_for_a_missing_test_split(tmp_path):
    reported = []
    source = open_tfds("tiny_lights_untested", tmp_path, reported.append)
    names = {
        split: {bytes(e["name"]) for e in source.examples(split).as_numpy_iterator()}
        for split in ("train", "test")
    }
    assert [len(names[split]) for split in ("train", "test")] == [3, 1]
    assert not names["train"] & names["test"]
    assert len(reported) == 1


def test_a_test_split_with_secret_labels_gives_way_to_the_validation_split(tmp_path):
    source = open_tfds("tiny_lights_secret", tmp_path)
    assert source.splits["test"] == 3
    labels = {int(example["label"]) for example in source.examples("test").as_numpy_iterator()}
    assert labels == {0, 1}


def test_a_tfds_data_set_to_be_fetched_by_hand_says_how(tmp_path):
    with pytest.raises(ValueError, match=r"not prepared in .*\spost an order to the archive"):
        load_source("tfds:tiny_lights_by_hand", data_dir=tmp_path)


@pytest.mark.parametrize("builder_class", [TinyTexts, TinyUnlabelled])
def test_a_tfds_data_set_without_image_and_class_label_is_refused(builder_class, tmp_path):
    builder = builder_class(data_dir=str(tmp_path))
    with pytest.raises(ValueError, match="tiny is not an image classification set") as error:
        TfdsSource("tiny", builder)
    assert ", ".join(builder.info.features) in str(error.value)
