"""Data sets of TFDS in both formats: orders, splits, damage."""

import functools
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from training.data import load_source, steps_per_epoch, tfds_readers
from training.data.records.pack import pack
from training.data.tfds_source import TfdsSource

COUNT = 60


class NumberedPictures(tfds.core.GeneratorBasedBuilder):
    """Pictures whose every pixel is the example's number, and whose class is its last bit."""

    VERSION = tfds.core.Version("1.0.0")
    SPLITS = {"train": COUNT, "test": 10}  # noqa: RUF012
    ORDERED = False

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(2, 2, 1), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=["even", "odd"]),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=self.ORDERED,
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(count) for split, count in self.SPLITS.items()}

    def _generate_examples(self, count):
        for number in range(count):
            label = -1 if number == self.unlabelled else number % 2
            yield number, {"image": np.full((2, 2, 1), number, np.uint8), "label": label}

    unlabelled = None


class NumberedUntested(NumberedPictures):
    """Without anything to test on."""

    SPLITS = {"train": COUNT}  # noqa: RUF012


class NumberedTestOnly(NumberedPictures):
    """To evaluate on, as ImageNet-V2."""

    SPLITS = {"test": 10}  # noqa: RUF012


class NumberedInOrder(NumberedUntested):
    """In the order of its source."""

    ORDERED = True


class NumberedUnlabelled(NumberedPictures):
    """With an example whose label is not known."""

    unlabelled = 41


def prepare(folder, builder_class=NumberedPictures, file_format="tfrecord"):
    """A builder whose set is prepared in four shards."""
    builder = builder_class(data_dir=str(folder), file_format=file_format)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=4))
    return builder


@pytest.fixture(params=["tfrecord", "array_record"])
def prepared(request, tmp_path):
    """A function that prepares a set in each format: builder class -> builder."""
    return functools.partial(prepare, tmp_path, file_format=request.param)


@pytest.fixture
def records(tmp_path):
    """As `prepared`, in TFRecords only."""
    return functools.partial(prepare, tmp_path)


def numbers(dataset):
    return [
        int(tf.io.decode_png(example["image_bytes"])[0, 0, 0]) if example["image_bytes"] else None
        for example in dataset.as_numpy_iterator()
    ]


def order(source, seed, start=0):
    return numbers(source.shuffled("train", tf.constant(seed, tf.int64), start))


# === Orders, in both formats ===


def test_every_example_comes_once_with_its_label_and_a_name_of_its_own(prepared):
    source = TfdsSource("numbered", prepared())
    assert source.splits == {"train": COUNT, "test": 10}
    examples = list(source.examples("train").as_numpy_iterator())
    assert sorted(numbers(source.examples("train"))) == list(range(COUNT))
    assert numbers(source.examples("train")) == numbers(source.examples("train"))
    assert len({example["name"] for example in examples}) == COUNT
    for example in examples:
        assert example["label"] == int(tf.io.decode_png(example["image_bytes"])[0, 0, 0]) % 2
        assert example["label"].dtype == np.int64


def test_shuffled_gives_every_example_once_and_starts_anywhere(prepared):
    source = TfdsSource("numbered", prepared())
    assert sorted(order(source, 1)) == list(range(COUNT))
    assert order(source, 1) == order(source, 1)
    assert order(source, 1) != order(source, 2)
    assert order(source, 1) != numbers(source.examples("train"))
    assert order(source, 1, 17) == order(source, 1, tf.constant(17, tf.int64))
    assert order(source, 1, 17) == order(source, 1)[17:]
    epochs = tf.data.Dataset.range(2).flat_map(lambda e: source.shuffled("train", e, 57 + e))
    assert numbers(epochs) == order(source, 0)[57:] + order(source, 1)[58:]


def test_a_set_beyond_the_buffer_is_mixed_over_all_its_shards(records, monkeypatch):
    monkeypatch.setattr(tfds_readers, "_SHUFFLE_BUFFER", 8)
    source = TfdsSource("numbered", records())
    shard_of = {
        example["name"]: example["name"].decode().split("-of-")[0][-1]
        for example in source.examples("train").as_numpy_iterator()
    }

    def shards(seed):
        dataset = source.shuffled("train", tf.constant(seed, tf.int64))
        return [shard_of[example["name"]] for example in dataset.as_numpy_iterator()]

    assert sorted(order(source, 1)) == list(range(COUNT))
    assert order(source, 1) == order(source, 1) != order(source, 2)
    assert set(shards(1)[:16]) == set("0123")
    assert order(source, 1, 30) == order(source, 1)[30:]


# === Splits ===


def test_a_set_without_a_test_split_keeps_its_last_tenth(prepared):
    lines = []
    source = TfdsSource("numbered", prepared(NumberedUntested), lines.append)
    assert source.splits == {"train": 54, "test": 6}
    train, test = numbers(source.examples("train")), numbers(source.examples("test"))
    assert sorted(train + test) == list(range(COUNT))
    assert sorted(order(source, 3)) == sorted(train)
    assert lines == [
        "numbered has nothing to test on: the last 6 of its 60 training examples are kept for "
        "testing."
    ]


def test_a_set_in_the_order_of_its_source_is_not_divided(records):
    with pytest.raises(ValueError, match="has the splits train, but train and test"):
        TfdsSource("numbered", records(NumberedInOrder))


def test_a_set_to_evaluate_on_needs_no_training_split(records):
    source = TfdsSource("numbered", records(NumberedTestOnly))
    assert source.splits == {"test": 10}
    assert sorted(numbers(source.examples("test"))) == list(range(10))
    with pytest.raises(ValueError, match="numbered has nothing to train on: it has the splits"):
        steps_per_epoch(source, 2)


# === Formats ===


def test_a_prepared_set_is_opened_by_its_name(prepared, tmp_path):
    prepared()
    source = load_source("tfds:numbered_pictures", data_dir=tmp_path)
    assert sorted(numbers(source.examples("test"))) == list(range(10))


def test_a_missing_package_is_named(records, monkeypatch):
    builder = records(file_format="array_record")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install array_record"):
        TfdsSource("numbered", builder)


def test_another_format_is_refused(records, monkeypatch):
    builder = records()
    monkeypatch.setattr(builder.info, "_file_format", None, raising=False)
    riegeli = tfds.core.file_adapters.FileFormat.RIEGELI
    monkeypatch.setattr(type(builder.info), "file_format", property(lambda info: riegeli))
    with pytest.raises(ValueError, match="prepared as riegeli, which cannot be read here"):
        TfdsSource("numbered", builder)


def test_a_set_can_be_packed(prepared, tmp_path):
    source = TfdsSource("numbered", prepared())
    pack(source, str(tmp_path / "packed"), shards=2)
    packed = load_source(f"records:{tmp_path}/packed")
    assert packed.labels == ("even", "odd")
    assert sorted(numbers(packed.examples("train"))) == list(range(COUNT))


# === Damage ===


def shard_file(builder):
    return Path(next(iter(builder.info.splits["train"].filepaths)))


def test_a_damaged_shard_gives_its_other_examples_and_names_for_the_rest(records):
    builder = records()
    file = shard_file(builder)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    source = TfdsSource("numbered", builder)
    for dataset in (source.examples("train"), source.shuffled("train", tf.constant(1, tf.int64))):
        examples = list(dataset.as_numpy_iterator())
        assert len(examples) == COUNT
        lost = {e["name"].decode() for e in examples if not e["image_bytes"]}
        assert 0 < len(lost) < builder.info.splits["train"].shard_lengths[0]
        assert all(name.startswith(file.name) for name in lost)
        assert len({e["name"] for e in examples}) == COUNT


def test_a_missing_shard_stops_with_its_name(records):
    builder = records()
    source = TfdsSource("numbered", builder)
    shard_file(builder).unlink()
    with (
        pytest.raises(ValueError, match=f"{shard_file(builder).name} is missing: copy it back"),
        source.damage.explained(),
    ):
        numbers(source.examples("train"))


def test_a_label_that_is_no_class_stops_with_its_name(prepared):
    source = TfdsSource("numbered", prepared(NumberedUnlabelled))
    message = r"The example \S+__\d+ of numbered has the label -1, which is not in 0 … 1"
    with pytest.raises(ValueError, match=message), source.damage.explained():
        numbers(source.examples("train"))
