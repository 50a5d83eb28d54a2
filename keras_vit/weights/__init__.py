"""Checkpoints of other libraries: reading them into a model, and writing them."""

from keras_vit.weights.loading import from_pretrained
from keras_vit.weights.writing import save_checkpoint

__all__ = ["from_pretrained", "save_checkpoint"]
