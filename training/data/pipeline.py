"""tf.data pipelines: examples to batches, the same ones for the same seed."""

from __future__ import annotations

import tensorflow as tf

from keras_vit import Preprocessing
from training.augmentation.augment import augment_image, mixup
from training.augmentation.config import Augmentation
from training.data.source import DataSource

# Keeps the seeds of one run's epochs apart from those of a run with the next seed.
_EPOCH_STRIDE = 1_000_003


def steps_per_epoch(source: DataSource, batch_size: int) -> int:
    """Full batches in the training split.

    Args:
        source: the data.
        batch_size: images in a step.

    Returns:
        The number of steps; the tail that does not fill a batch waits for another epoch's order.

    Raises:
        ValueError: if there is not one full batch.

    Example:
        >>> from training.data import load_source
        >>> steps_per_epoch(load_source("digits"), 64)
        22
    """
    count = source.splits["train"]
    if batch_size > count:
        raise ValueError(
            f"batch_size={batch_size} is more than the {count} training images of {source.spec}: "
            f"choose {count} or less."
        )
    return count // batch_size


def training_batches(
    source: DataSource,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    *,
    batch_size: int,
    seed: int,
    epochs: int,
    start_epoch: int = 0,
) -> tf.data.Dataset:
    """Shuffled and augmented batches of the epochs that are left.

    Order and augmentation depend on the seed, the epoch and the place in it, and on nothing else:
    a run that goes on at epoch 7 sees what an uninterrupted one sees there.

    Args:
        source: the data.
        preprocessing: the evaluation transform.
        augmentation: the random changes.
        batch_size: images in a step, over all replicas.
        seed: of the run.
        epochs: of the whole run.
        start_epoch: epochs that are done already. Default 0.

    Returns:
        A data set of (images float32 [B, H, W, 3], targets float32 [B, num_classes]), with
        `steps_per_epoch` batches for each epoch.

    Raises:
        ValueError: if the batch size is more than the training split.

    Example:
        >>> from training.data import load_source
        >>> batches = training_batches(load_source("digits"), Preprocessing(8), Augmentation(),
        ...                            batch_size=64, seed=0, epochs=1)
        >>> [tuple(spec.shape) for spec in batches.element_spec]
        [(64, 8, 8, 3), (64, 10)]
    """
    steps_per_epoch(source, batch_size)
    num_classes = len(source.labels)

    def epoch_batches(epoch: tf.Tensor) -> tf.data.Dataset:
        epoch_seed = tf.constant(seed, tf.int64) + _EPOCH_STRIDE * epoch

        def augmented(place: tf.Tensor, example: dict) -> tuple[tf.Tensor, tf.Tensor]:
            image = augment_image(
                example["image_bytes"], tf.stack([epoch_seed, place]), preprocessing, augmentation
            )
            return image, tf.one_hot(example["label"], num_classes)

        def mixed(place: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor]) -> tuple:
            # Negative places: the images of the epoch have used the others.
            return mixup(*batch, tf.stack([epoch_seed, -1 - place]), augmentation.mixup)

        batches = (
            source.shuffled("train", epoch_seed)
            .enumerate()
            .map(augmented, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            .batch(batch_size, drop_remainder=True)
        )
        if augmentation.mixup:
            batches = batches.enumerate().map(lambda place, batch: mixed(place, batch))
        return batches

    dataset = tf.data.Dataset.range(start_epoch, epochs).flat_map(epoch_batches)
    return dataset.prefetch(tf.data.AUTOTUNE).with_options(_options())


def evaluation_batches(
    source: DataSource, split: str, preprocessing: Preprocessing, *, batch_size: int
) -> tf.data.Dataset:
    """Every example of a split exactly once, in order.

    Args:
        source: the data.
        split: one of `source.splits`.
        preprocessing: the evaluation transform.
        batch_size: images in a step; the last batch may hold fewer.

    Returns:
        A data set of (images float32 [b, H, W, 3], labels int64 [b]).

    Example:
        >>> from training.data import load_source
        >>> batches = evaluation_batches(load_source("digits"), "test", Preprocessing(8),
        ...                              batch_size=100)
        >>> [len(labels) for _, labels in batches]
        [100, 100, 100, 60]
    """
    return (
        source.examples(split)
        .map(
            lambda example: (preprocessing(example["image_bytes"]), example["label"]),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        .batch(batch_size)
        .prefetch(tf.data.AUTOTUNE)
        .with_options(_options())
    )


def _options() -> tf.data.Options:
    options = tf.data.Options()
    # Several workers share the examples of each batch, not the files.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return options
