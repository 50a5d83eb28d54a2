"""The optimizer and its learning rate."""

from __future__ import annotations

import keras

from keras_vit import VisionTransformer
from training.optimization.config import OptimizerConfig, ScheduleConfig


def make_optimizer(
    model: VisionTransformer,
    optimizer: OptimizerConfig,
    schedule: ScheduleConfig,
    steps_per_epoch: int,
    epochs: int,
) -> keras.optimizers.Optimizer:
    """AdamW with warm-up and cosine decay; weight decay on kernels only.

    Biases, norms, the class token and the positions do not decay, as in the authors' pre-training
    ("How to train your ViT?", Steiner et al., 2022).

    Args:
        model: whose variables are trained.
        optimizer: its settings.
        schedule: of the learning rate.
        steps_per_epoch: steps in an epoch.
        epochs: of the whole run.

    Returns:
        The optimizer, with loss scaling for float16. Clipping is the train step's business.

    Example:
        >>> model = VisionTransformer(32, 8, hidden_dim=16, depth=1, num_heads=2, num_classes=3)
        >>> optimizer = make_optimizer(model, OptimizerConfig(), ScheduleConfig(), 10, 10)
        >>> type(optimizer).__name__
        'AdamW'
    """
    total = steps_per_epoch * epochs
    warmup = round(steps_per_epoch * schedule.warmup_epochs)
    learning_rate = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else optimizer.learning_rate,
        decay_steps=max(total - warmup, 1),
        alpha=schedule.final_fraction,
        warmup_target=optimizer.learning_rate if warmup else None,
        warmup_steps=warmup,
    )
    adamw = keras.optimizers.AdamW(
        learning_rate,
        weight_decay=optimizer.weight_decay,
        beta_1=optimizer.beta_1,
        beta_2=optimizer.beta_2,
    )
    adamw.exclude_from_weight_decay(
        var_list=[v for v in model.trainable_variables if not decays(v.path)]
    )
    if model.get_layer("patch_embedding").compute_dtype == "float16":
        # Small float16 gradients would vanish; the scale adapts to what does not overflow.
        return keras.optimizers.LossScaleOptimizer(adamw)
    return adamw


def decays(path: str) -> bool:
    """Whether weight decay acts on the variable of this path.

    Args:
        path: such as "block_00/mlp/fc1/kernel".

    Returns:
        True for kernels.

    Example:
        >>> decays("block_00/mlp/fc1/kernel"), decays("position_embedding/position_embedding")
        (True, False)
    """
    return path.rsplit("/", 1)[-1] == "kernel"
