"""tf.data pipelines: examples to batches, the same ones for the same seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_vit import Preprocessing
from training.augmentation.augment import augment_image
from training.augmentation.config import Augmentation
from training.augmentation.mixing import mix_batch
from training.data.as_written import as_written
from training.data.source import DataSource

# Keeps the seeds of one run's epochs apart from those of a run with the next seed.
_EPOCH_STRIDE = 1_000_003
# In the place of a label; -1 is what sets without labels have.
_UNUSABLE = -2


@dataclasses.dataclass(frozen=True)
class Share:
    """The part of every batch that one process loads.

    Args:
        index: of the process, from 0.
        count: of the processes.
    """

    index: int = 0
    count: int = 1


def steps_per_epoch(source: DataSource, batch_size: int) -> int:
    """Batches in an epoch, the last of them filled up.

    Args:
        source: the data.
        batch_size: images in a step.

    Returns:
        The number of steps.

    Raises:
        ValueError: if there is not one full batch, or no training split.

    Example:
        >>> from training.data import load_source
        >>> steps_per_epoch(load_source("digits"), 64)
        23
    """
    count = source.training_examples
    if batch_size > count:
        raise ValueError(
            f"batch_size={batch_size} is more than the {count} training images of {source.spec}: "
            f"choose {count} or less."
        )
    return -(-count // batch_size)


@as_written
def training_batches(
    source: DataSource,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    *,
    batch_size: int,
    seed: int,
    epochs: int,
    start_epoch: int = 0,
    start_step: int = 0,
    share: Share | None = None,
) -> tf.data.Dataset:
    """Shuffled and augmented batches of the epochs that are left.

    Order and augmentation depend on the seed, the epoch and the place in it, and on nothing else:
    a run that goes on at epoch 7, step 30, sees what an uninterrupted one sees there, and the
    shares of several processes are the parts of what one process sees.

    Args:
        source: the data.
        preprocessing: the evaluation transform.
        augmentation: the random changes.
        batch_size: images in a step, over all replicas and processes.
        seed: of the run.
        epochs: of the whole run.
        start_epoch: epochs that are done already. Default 0.
        start_step: steps of the next epoch that are done already. Default 0.
        share: the part of each batch to load. Default None: all of it.

    Returns:
        A data set of (images float32 [P, H, W, 3], targets float32 [P, num_classes], weights
        float32 [P]), P = batch_size / share.count, with `steps_per_epoch` batches for each epoch.
        The weight of an example is 1; the last batch is filled up with blank ones of weight 0.

    Raises:
        ValueError: if the batch size is more than the training split, or no multiple of the shares.

    Example:
        >>> from training.data import load_source
        >>> batches = training_batches(load_source("digits"), Preprocessing(8), Augmentation(),
        ...                            batch_size=64, seed=0, epochs=1)
        >>> [tuple(spec.shape) for spec in batches.element_spec]
        [(64, 8, 8, 3), (64, 10), (64,)]
    """
    share = share or Share()
    steps = steps_per_epoch(source, batch_size)
    own = _own_size(batch_size, share)
    num_classes = len(source.labels)
    blank = (tf.zeros(preprocessing.output_shape), tf.zeros([num_classes]), tf.zeros([]))
    before, after = _partners(augmentation, batch_size, share)

    def epoch_batches(epoch: tf.Tensor) -> tf.data.Dataset:
        epoch_seed = tf.constant(seed, tf.int64) + _EPOCH_STRIDE * epoch
        first = tf.where(epoch == start_epoch, tf.constant(start_step, tf.int64), 0)

        def augmented(place: tf.Tensor, example: dict) -> tuple[tf.Tensor, ...]:
            image = _unless_blank(
                example,
                lambda: augment_image(
                    example["image_bytes"],
                    tf.stack([epoch_seed, place]),
                    preprocessing,
                    augmentation,
                ),
                preprocessing,
            )
            target = tf.one_hot(example["label"], num_classes) * example["weight"]
            return image, target, example["weight"]

        def mixed(step: tf.Tensor, batch: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
            images, targets, weights = batch
            # Negative places: the images of the epoch have used the others.
            seed_here = tf.stack([epoch_seed, -1 - step])

            def all_of_them() -> tuple[tf.Tensor, ...]:
                return mix_batch(images, targets, seed_here, augmentation)

            def the_others() -> tuple[tf.Tensor, ...]:
                # Blank ones fill up the last batch, or stand where one could not be decoded.
                places = tf.where(weights > 0)  # [V, 1]
                parts = mix_batch(
                    tf.gather_nd(images, places),
                    tf.gather_nd(targets, places),
                    seed_here,
                    augmentation,
                )
                return tuple(
                    tf.tensor_scatter_nd_update(whole, places, part)
                    for whole, part in zip((images, targets), parts, strict=True)
                )

            parts = tf.cond(tf.reduce_all(weights > 0), all_of_them, the_others)
            images, targets = (
                tf.ensure_shape(part[before : before + own], (own, *part.shape[1:]))
                for part in parts
            )
            return images, targets, weights[before : before + own]

        examples = _repeated(source, epoch_seed, first * batch_size, augmentation.repeats)
        batches = _decoded(
            source,
            _shared(_filled(examples, steps * batch_size), first, batch_size, share, before, after),
            augmented,
            blank,
        ).batch(before + own + after, drop_remainder=True)
        if augmentation.mixup or augmentation.cutmix:
            batches = batches.enumerate(first).map(mixed)
        return batches.take(steps - first)

    dataset = tf.data.Dataset.range(start_epoch, epochs).flat_map(epoch_batches)
    return dataset.prefetch(tf.data.AUTOTUNE).with_options(_options())


@as_written
def validation_batches(
    source: DataSource,
    split: str,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    share: Share | None = None,
) -> tf.data.Dataset:
    """Every example of a split exactly once, in order, in batches of one size.

    Args:
        source: the data.
        split: one of `source.splits`.
        preprocessing: the evaluation transform.
        batch_size: images in a step, over all replicas and processes.
        share: the part of each batch to load. Default None: all of it.

    Returns:
        As `training_batches`.

    Example:
        >>> from training.data import load_source
        >>> batches = validation_batches(load_source("digits"), "test", Preprocessing(8),
        ...                              batch_size=100)
        >>> [int(tf.reduce_sum(weights)) for _, _, weights in batches]
        [100, 100, 100, 60]
    """
    share = share or Share()
    own = _own_size(batch_size, share)
    num_classes = len(source.labels)
    steps = -(-source.splits[split] // batch_size)

    def prepared(_: tf.Tensor, example: dict) -> tuple[tf.Tensor, ...]:
        image = _unless_blank(example, lambda: preprocessing(example["image_bytes"]), preprocessing)
        return image, tf.one_hot(example["label"], num_classes), example["weight"]

    filled = _filled(source.examples(split), steps * batch_size)
    shared = _shared(filled, tf.constant(0, tf.int64), batch_size, share)
    blank = (tf.zeros(preprocessing.output_shape), tf.zeros([num_classes]), tf.zeros([]))
    return (
        _decoded(source, shared, prepared, blank)
        .batch(own, drop_remainder=True)
        .take(steps)
        .prefetch(tf.data.AUTOTUNE)
        .with_options(_options())
    )


@as_written
def evaluation_batches(
    source: DataSource,
    split: str,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    encoded: bool = False,
) -> tf.data.Dataset:
    """Every example of a split exactly once, in order.

    Args:
        source: the data.
        split: one of `source.splits`.
        preprocessing: the evaluation transform.
        batch_size: images in a step; the last batch may hold fewer.
        encoded: whether batches also hold what the images were made from. Default False.

    Returns:
        A data set of (images float32 [b, H, W, 3], labels int64 [b]), with `encoded` also (names
        string [b], image bytes string [b]). Examples that cannot be decoded are left out, see
        `DataSource.damage`.

    Example:
        >>> from training.data import load_source
        >>> batches = evaluation_batches(load_source("digits"), "test", Preprocessing(8),
        ...                              batch_size=100)
        >>> [len(labels) for _, labels in batches]
        [100, 100, 100, 60]
    """

    def prepared(example: dict) -> tuple[tf.Tensor, ...]:
        image, label = preprocessing(example["image_bytes"]), example["label"]
        return (
            (image, label, example["name"], example["image_bytes"]) if encoded else (image, label)
        )

    nothing = (tf.constant(""),) * 2 if encoded else ()
    blank = (tf.zeros(preprocessing.output_shape), tf.constant(_UNUSABLE, tf.int64), *nothing)
    return (
        _decoded(source, source.examples(split), prepared, blank)
        .filter(lambda image, label, *_: label != _UNUSABLE)
        .batch(batch_size)
        .prefetch(tf.data.AUTOTUNE)
        .with_options(_options())
    )


# === Steps of the pipelines ===


def _own_size(batch_size: int, share: Share) -> int:
    if batch_size % share.count:
        raise ValueError(
            f"batch_size={batch_size} is not a multiple of the {share.count} workers: each must "
            f"get the same share of every batch."
        )
    return batch_size // share.count


def _partners(augmentation: Augmentation, batch_size: int, share: Share) -> tuple[int, int]:
    """How many examples before and after a share are blended with some of its own."""
    if share.count == 1 or not (augmentation.mixup or augmentation.cutmix):
        return 0, 0
    if augmentation.mixup_kind == "big_vision":  # each with the neighbour before
        return 1, 0
    own = batch_size // share.count
    begin, end = share.index * own, (share.index + 1) * own
    return begin % 2, int(end % 2 == 1 and end < batch_size)  # in pairs


def _repeated(
    source: DataSource, seed: tf.Tensor, start: tf.Tensor, repeats: int
) -> tf.data.Dataset:
    """The training examples of an epoch from `start` on, each `repeats` times in a row.

    With repeats an epoch still has as many examples, but fewer different ones (repeated
    augmentation, Hoffer et al., 2020, as in DeiT).
    """
    if repeats == 1:
        return source.shuffled("train", seed, start)
    examples = source.shuffled("train", seed, start // repeats)
    copies = examples.flat_map(lambda e: tf.data.Dataset.from_tensors(e).repeat(repeats))
    return copies.skip(start % repeats).take(source.splits["train"] - start)


def _filled(examples: tf.data.Dataset, size: int) -> tf.data.Dataset:
    """The examples with weight 1, then blank ones with weight 0: at least `size` in all."""

    def weighted(example: dict) -> dict:
        return {**example, "weight": tf.constant(1.0)}

    blank = {
        name: tf.constant("") if spec.dtype == tf.string else tf.zeros(spec.shape, spec.dtype)
        for name, spec in examples.element_spec.items()
    }
    blanks = tf.data.Dataset.from_tensors({**blank, "weight": tf.constant(0.0)}).repeat(size)
    return examples.map(weighted).concatenate(blanks)


def _shared(
    examples: tf.data.Dataset,
    first_step: tf.Tensor,
    batch_size: int,
    share: Share,
    before: int = 0,
    after: int = 0,
) -> tf.data.Dataset:
    """The examples of one share, with their places in the epoch, before anything is decoded.

    Args:
        examples: from the first of a batch on; dictionaries with a `weight`.
        first_step: the number of that batch.
        batch_size: of the whole batch.
        share: which part.
        before: 1 to put the neighbour before the share in front of it. Default 0.
        after: 1 to put the neighbour after the share behind it. Default 0.

    Returns:
        A data set of (place int64, example).
    """
    placed = examples.enumerate(first_step * batch_size)
    if share.count == 1:
        return placed
    own = batch_size // share.count

    def pick(places: tf.Tensor, batch: dict) -> tf.data.Dataset:
        indices = share.index * own + tf.range(own + after)
        if before:
            count = tf.maximum(tf.cast(tf.reduce_sum(batch["weight"]), tf.int32), 1)
            neighbour = tf.math.floormod(share.index * own - 1, count)
            indices = tf.concat([[neighbour], indices], axis=0)
        picked = tf.nest.map_structure(lambda part: tf.gather(part, indices), (places, batch))
        return tf.data.Dataset.from_tensor_slices(picked)

    return placed.batch(batch_size, drop_remainder=True).flat_map(pick)


def _decoded(
    source: DataSource,
    examples: tf.data.Dataset,
    decode: Callable[..., tuple[tf.Tensor, ...]],
    blank: tuple[tf.Tensor, ...],
) -> tf.data.Dataset:
    """Map a function that decodes; what it fails for becomes blank, is named and counted."""
    if source.is_checked:
        return examples.map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return source.damage.guarded(examples, decode, lambda *_: blank)


def _unless_blank(example: dict, image: Any, preprocessing: Preprocessing) -> tf.Tensor:
    """The image of an example; zeros for one that only fills up a batch."""
    shape = preprocessing.output_shape
    pixels = tf.cond(example["weight"] > 0, image, lambda: tf.zeros(shape))
    return tf.ensure_shape(pixels, shape)


def _options() -> tf.data.Options:
    options = tf.data.Options()
    # Each process makes its own share; there is nothing left to shard.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return options
