"""A small model of five animals, other weights for each seed."""

import keras
import numpy as np

import keras_vit

LABELS = ["ape", "bee", "cat", "dog", "elk"]


def animal_model(seed):
    """A model whose every weight matters."""
    keras.utils.set_random_seed(seed)
    model = keras_vit.VisionTransformer(
        32, 8, hidden_dim=16, depth=2, num_heads=2, num_classes=5, labels=LABELS
    )
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(variable + rng.normal(0, 0.3, variable.shape))
    return model
