"""Recipes: everything that decides what a training run does, as typed data.

A recipe is plain data and imports nothing heavy: the command line shows it as `--help` and every
field can be overridden there, `keras-vit train digits --optimizer.learning-rate 1e-3`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from training.augmentation.config import Augmentation
from training.optimization.config import OptimizerConfig, ScheduleConfig

StrategyName = Literal["auto", "none", "mirrored", "multiworker", "tpu"]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Which model to train."""

    variant: str = "vit_tiny_patch16_224"
    """Name of the architecture (see `keras-vit models`); the fields below override it."""

    pretrained: str | None = None
    """Start from a checkpoint instead: a file, a folder, hf://org/name, gs://… (fine-tuning). Its
    architecture and its evaluation transform take the place of `variant` and `preprocessing`."""

    image_size: int | None = None
    """Side of the model's input in pixels."""

    patch_size: int | None = None
    """Side of a patch in pixels."""

    hidden_dim: int | None = None
    """Width of a token."""

    depth: int | None = None
    """Number of encoder blocks."""

    num_heads: int | None = None
    """Attention heads; a divisor of hidden_dim."""

    pooling: Literal["token", "avg", "map"] | None = None
    """What the head sees: the class token, the mean of the patches, or an attention over them."""

    dropout_rate: float = 0.0
    """Dropout on positions, attention projections and MLPs."""

    attention_dropout_rate: float = 0.0
    """Dropout on the attention weights."""

    drop_path_rate: float = 0.0
    """Stochastic depth of the last block, rising linearly from 0."""

    dtype: Literal["float32", "mixed_bfloat16", "mixed_float16", "bfloat16"] = "float32"
    """Dtype policy."""


@dataclasses.dataclass(frozen=True)
class PreprocessingConfig:
    """The evaluation transform that the model will carry."""

    resize_mode: Literal["crop", "squash"] = "crop"
    """Keep the aspect ratio while resizing or not; the centre is cut out in both cases."""

    crop_fraction: float = 0.9
    """Share of the resized image that the centre crop keeps."""

    interpolation: Literal["bilinear", "bicubic", "lanczos3"] = "bicubic"
    """Kernel of the resize, antialiased."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A training run."""

    data: str = ""
    """What to train on: digits, folder:PATH or tfds:NAME[/CONFIG]."""

    epochs: int = 100
    """Passes over the training split."""

    batch_size: int = 128
    """Images per step, over all replicas."""

    label_smoothing: float = 0.0
    """Share of each target that is spread over all classes."""

    seed: int = 0
    """Of the initial weights, the order of the data and every augmentation."""

    deterministic: bool = False
    """Use only operations that give the same bits each time; slower on GPUs."""

    bad_images: Literal["skip", "refuse"] = "skip"
    """What to do about files that cannot be decoded: name and leave out, or name and stop."""

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    preprocessing: PreprocessingConfig = dataclasses.field(default_factory=PreprocessingConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        positive = {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "optimizer.learning_rate": self.optimizer.learning_rate,
            "optimizer.clip_norm": self.optimizer.clip_norm,
        }
        for name, value in positive.items():
            if value <= 0:
                raise ValueError(f"{name} must be positive, not {value}.")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"label_smoothing must be at least 0 and below 1, not {self.label_smoothing}."
            )
        if not 0 <= self.schedule.warmup_epochs <= self.epochs:
            raise ValueError(
                f"schedule.warmup_epochs must be between 0 and epochs={self.epochs}, "
                f"not {self.schedule.warmup_epochs}."
            )

    def to_dict(self) -> dict[str, Any]:
        """The recipe as nested dictionaries of JSON values."""
        return dataclasses.asdict(self)


def difference(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """What differs between two recipes, one readable line each.

    Args:
        old: `Recipe.to_dict()` of the first.
        new: of the second.
        prefix: put before each name.

    Returns:
        Lines such as "optimizer.learning_rate: 0.001 -> 0.003", in the order of the fields.

    Example:
        >>> difference({"epochs": 3, "model": {"depth": 2}}, {"epochs": 4, "model": {"depth": 2}})
        ['epochs: 3 -> 4']
    """
    lines = []
    for key in [*old, *(key for key in new if key not in old)]:
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += difference(before, after, f"{prefix}{key}.")
        elif _plain(before) != _plain(after):
            lines.append(f"{prefix}{key}: {before} -> {after}")
    return lines


def _plain(value: Any) -> Any:
    """JSON has no tuples."""
    return list(value) if isinstance(value, tuple) else value


RECIPES: dict[str, Recipe] = {
    # The small one that runs anywhere: scikit-learn's handwritten digits, 8 x 8 pixels.
    "digits": Recipe(
        data="digits",
        epochs=80,
        batch_size=64,
        label_smoothing=0.1,
        model=ModelConfig(
            image_size=8,
            patch_size=4,
            hidden_dim=128,
            depth=4,
            num_heads=4,
            drop_path_rate=0.1,
        ),
        preprocessing=PreprocessingConfig(crop_fraction=1.0),
        optimizer=OptimizerConfig(learning_rate=2e-3),
        augmentation=Augmentation(crop="shift", shift_pixels=1, mixup=0.4),
    ),
    # One's own images in folders, from scratch, after "How to train your ViT?" (Steiner et al.,
    # 2022): the light2 arm of augmentation for a small data set.
    "folder": Recipe(
        epochs=100,
        batch_size=128,
        label_smoothing=0.1,
        model=ModelConfig(drop_path_rate=0.1),
        schedule=ScheduleConfig(warmup_epochs=10.0),
        augmentation=Augmentation(
            crop="inception",
            flip=True,
            randaugment_layers=2,
            randaugment_magnitude=10.0,
            mixup=0.2,
        ),
    ),
}
