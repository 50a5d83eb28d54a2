"""The initial weights of timm and DeiT, for recipes that come from there."""

from __future__ import annotations

import math

import keras
import numpy as np

from keras_vit import VisionTransformer

_STDDEV = 0.02
_TOKENS = {"class_token": 1e-6, "register_tokens": 1e-6, "distillation_token": _STDDEV}


def draw_timm_weights(model: VisionTransformer, seed: int) -> None:
    """Draw the weights anew as timm's `init_weights_vit_timm` does.

    Normal with a standard deviation of 0.02 for products and positions, wherever the model is wide
    or narrow; the paper's weights, which this project has otherwise, depend on the width. Products
    inside and after the blocks get zero biases, and the heads, too, are drawn. The patch embedding
    has PyTorch's default, uniform within one over the root of its inputs, bias included.

    Args:
        model: fresh, built.
        seed: of what is drawn, 0 or more; the same everywhere for the same seed.

    Example:
        >>> model = VisionTransformer(16, 4, hidden_dim=64, depth=1, num_heads=2, num_classes=5)
        >>> draw_timm_weights(model, seed=0)
        >>> round(float(np.std(model.blocks[0].mlp.fc1.kernel)), 3)
        0.02
    """
    random = np.random.default_rng(seed)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Dense):
            layer.kernel.assign(random.normal(0, _STDDEV, layer.kernel.shape))
            if layer.use_bias:
                layer.bias.assign(np.zeros(layer.bias.shape))
        elif isinstance(layer, keras.layers.Conv2D):
            bound = 1 / math.sqrt(math.prod(layer.kernel.shape[:3]))
            for variable in layer.trainable_variables:
                variable.assign(random.uniform(-bound, bound, variable.shape))
    for variable in model.trainable_variables:
        name = variable.path.rsplit("/", 1)[-1]
        if name in _TOKENS or "position" in name:
            variable.assign(random.normal(0, _TOKENS.get(name, _STDDEV), variable.shape))
