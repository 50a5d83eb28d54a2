"""The batches that are made of any source."""

import numpy as np
import pytest
import tensorflow as tf

from keras_vit import Preprocessing
from training.augmentation.config import Augmentation
from training.data import (
    Share,
    evaluation_batches,
    load_source,
    steps_per_epoch,
    training_batches,
    validation_batches,
)
from training.data.source import DataSource


class NumberedSource(DataSource):
    """Pictures of one colour each, whose red channel is the example's number."""

    def __init__(self, count=24, num_classes=3):
        self.spec = "numbered"
        self.labels = tuple("abcdefgh"[:num_classes])
        self.splits = {"train": count, "test": count - 1}

    def examples(self, split):
        return self._read(tf.data.Dataset.range(self.splits[split]))

    def shuffled(self, split, seed, start=0):
        order = tf.random.experimental.stateless_shuffle(
            tf.range(self.splits[split], dtype=tf.int64), tf.stack([seed, 0])
        )
        return self._read(tf.data.Dataset.from_tensor_slices(order[start:]))

    def _read(self, numbers):
        red = tf.constant([1, 0, 0], tf.int64)
        return numbers.map(
            lambda number: {
                "image_bytes": tf.io.encode_png(tf.cast(tf.fill([4, 4, 1], number) * red, "uint8")),
                "label": number % len(self.labels),
                "name": tf.strings.as_string(number),
            }
        )


# Pixels come out as they are.
PLAIN = Preprocessing(4, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), crop_fraction=1.0)


def numbers(images, weights):
    return np.round(images[weights > 0][:, 0, 0, 0] * 255).astype(int).tolist()


def batches_of(source, augmentation=None, preprocessing=PLAIN, **options):
    options = {"batch_size": 8, "seed": 0, "epochs": 1} | options
    augmentation = augmentation or Augmentation()
    return list(
        training_batches(source, preprocessing, augmentation, **options).as_numpy_iterator()
    )


@pytest.fixture(scope="module")
def digits(embedded_data):
    return load_source("digits")


# === Training batches ===


def test_an_epoch_has_every_example_once_and_the_targets_follow():
    batches = batches_of(NumberedSource())
    assert len(batches) == 3
    seen = [number for images, _, weights in batches for number in numbers(images, weights)]
    assert sorted(seen) == list(range(24))
    for images, targets, weights in batches:
        assert images.dtype == targets.dtype == weights.dtype == np.float32
        expected = np.eye(3)[[n % 3 for n in numbers(images, weights)]]
        np.testing.assert_array_equal(targets, expected)


def test_digits_give_every_example_once_in_an_epoch(digits):
    preprocessing = PLAIN.replace(image_size=8)
    batches = batches_of(digits, preprocessing=preprocessing, batch_size=479)
    assert len(batches) == 3  # 1437 = 3 x 479
    seen = sorted(image.tobytes() for images, _, _ in batches for image in images)
    expected = evaluation_batches(digits, "train", preprocessing, batch_size=479)
    assert seen == sorted(image.tobytes() for images, _ in expected for image in images.numpy())


def test_the_last_batch_of_an_epoch_is_filled_up_with_blanks():
    source = NumberedSource()
    batches = batches_of(source, batch_size=7, epochs=2)
    assert steps_per_epoch(source, 7) == 4
    assert [len(images) for images, _, _ in batches] == [7] * 8
    assert [weights.sum() for _, _, weights in batches] == [7, 7, 7, 3] * 2
    for epoch in (batches[:4], batches[4:]):
        seen = [number for images, _, weights in epoch for number in numbers(images, weights)]
        assert sorted(seen) == list(range(24))
    images, targets, weights = batches[3]
    assert not images[weights == 0].any()
    assert not targets[weights == 0].any()


def test_epochs_and_seeds_differ_in_their_order():
    orders = [
        tuple(number for images, _, weights in batches for number in numbers(images, weights))
        for seed in (0, 1)
        for epochs in [batches_of(NumberedSource(), seed=seed, epochs=3)]
        for batches in (epochs[:3], epochs[3:6], epochs[6:])
    ]
    assert len(set(orders)) == 6


def test_repeated_augmentation_sees_fewer_images_more_often():
    source = NumberedSource()
    augmentation = Augmentation(repeats=3)
    batches = batches_of(source, augmentation)
    seen = [number for images, _, weights in batches for number in numbers(images, weights)]
    assert len(seen) == 24
    assert sorted(np.unique(seen, return_counts=True)[1]) == [3] * 8
    resumed = batches_of(source, augmentation, start_step=1)
    assert [numbers(i, w) for i, _, w in resumed] == [numbers(i, w) for i, _, w in batches[1:]]


RANDOM = Augmentation(crop="shift", randaugment_layers=1, mixup=0.5)
UNEVEN = NumberedSource(50)


@pytest.fixture(scope="module")
def three_epochs():
    """Three epochs with every kind of change: 3 x 3 batches, of which each third is filled up."""
    return batches_of(UNEVEN, RANDOM, Preprocessing(8), batch_size=20, epochs=3)


def assert_equal_batches(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(("epoch", "step"), [(2, 0), (1, 1), (1, 2)])
def test_a_resumed_run_sees_what_is_left_bit_for_bit(three_epochs, epoch, step):
    resumed = batches_of(
        UNEVEN,
        RANDOM,
        Preprocessing(8),
        batch_size=20,
        epochs=3,
        start_epoch=epoch,
        start_step=step,
    )
    assert_equal_batches(resumed, three_epochs[3 * epoch + step :])


TIMM = Augmentation(mixup_kind="timm", mixup=0.8, cutmix=1.0)


@pytest.mark.parametrize(
    ("augmentation", "batch_size", "count"),
    [(Augmentation(), 20, 2), (RANDOM, 18, 2), (TIMM, 36, 2), (TIMM, 27, 3)],
)
def test_the_shares_of_several_processes_are_parts_of_what_one_sees(
    augmentation, batch_size, count
):
    options = {"preprocessing": Preprocessing(8), "batch_size": batch_size, "epochs": 2}
    whole = batches_of(UNEVEN, augmentation, **options)
    shares = [
        batches_of(UNEVEN, augmentation, share=Share(index, count), **options)
        for index in range(count)
    ]
    joined = [
        tuple(np.concatenate(parts) for parts in zip(*batches, strict=True))
        for batches in zip(*shares, strict=True)
    ]
    for ours, theirs in zip(joined, whole, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


class DamagedSource(NumberedSource):
    """Of which one picture is none."""

    def _read(self, numbers):
        def damaged(example):
            bad = tf.equal(example["name"], "5")
            return {**example, "image_bytes": tf.where(bad, "no image", example["image_bytes"])}

        return super()._read(numbers).map(damaged)


@pytest.mark.parametrize("augmentation", [Augmentation(mixup=0.5), TIMM])
@pytest.mark.parametrize("count", [1, 2])
def test_what_cannot_be_decoded_is_blank_and_mixes_with_nothing(augmentation, count, capsys):
    source = DamagedSource()
    lost = 0
    for index in range(count):
        for images, targets, weights in batches_of(source, augmentation, share=Share(index, count)):
            np.testing.assert_allclose(targets.sum(axis=1), weights, atol=1e-6)
            assert not images[weights == 0].any()
            lost += (weights == 0).sum()
    assert lost == 1
    assert "5 is left out" in capsys.readouterr().out


def test_a_batch_that_the_workers_cannot_share_is_refused():
    with pytest.raises(ValueError, match="batch_size=8 is not a multiple of the 3 workers"):
        batches_of(NumberedSource(), share=Share(0, 3))


def test_each_batch_is_mixed_by_a_share_of_its_own(three_epochs):
    largest = {float(targets.max()) for _, targets, _ in three_epochs if targets.max() < 1}
    shares = {float(np.sort(np.unique(targets))[-2]) for _, targets, _ in three_epochs}
    assert len(largest | shares) >= 6
    for _, targets, weights in three_epochs:
        np.testing.assert_allclose(targets.sum(axis=1), weights, atol=1e-5)


def test_the_same_picture_changes_from_place_to_place_and_from_epoch_to_epoch():
    source = NumberedSource(8)
    source._read = lambda order: order.map(
        lambda number: {
            "image_bytes": tf.io.encode_png(
                tf.cast(tf.reshape(tf.range(27 * 27 * 3) % 251, [27, 27, 3]), tf.uint8)
            ),
            "label": tf.constant(0, tf.int64),
            "name": "same",
        }
    )
    augmentation = Augmentation(crop="inception")
    batches = batches_of(source, augmentation, Preprocessing(9), epochs=2)
    pictures = {image.tobytes() for images, _, _ in batches for image in images}
    assert len(pictures) == 16


def test_a_run_that_is_done_has_no_batches_left():
    assert batches_of(NumberedSource(), epochs=2, start_epoch=2) == []


@pytest.mark.parametrize("function", [steps_per_epoch, batches_of])
def test_a_batch_that_is_larger_than_the_training_split_is_refused(function):
    with pytest.raises(ValueError, match=r"batch_size=25 is more than the 24 training images"):
        function(NumberedSource(), batch_size=25)


def test_a_batch_may_be_the_whole_training_split():
    assert [len(images) for images, _, _ in batches_of(NumberedSource(), batch_size=24)] == [24]


# === Evaluation batches ===


def test_evaluation_sees_every_example_once_in_order_with_the_tail():
    batches = list(evaluation_batches(NumberedSource(), "test", PLAIN, batch_size=10))
    assert [len(labels) for _, labels in batches] == [10, 10, 3]
    seen = [n for images, _ in batches for n in numbers(images.numpy(), np.ones(len(images)))]
    assert seen == list(range(23))
    assert [int(label) for _, labels in batches for label in labels] == [n % 3 for n in range(23)]


def test_evaluation_gives_the_images_of_the_preprocessing(digits):
    preprocessing = Preprocessing(8, mean=(0.1, 0.2, 0.3))
    images, _ = next(iter(evaluation_batches(digits, "test", preprocessing, batch_size=5)))
    for image, example in zip(images, digits.examples("test"), strict=False):
        np.testing.assert_array_equal(image, preprocessing(example["image_bytes"]))


@pytest.mark.parametrize("count", [1, 2])
def test_validation_batches_have_one_size_and_every_example_once(count):
    source = NumberedSource()
    shares = [
        list(
            validation_batches(
                source, "test", PLAIN, batch_size=10, share=Share(index, count)
            ).as_numpy_iterator()
        )
        for index in range(count)
    ]
    assert all(len(images) == 10 // count for share in shares for images, _, _ in share)
    seen = [
        number
        for batches in zip(*shares, strict=True)
        for images, _, weights in batches
        for number in numbers(images, weights)
    ]
    assert seen == list(range(23))
