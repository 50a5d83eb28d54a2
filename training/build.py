"""What a run is made of: the model of a recipe, and what `fit` runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_vit import Preprocessing, VisionTransformer, create_model, from_pretrained
from keras_vit.lora import add_lora
from training.config import DistillationConfig, Recipe
from training.data import DataSource
from training.data.inspection import summarize
from training.initial_weights import draw_timm_weights
from training.losses import Distillation, make_loss
from training.optimization.optimizer import make_optimizer
from training.optimization.rules import parameter_table
from training.sharpness import Sharpness
from training.streams import streams_of_batch
from training.train_step import TrainedModel

# What a checkpoint decides.
_ARCHITECTURE = {
    "hidden_dim",
    "depth",
    "num_heads",
    "pooling",
    "position_embedding",
    "representation_size",
    "init_values",
}
# Sides of images from which on a patch of so many pixels is small enough.
_PATCH_SIZES = ((96, 16), (48, 8), (0, 4))
_LARGEST_SIDE = 224
_SAMPLED = 64


def build_model(recipe: Recipe, source: DataSource) -> VisionTransformer:
    """The model of a recipe for a data set: fresh, or from a checkpoint with a fresh head.

    Args:
        recipe: its `model` and `preprocessing` are read.
        source: gives the labels.

    Returns:
        The model with its preprocessing and labels.

    Raises:
        ValueError: if the architecture is unknown, or the checkpoint does not fit.
    """
    config = dataclasses.asdict(recipe.model)
    variant, pretrained = config.pop("variant"), config.pop("pretrained")
    del config["head_bias"], config["remat"], config["initial_weights"]
    overrides = {key: value for key, value in config.items() if value is not None}
    if overrides.get("image_size") == "data":
        del overrides["image_size"]
        if pretrained is None:
            overrides |= _sizes_for(source, patch_size=recipe.model.patch_size)
    if pretrained is not None:
        model = _pretrained_model(pretrained, overrides, source)
    else:
        model = _fresh_model(variant, overrides, recipe, source)
    for block in model.blocks:
        block.remat = recipe.model.remat
    if recipe.model.head_bias:
        for head in _heads(model):
            head.bias.assign(keras.ops.full(head.bias.shape, recipe.model.head_bias))
    return model


def _sizes_for(source: DataSource, patch_size: int | None) -> dict[str, int]:
    """The image size, and a patch size that goes with it, for the images of a data set."""
    train = summarize(source, sample=_SAMPLED).splits["train"]
    if train.width is None or train.height is None:
        return {}  # nothing could be decoded; training will say so
    side = min(train.width.median, train.height.median, _LARGEST_SIDE)
    patch = patch_size or next(size for least, size in _PATCH_SIZES if side >= least)
    return {"image_size": max(side // patch, 1) * patch, "patch_size": patch}


def _fresh_model(
    variant: str, overrides: dict[str, Any], recipe: Recipe, source: DataSource
) -> VisionTransformer:
    if overrides.keys() & {"image_size", "patch_size", "hidden_dim", "depth", "num_heads"}:
        overrides["name"] = "custom_vit"  # the variant's own name would promise its sizes
    if recipe.model.pooling is not None:
        overrides["class_token"] = recipe.model.pooling == "token"
    model = create_model(variant, num_classes=len(source.labels), labels=source.labels, **overrides)
    model.preprocessing = Preprocessing(
        image_size=model.preprocessing.image_size, **dataclasses.asdict(recipe.preprocessing)
    )
    if recipe.model.initial_weights == "timm":
        draw_timm_weights(model, recipe.seed)
    return model


def _heads(model: VisionTransformer) -> list[keras.layers.Dense]:
    return [layer for layer in model.layers if layer.name in ("head", "distillation_head")]


def _pretrained_model(
    pretrained: str, overrides: dict[str, Any], source: DataSource
) -> VisionTransformer:
    """A checkpoint with a fresh head for the data set's labels."""
    if fixed := sorted(overrides.keys() & _ARCHITECTURE):
        raise ValueError(
            f"model.{fixed[0]} is what the checkpoint {pretrained} says: leave it out, or leave "
            f"out model.pretrained to train from scratch."
        )
    model = from_pretrained(pretrained, num_classes=len(source.labels), **overrides)
    if model.labels != tuple(source.labels):  # as many classes, but other ones
        for head in _heads(model):
            for variable in head.weights:
                variable.assign(keras.ops.zeros_like(variable))
    model.labels = source.labels
    return model


def build_trained(
    model: VisionTransformer,
    recipe: Recipe,
    steps_per_epoch: int,
    total_steps: int,
    report: Callable[[str], None] = print,
) -> TrainedModel:
    """What `fit` runs for a recipe: model, loss, optimizer, compiled. Call it in the scope.

    Args:
        model: of the recipe.
        recipe: what to do.
        steps_per_epoch: for the schedule.
        total_steps: of the whole run.
        report: called with lines for the user. Default `print`.

    Returns:
        The compiled `TrainedModel`.

    Raises:
        ValueError: if parts of the recipe do not fit together.
    """
    lora = recipe.lora
    if lora.rank:
        add_lora(model, lora.rank, lora.alpha, lora.targets, lora.trainable)
    report(parameter_table(model, recipe.optimizer))
    optimizer = make_optimizer(
        model,
        recipe.optimizer,
        recipe.schedule,
        steps_per_epoch,
        recipe.epochs,
        total_steps=total_steps,
    )
    sharpness = None
    if recipe.sharpness.rho:
        sharpness = Sharpness(
            **dataclasses.asdict(recipe.sharpness),
            peak_learning_rate=recipe.optimizer.learning_rate,
        )
    trained = TrainedModel(
        model,
        make_loss(recipe.loss, recipe.label_smoothing),
        clip_norm=recipe.optimizer.clip_norm,
        accumulation=recipe.accumulation,
        sharpness=sharpness,
        distillation=_distillation(model, recipe.distillation, report),
        jit_compile=recipe.jit_compile,
        noise_scale=recipe.noise_scale,
        streams=streams_of_batch(model.blocks[0].compute_dtype),
        seed=recipe.seed,
    )
    trained.compile(
        optimizer=optimizer, steps_per_execution=recipe.steps_per_execution, jit_compile=False
    )
    return trained


def _distillation(
    student: VisionTransformer, config: DistillationConfig, report: Callable[[str], None]
) -> Distillation | None:
    if config.teacher is None:
        return None
    teacher = from_pretrained(config.teacher, report=report)
    if teacher.num_classes != student.num_classes:
        raise ValueError(
            f"The teacher {config.teacher} has {teacher.num_classes} classes, the student "
            f"{student.num_classes}: it must have learned the same classes."
        )
    if teacher.labels and student.labels and set(teacher.labels) != set(student.labels):
        raise ValueError(
            f"The teacher {config.teacher} knows other classes ({', '.join(teacher.labels[:3])}, …)"
            f" than the student learns ({', '.join(student.labels[:3])}, …)."
        )
    order = None
    if teacher.labels and student.labels and teacher.labels != student.labels:
        order = [teacher.labels.index(label) for label in student.labels]
    teacher.trainable = False
    ours, theirs = student.preprocessing, teacher.preprocessing

    def logits(images: tf.Tensor) -> tf.Tensor:
        # The student's input, [b, H, W, C], as the teacher expects it.
        pixels = images * tf.constant(ours.std) + tf.constant(ours.mean)
        if ours.image_size != theirs.image_size:
            pixels = tf.image.resize(pixels, theirs.image_size, antialias=True)
        pixels = (pixels - tf.constant(theirs.mean)) / tf.constant(theirs.std)
        output = teacher(pixels, training=False)
        return output if order is None else tf.gather(output, order, axis=-1)

    return Distillation(logits, config.kind, config.weight, config.temperature)
