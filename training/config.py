"""What a recipe is: everything that decides what a training run does, as typed data.

A recipe is plain data and imports nothing heavy: the command line shows it as `--help` and every
field can be overridden there, `keras-vit train digits --optimizer.learning-rate 1e-3`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from training.augmentation.config import Augmentation
from training.optimization.config import LoraConfig, OptimizerConfig, ScheduleConfig

StrategyName = Literal["auto", "none", "mirrored", "multiworker", "tpu"]
LossName = Literal["softmax", "sigmoid", "bce"]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Which model to train."""

    variant: str = "vit_tiny_patch16_224"
    """Name of the architecture (see `keras-vit models`); the fields below override it."""

    pretrained: str | None = None
    """Start from a checkpoint instead: a file, a folder, hf://org/name, gs://… (fine-tuning). Its
    architecture and its evaluation transform take the place of `variant` and `preprocessing`."""

    image_size: int | Literal["data"] | None = None
    """Side of the model's input in pixels; "data" takes it, and a patch size for it, from the
    images that it will learn."""

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

    position_embedding: Literal["learned", "sincos2d", "none"] | None = None
    """Positions that are learned, or fixed sines and cosines of row and column."""

    representation_size: int | None = None
    """Width of a tanh layer before the head."""

    dropout_rate: float = 0.0
    """Dropout on positions, attention projections and MLPs."""

    attention_dropout_rate: float = 0.0
    """Dropout on the attention weights."""

    drop_path_rate: float = 0.0
    """Stochastic depth of the last block, rising linearly from 0."""

    initial_weights: Literal["google", "timm"] = "google"
    """How weights are drawn: as in the paper's code, by the width of each product and with a head
    of zeros, or as in timm and DeiT, with a standard deviation of 0.02 everywhere."""

    init_values: float | None = None
    """First value of the layer scales of a variant that has them, or is to have them."""

    head_bias: float = 0.0
    """First bias of a fresh head; about -log(classes) for the sigmoid loss, so that training starts
    from "none of them"."""

    remat: bool = False
    """Forget what is inside the blocks after the forward pass and compute it again for the
    gradient: less memory, about a third more time."""

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
class DistillationConfig:
    """Learning from a teacher as well (DeiT, Touvron et al., 2021)."""

    teacher: str | None = None
    """The teacher's checkpoint: a workdir, a file, a folder, hf://org/name, gs://…; None for no
    teacher. A model with a distillation token learns from it through that token's head."""

    kind: Literal["hard", "soft"] = "hard"
    """The teacher's choice as a label, or its softened probabilities."""

    weight: float = 0.5
    """Share of the teacher in the loss."""

    temperature: float = 3.0
    """What the logits of both are divided by; for "soft"."""


@dataclasses.dataclass(frozen=True)
class SharpnessConfig:
    """Flat minima: SAM (Foret et al., 2021), and GSAM (Zhuang et al., 2022) for alpha above 0."""

    rho: float = 0.0
    """Radius of the neighbourhood; 0 for plain gradients, else each step takes twice the time."""

    rho_min: float | None = None
    """Radius where the learning rate is 0 (GSAM); the same all along when not given."""

    alpha: float = 0.0
    """Weight of what GSAM takes away."""


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When a run is saved, beside the end of each epoch and SIGTERM or Ctrl-C."""

    keep: int = 2
    """The newest so many are kept."""

    every_steps: int | None = None
    """Also within an epoch, after each so many steps."""

    every_minutes: float | None = 10.0
    """Also within an epoch, after so many minutes."""


@dataclasses.dataclass(frozen=True)
class ProbeConfig:
    """Probes of the frozen features while training goes on; their columns are in metrics.csv."""

    every: int = 0
    """After the first, each so many epochs, and the last; 0 for never."""

    kinds: tuple[Literal["fewshot", "knn", "linear"], ...] = ("knn", "fewshot")
    """Linear regression on a few examples of each class, nearest neighbours, or a linear layer."""

    shots: tuple[int, ...] = (1, 5)
    """Examples of each class for "fewshot"."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A training run."""

    data: str = ""
    """What to train on: digits, folder:PATH, tfds:NAME[/CONFIG], webdataset:PATTERN or
    records:PATH."""

    epochs: int = 100
    """Passes over the training split."""

    steps: int | None = None
    """Stop after so many steps; takes the place of epochs."""

    batch_size: int = 128
    """Images per step, over all replicas."""

    accumulation: int = 1
    """Parts that each replica computes its share of a batch in, one after the other: the same
    update with less memory."""

    steps_per_execution: int = 1
    """Steps that run before Python looks again: less overhead for small models."""

    jit_compile: bool = False
    """Compile the forward and backward pass with XLA."""

    noise_scale: bool = False
    """Log the gradient noise scale, which says what batch size pays (McCandlish et al., 2018)."""

    loss: LossName = "softmax"
    """Cross-entropy of the softmax, of one sigmoid for each class (their sum, as in big_vision), or
    DeiT III's: their mean, with every class of a mixture of images wholly there."""

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
    lora: LoraConfig = dataclasses.field(default_factory=LoraConfig)
    distillation: DistillationConfig = dataclasses.field(default_factory=DistillationConfig)
    sharpness: SharpnessConfig = dataclasses.field(default_factory=SharpnessConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    probes: ProbeConfig = dataclasses.field(default_factory=ProbeConfig)

    def __post_init__(self) -> None:
        positive = {
            "epochs": self.epochs,
            "steps": self.steps,
            "batch_size": self.batch_size,
            "accumulation": self.accumulation,
            "steps_per_execution": self.steps_per_execution,
            "distillation.temperature": self.distillation.temperature,
            "checkpoint.keep": self.checkpoint.keep,
            "checkpoint.every_steps": self.checkpoint.every_steps,
            "checkpoint.every_minutes": self.checkpoint.every_minutes,
        }
        for name, value in positive.items():
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, not {value}.")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must be from 0 to {2**31 - 1}, not {self.seed}.")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"label_smoothing must be at least 0 and below 1, not {self.label_smoothing}."
            )
        if self.loss == "bce" and self.label_smoothing:
            raise ValueError(
                f"label_smoothing={self.label_smoothing} gives every class a share, and loss='bce' "
                f"takes every class with a share for wholly there: set label_smoothing to 0."
            )
        if self.probes.every < 0:
            raise ValueError(f"probes.every must be 0 or more, not {self.probes.every}.")
        if not 0 <= self.distillation.weight <= 1:
            raise ValueError(
                f"distillation.weight must be in 0 ... 1, not {self.distillation.weight}."
            )
        for name, value in dataclasses.asdict(self.sharpness).items():
            if value is not None and value < 0:
                raise ValueError(f"sharpness.{name} must be 0 or more, not {value}.")
        by_epochs = self.schedule.warmup_steps is None and self.steps is None
        if by_epochs and self.schedule.warmup_epochs > self.epochs:
            raise ValueError(
                f"schedule.warmup_epochs must be at most epochs={self.epochs}, "
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
