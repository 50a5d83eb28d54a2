"""The optimizer that a recipe describes."""

from __future__ import annotations

from typing import Any

import keras

from keras_vit import VisionTransformer
from training.optimization.config import OptimizerConfig, ScheduleConfig
from training.optimization.rules import freeze, treatments
from training.optimization.schedules import make_learning_rate
from training.optimization.synchronized import LossScaleOptimizer, synchronized


def make_optimizer(
    model: VisionTransformer,
    optimizer: OptimizerConfig,
    schedule: ScheduleConfig,
    steps_per_epoch: int,
    epochs: int,
    *,
    total_steps: int | None = None,
) -> keras.optimizers.Optimizer:
    """The optimizer of a model: built, with the rules about each variable in force.

    By default biases, norms, the class token and the positions do not decay, as in the authors'
    pre-training ("How to train your ViT?", Steiner et al., 2022).

    Args:
        model: whose variables are trained; those that the rules freeze are not trainable
            afterwards. Whatever reads `model.trainable_variables` has to come after this.
        optimizer: its settings.
        schedule: of the learning rate.
        steps_per_epoch: steps in an epoch.
        epochs: of the whole run.
        total_steps: of the whole run, instead of `steps_per_epoch * epochs`. Default None.

    Returns:
        The optimizer, with loss scaling for float16. It takes gradients that are summed over the
        replicas already; clipping is the train step's business.

    Raises:
        ValueError: if a rule fits no variable, nothing is left to learn, or warm-up and cool-down
            do not fit into the run.

    Example:
        >>> model = VisionTransformer(32, 8, hidden_dim=16, depth=1, num_heads=2, num_classes=3)
        >>> optimizer = make_optimizer(model, OptimizerConfig(), ScheduleConfig(), 10, 10)
        >>> type(optimizer).__name__, optimizer.built
        ('AdamW', True)
    """
    total = steps_per_epoch * epochs if total_steps is None else total_steps
    learning_rate = make_learning_rate(optimizer.learning_rate, schedule, steps_per_epoch, total)
    freeze(model, optimizer)
    optimizer_class, arguments = _algorithm(optimizer)
    inner = synchronized(optimizer_class)(
        learning_rate,
        weight_decay=optimizer.weight_decay,
        use_ema=optimizer.ema > 0,
        ema_momentum=optimizer.ema,
        **arguments,
    )
    outer = inner
    if model.get_layer("patch_embedding").compute_dtype == "float16":
        # Small float16 gradients would vanish; the scale adapts to what does not overflow.
        outer = LossScaleOptimizer(inner)
    outer.build(model.trainable_variables)
    by_identity = {id(variable): treatment for variable, treatment in treatments(model, optimizer)}
    found = [by_identity[id(variable)] for variable in model.trainable_variables]
    inner.set_multipliers([t.learning_rate for t in found], [t.weight_decay for t in found])
    return outer


def _algorithm(optimizer: OptimizerConfig) -> tuple[Any, dict[str, Any]]:
    """Keras' class and the arguments that are its own."""
    if optimizer.name == "sgd":
        return keras.optimizers.SGD, {
            "momentum": float(optimizer.momentum),
            "nesterov": optimizer.nesterov,
        }
    if optimizer.name == "adafactor":
        # The schedule decides; Keras still limits the rate to 1 / sqrt(step), which a rate of 1e-3
        # meets after a million steps.
        return keras.optimizers.Adafactor, {"relative_step": False}
    beta_2 = optimizer.beta_2
    if beta_2 is None:
        beta_2 = 0.99 if optimizer.name == "lion" else 0.999
    classes = {
        "adamw": keras.optimizers.AdamW,
        "adam": keras.optimizers.Adam,
        "lion": keras.optimizers.Lion,
        "lamb": keras.optimizers.Lamb,
    }
    return classes[optimizer.name], {"beta_1": optimizer.beta_1, "beta_2": beta_2}
