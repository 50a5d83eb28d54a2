"""The vectors that a model makes of images, its weights as they are."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_vit import VisionTransformer
from training.data import DataSource, evaluation_batches
from training.evaluation.accuracy import check_split
from training.evaluation.progress import with_progress
from training.streams import in_streams, streams_of_batch


class Features(NamedTuple):
    """The features of the N examples of a split.

    Args:
        values: float32 [N, D].
        labels: the class of each, an index into the data's labels, int64 [N].
    """

    values: np.ndarray
    labels: np.ndarray


class FeatureExtractor:
    """The part of a model before its head, made ready once and called as often as wanted.

    Args:
        model: with or without a head, and with its preprocessing. Its weights are shared: features
            are those of the moment of the call.

    Example:
        >>> from training.data import load_source
        >>> model = VisionTransformer(8, 4, hidden_dim=16, depth=1, num_heads=2, num_classes=10)
        >>> extractor = FeatureExtractor(model)
        >>> extractor(load_source("digits"), "test").values.shape
        (360, 16)
    """

    def __init__(self, model: VisionTransformer) -> None:
        self._preprocessing = model.preprocessing
        representation = model.representation_model()
        streams = streams_of_batch(model.blocks[0].compute_dtype)

        def represent(images: tf.Tensor) -> tf.Tensor:
            values = in_streams(lambda x: representation(x, training=False), images, streams)
            return tf.cast(values, tf.float32)

        self._represent = tf.function(represent, reduce_retracing=True, autograph=False)
        # Tracing the pipeline takes seconds, and a callback asks for the same splits again.
        self._batches: dict[tuple[DataSource, str, int], tf.data.Dataset] = {}

    def __call__(
        self, source: DataSource, split: str, batch_size: int = 64, show_progress: bool = False
    ) -> Features:
        """The features of every example of a split, in order.

        Args:
            source: the data.
            split: which part of it.
            batch_size: images per step. Default 64.
            show_progress: whether a bar on standard error shows how far it is. Default False.

        Returns:
            The `Features`.

        Raises:
            ValueError: if the split does not exist, is empty or has no labels.
        """
        check_split(source, split, batch_size)
        key = source, split, batch_size
        if key not in self._batches:
            self._batches[key] = evaluation_batches(
                source, split, self._preprocessing, batch_size=batch_size
            )
        total = math.ceil(source.splits[split] / batch_size)
        values, labels = [], []
        with source.damage.explained():
            for images, classes in with_progress(
                self._batches[key], f"features {split}", total, show_progress
            ):
                values.append(np.asarray(self._represent(images)))
                labels.append(np.asarray(classes))
        features = Features(np.concatenate(values), np.concatenate(labels))
        if (features.labels < 0).any():
            raise ValueError(
                f"The split {split} of {source.spec} has examples without a label: choose another."
            )
        return features


def features(
    model: VisionTransformer,
    source: DataSource,
    split: str,
    batch_size: int = 64,
    show_progress: bool = False,
) -> Features:
    """What the head of a model sees of every example of a split.

    Args:
        model: with or without a head, and with its preprocessing.
        source: the data; its classes need not be the model's.
        split: which part of it.
        batch_size: images per step. Default 64.
        show_progress: whether a bar on standard error shows how far it is. Default False.

    Returns:
        The `Features`: float32 [N, D] behind the `representation_size` layer if the model has one,
        else pooled, D = `hidden_dim`; and the labels, int64 [N].

    Raises:
        ValueError: if the split does not exist, is empty or has no labels.

    Example:
        >>> from training.data import load_source
        >>> model = VisionTransformer(8, 4, hidden_dim=16, depth=1, num_heads=2, num_classes=0)
        >>> values, labels = features(model, load_source("digits"), "test")
        >>> values.shape, labels.shape
        ((360, 16), (360,))
    """
    return FeatureExtractor(model)(source, split, batch_size, show_progress)


def check_features(train: Features, test: Features, num_classes: int) -> None:
    """Refuse features that no probe can use.

    Args:
        train: features with labels.
        test: others, of the same model and data.
        num_classes: of the data.

    Raises:
        ValueError: if they are empty, not finite, of different widths, or a label is not a class.
    """
    for name, (values, labels) in (("train", train), ("test", test)):
        if values.ndim != 2 or not len(values) or labels.shape != (len(values),):
            raise ValueError(
                f"The {name} features have the shape {list(values.shape)} and their labels "
                f"{list(labels.shape)}: expected are [N, D] and [N], with N at least 1."
            )
        if not np.isfinite(values).all():
            raise ValueError(
                f"The {name} features hold numbers that are not finite: the model's weights are "
                f"damaged, or its dtype is too narrow for them."
            )
        if labels.min() < 0 or labels.max() >= num_classes:
            raise ValueError(
                f"The {name} labels go from {labels.min()} to {labels.max()}: expected are 0 to "
                f"{num_classes - 1} for {num_classes} classes."
            )
    if train.values.shape[1] != test.values.shape[1]:
        raise ValueError(
            f"The train features have {train.values.shape[1]} dimensions and the test features "
            f"{test.values.shape[1]}: take both from one model."
        )
