"""What a model computes on the way from images to logits."""

from __future__ import annotations

from typing import Any

import keras

from keras_vit.layers.pooling import AttentionPooling
from keras_vit.vision_transformer import VisionTransformer


def intermediates(model: VisionTransformer, images: Any) -> dict[str, Any]:
    """Every named step of a model, from one forward pass without dropout.

    Args:
        model: any `VisionTransformer`.
        images: float [N, H, W, C], normalised, as the model takes them.

    Returns:
        Tensors in the model's dtype, in the order in which they are computed. D is the width of a
        token and T the number of tokens: those before the patches, then `grid_h * grid_w` patches
        row by row. Steps that the model does not have are not there.

        - "stem" [N, h, w, C']: the feature map that is cut into patches.
        - "patch_embedding" [N, grid_h, grid_w, D], and "position_embedding", with positions added.
        - "prefix_tokens" [N, T, D]: class token and others put before the patches.
        - "pre_norm" [N, T, D]: the norm before the first block.
        - "attention_00" [N, H, T, T]: the attention of the first block, each row (a query) summing
          to 1; 2 H maps of a twin block; differences for differential attention.
        - "block_00" [N, T, D]: what the first block gives; then "attention_01" and so on.
        - "norm" [N, T, D], or [N, D] where it comes after the pooling.
        - "pooling_attention" [N, H, tokens]: of the query of attention pooling.
        - "pooling" [N, D], or [N, 2 D] for "token_avg".
        - "pre_logits" [N, D or representation_size]: what the head sees.
        - "logits" [N, num_classes]: what the model gives; equal to "pre_logits" without a head.

    Raises:
        ValueError: if the images do not fit the model.

    Example:
        >>> model = VisionTransformer(32, 8, hidden_dim=16, depth=1, num_heads=2, num_classes=3)
        >>> steps = intermediates(model, keras.ops.zeros([1, 32, 32, 3]))
        >>> list(steps)[3:]
        ['attention_00', 'block_00', 'norm', 'pooling', 'pre_logits', 'logits']
        >>> steps["attention_00"].shape
        TensorShape([1, 2, 17, 17])
    """
    model.check_images(images)
    # What it is made of comes before each step; the head's own layers are "logits".
    before = {block.name: f"attention_{index:02d}" for index, block in enumerate(model.blocks)}
    if isinstance(model.get_layer("pooling"), AttentionPooling):
        before["pooling"] = "pooling_attention"
    inputs = dict(zip(before, [*model._block_inputs, model._pooling_input], strict=False))
    shown = {"stem", "patch_embedding", "position_embedding", "prefix_tokens", "pre_norm", "norm"}
    layers = [layer for layer in model.layers if layer.name in shown | {"pooling", *before}]
    symbolic = {layer.name: layer.output for layer in layers}
    last = {"pre_logits": model._representation, "logits": model.output}
    given, computed = keras.Model(model.input, [inputs, symbolic | last])(images, training=False)
    steps: dict[str, Any] = {}
    for layer in layers:
        if layer.name in before:
            steps[before[layer.name]] = layer.attention_weights(given[layer.name])
        steps[layer.name] = computed[layer.name]
    return steps | {name: computed[name] for name in last}


def block_inputs_model(model: VisionTransformer) -> keras.Model:
    """The model up to what the pooling sees.

    Args:
        model: any `VisionTransformer`.

    Returns:
        A `keras.Model` that shares the weights: images [N, H, W, C] -> the patches [N, grid_h,
        grid_w, D], the input [N, T, D] of each block, and that of the pooling.

    Example:
        >>> model = VisionTransformer(32, 8, hidden_dim=16, depth=3, num_heads=2)
        >>> len(block_inputs_model(model)(keras.ops.zeros([1, 32, 32, 3])))
        5
    """
    return keras.Model(model.input, [model._patches, *model._block_inputs, model._pooling_input])


def head_shares(model: VisionTransformer, tokens: Any) -> Any:
    """How much of each token is in what the head sees.

    Args:
        model: any `VisionTransformer`.
        tokens: what its pooling sees, [N, T, D].

    Returns:
        float32 [N, 1, T], each row summing to 1: the class token (with a distillation head the mean
        of its two tokens), the mean of the patches where the head sees their mean or maximum, half
        of each for "token_avg", or the mean of the heads' attention of the pooling query.

    Example:
        >>> model = VisionTransformer(16, 8, hidden_dim=16, depth=1, num_heads=2)
        >>> keras.ops.convert_to_numpy(head_shares(model, keras.ops.zeros([1, 5, 16])))
        array([[[1., 0., 0., 0., 0.]]], dtype=float32)
    """
    pooling = model.get_layer("pooling")
    batch, length = keras.ops.shape(tokens)[:2]
    if isinstance(pooling, AttentionPooling):
        weights = keras.ops.mean(pooling.attention_weights(tokens), axis=1)  # [N, T - skipped]
        skipped = pooling.num_skipped_tokens
        return keras.ops.pad(weights, [[0, 0], [skipped, 0]])[:, None]
    positions = keras.ops.arange(length)
    prefix = 0 if pooling.include_prefix else model.num_prefix_tokens
    patches = keras.ops.cast(positions >= prefix, "float32")
    patches = patches / keras.ops.sum(patches)  # [T]
    first = keras.ops.cast(positions == 0, "float32")
    shares = {"token": first, "token_avg": (first + patches) / 2}.get(pooling.pooling, patches)
    if model.has_distillation_head:
        shares = (shares + keras.ops.cast(positions == 1, "float32")) / 2
    return keras.ops.broadcast_to(shares, (batch, 1, length))
