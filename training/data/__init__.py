"""Data sets: encoded images with labels, and the tf.data pipelines over them."""

from training.data.pipeline import (
    Share,
    evaluation_batches,
    steps_per_epoch,
    training_batches,
    validation_batches,
)
from training.data.source import DataSource, load_source

__all__ = [
    "DataSource",
    "Share",
    "evaluation_batches",
    "load_source",
    "steps_per_epoch",
    "training_batches",
    "validation_batches",
]
