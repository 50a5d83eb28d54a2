"""A training run from a recipe to `model.keras`."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_vit import Preprocessing, VisionTransformer, create_model, from_pretrained
from keras_vit.atomic_files import write_text
from training.callbacks import (
    SaveProgress,
    ShowProgress,
    StopWhenNotFinite,
    save_model,
    write_metrics,
)
from training.checkpoints import Checkpoints
from training.curves import plot_curves
from training.data import (
    DataSource,
    evaluation_batches,
    load_source,
    steps_per_epoch,
    training_batches,
)
from training.optimization.optimizer import make_optimizer
from training.recipes import Recipe, StrategyName, difference
from training.strategy import is_chief, make_strategy
from training.train_step import TrainedModel

# Test images with fewer pixel values in all (256 MB) are decoded once and kept in memory.
_CACHED_VALUES = 64_000_000


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """A finished run.

    Args:
        model: the trained model, weights of the last epoch.
        history: one row of metrics for each epoch, as in `metrics.csv`.
    """

    model: VisionTransformer
    history: list[dict[str, float]]


def train(
    recipe: Recipe,
    workdir: str | Path,
    *,
    data_dir: str | Path | None = None,
    strategy: StrategyName = "auto",
    num_replicas: int | None = None,
    report: Callable[[str], None] = print,
) -> TrainingResult:
    """Train, or go on with, the run of a workdir.

    Args:
        recipe: what to do.
        workdir: gets `config.json`, `metrics.csv`, `checkpoints/`, `tensorboard/`, and at the end
            `model.keras` (weights of the last epoch) and `curves.png`.
        data_dir: where TFDS keeps its data. Default None: TFDS's own place.
        strategy: see `training.strategy.make_strategy`. Default "auto".
        num_replicas: devices of "mirrored". Default None: every GPU.
        report: called with lines for the user. Default `print`.

    Returns:
        A `TrainingResult`.

    Raises:
        ValueError: if the workdir belongs to another recipe, or the recipe does not fit the data.
        TrainingDivergedError: if the loss becomes NaN or infinite.

    Example:
        >>> import tempfile
        >>> from training.recipes import RECIPES, ScheduleConfig
        >>> recipe = dataclasses.replace(
        ...     RECIPES["digits"], epochs=1, schedule=ScheduleConfig(warmup_epochs=0)
        ... )
        >>> len(train(recipe, tempfile.mkdtemp(), report=lambda line: None).history)
        1
    """
    workdir = Path(workdir)
    if not recipe.data:
        raise ValueError(
            "The recipe names no data: give --data folder:PATH, --data tfds:NAME or --data digits."
        )
    check_workdir(workdir, recipe)
    scope = make_strategy(strategy, num_replicas)  # before TensorFlow starts its devices
    if recipe.deterministic:
        tf.config.experimental.enable_op_determinism()
    source = load_source(
        recipe.data,
        data_dir=data_dir,
        seed=recipe.seed,
        bad_images=recipe.bad_images,
        report=report,
    )
    if recipe.batch_size % scope.num_replicas_in_sync:
        raise ValueError(
            f"batch_size={recipe.batch_size} is not a multiple of the {scope.num_replicas_in_sync} "
            f"replicas: each must get the same share of every batch."
        )
    steps = steps_per_epoch(source, recipe.batch_size)
    # After the data is open: preparing a data set draws random numbers too.
    keras.utils.set_random_seed(recipe.seed)
    with scope.scope():
        model = build_model(recipe, source)
        trained = TrainedModel(model, recipe.optimizer.clip_norm)
        optimizer = make_optimizer(model, recipe.optimizer, recipe.schedule, steps, recipe.epochs)
        trained.compile(
            optimizer=optimizer,
            loss=keras.losses.CategoricalCrossentropy(
                from_logits=True, label_smoothing=recipe.label_smoothing
            ),
            metrics=[keras.metrics.CategoricalAccuracy(name="top1")],
        )
        trained.optimizer.build(trained.trainable_variables)
        checkpoints = Checkpoints(
            workdir / "checkpoints",
            [*model.variables, *trained.optimizer.variables],
            report=report,
        )
        state = checkpoints.restore_newest()
    start_epoch = state.epoch if state else 0
    history = state.history if state else []
    report(
        f"{model.name}: {model.count_params():,} parameters, {source.splits['train']:,} training "
        f"and {source.splits['test']:,} test images of {len(source.labels)} classes, "
        f"{scope.num_replicas_in_sync} replica(s)"
    )
    chief = is_chief(scope)
    if chief:
        write_text(workdir / "config.json", json.dumps(recipe.to_dict(), indent=2) + "\n")
        write_metrics(workdir / "metrics.csv", history)
    if start_epoch < recipe.epochs:
        if start_epoch:
            report(f"Going on after epoch {start_epoch} of {recipe.epochs}.")
        _fit(recipe, workdir, source, trained, checkpoints, history, chief, report)
    else:
        report(f"All {recipe.epochs} epochs are done already.")
    if chief:
        save_model(model, workdir / "model.keras")
        title = f"{recipe.data}: {model.name}, {model.count_params():,} parameters"
        plot_curves(history, workdir / "curves.png", title)
    return TrainingResult(model, history)


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
    overrides = {key: value for key, value in config.items() if value is not None}
    if pretrained is not None:
        return _pretrained_model(pretrained, overrides, source)
    if overrides.keys() & {"image_size", "patch_size", "hidden_dim", "depth", "num_heads"}:
        overrides["name"] = "custom_vit"  # the variant's own name would promise its sizes
    if recipe.model.pooling is not None:
        overrides["class_token"] = recipe.model.pooling == "token"
    model = create_model(variant, num_classes=len(source.labels), labels=source.labels, **overrides)
    model.preprocessing = Preprocessing(
        image_size=model.preprocessing.image_size, **dataclasses.asdict(recipe.preprocessing)
    )
    return model


def _pretrained_model(
    pretrained: str, overrides: dict[str, Any], source: DataSource
) -> VisionTransformer:
    """A checkpoint with a fresh head for the data set's labels."""
    if fixed := sorted(overrides.keys() & {"hidden_dim", "depth", "num_heads", "pooling"}):
        raise ValueError(
            f"model.{fixed[0]} is what the checkpoint {pretrained} says: leave it out, or leave "
            f"out model.pretrained to train from scratch."
        )
    model = from_pretrained(pretrained, num_classes=len(source.labels), **overrides)
    if model.labels != tuple(source.labels):  # as many classes, but other ones
        for layer in model.layers:
            if layer.name in ("head", "distillation_head"):
                for variable in layer.weights:
                    variable.assign(keras.ops.zeros_like(variable))
    model.labels = source.labels
    return model


def check_workdir(workdir: Path, recipe: Recipe) -> None:
    """Refuse a workdir that is a file, or holds a run with other settings.

    Args:
        workdir: the directory.
        recipe: of the run that is about to start.

    Raises:
        ValueError: with the differences, one a line.
    """
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"The workdir {workdir} is a file: give a directory.")
    config = workdir / "config.json"
    if not config.exists():
        return
    try:
        old = json.loads(config.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{config} cannot be read ({error}): use another --workdir.") from error
    if lines := difference(old, recipe.to_dict()):
        changes = "\n  ".join(lines)
        raise ValueError(
            f"{workdir} holds a run with other settings:\n  {changes}\nUse another --workdir, or "
            f"the settings of that run to go on with it."
        )


def _fit(
    recipe: Recipe,
    workdir: Path,
    source: DataSource,
    trained: TrainedModel,
    checkpoints: Checkpoints,
    history: list[dict[str, float]],
    chief: bool,
    report: Callable[[str], None],
) -> None:
    """Run the epochs that are left."""
    model = trained.model
    steps = steps_per_epoch(source, recipe.batch_size)
    batches = training_batches(
        source,
        model.preprocessing,
        recipe.augmentation,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        start_epoch=len(history),
        epochs=recipe.epochs,
    )
    num_classes = len(source.labels)
    validation = evaluation_batches(
        source, "test", model.preprocessing, batch_size=recipe.batch_size
    ).map(lambda images, labels: (images, tf.one_hot(labels, num_classes)))
    if source.splits["test"] * math.prod(model.preprocessing.output_shape) < _CACHED_VALUES:
        # Not `cache()`: an iterator given up half-way, as Keras does, may leave a cache cut short.
        arrays = [
            np.concatenate(part) for part in zip(*validation.as_numpy_iterator(), strict=True)
        ]
        validation = tf.data.Dataset.from_tensor_slices(tuple(arrays)).batch(recipe.batch_size)
    progress = ShowProgress(steps, recipe.batch_size, recipe.epochs, report)
    callbacks: list[keras.callbacks.Callback] = [
        StopWhenNotFinite(workdir),
        SaveProgress(workdir, model, checkpoints, history, write=chief),
    ]
    if chief:
        tensorboard = keras.callbacks.TensorBoard(str(workdir / "tensorboard"), write_graph=False)
        callbacks += [progress, tensorboard]
    try:
        trained.fit(
            batches,
            initial_epoch=len(history),
            epochs=recipe.epochs,
            steps_per_epoch=steps,
            validation_data=validation,
            callbacks=callbacks,
            verbose=0,
            shuffle=False,  # the batches come shuffled
        )
    finally:
        progress.stop()
