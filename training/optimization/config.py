"""How the weights move: optimizer, learning rate, low-rank updates; imports nothing heavy."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any, Literal

OptimizerName = Literal["adamw", "sgd", "adam", "lion", "lamb", "adafactor"]
ScheduleName = Literal["cosine", "linear", "constant", "rsqrt"]


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer, and the rules about which variable gets what.

    A rule is a regular expression for the whole path of a variable ("block_03/mlp/fc1/kernel"), an
    equals sign and a factor; the first rule that fits a variable decides.
    """

    name: OptimizerName = "adamw"
    """adamw, sgd, lion (wants a 3 to 10 times smaller learning rate), lamb or adafactor (steps are
    relative to the size of the weights). Weight decay is decoupled in all of them, so adam with a
    weight decay is adamw."""

    learning_rate: float = 1e-3
    """Peak learning rate."""

    weight_decay: float = 0.05
    """Decoupled weight decay, times the learning rate, where `weight_decay_rules` say so."""

    beta_1: float = 0.9
    """Decay of the first moment; not of sgd and adafactor."""

    beta_2: float | None = None
    """Decay of the second moment; in lion, of the momentum. None: 0.99 for lion, else 0.999."""

    momentum: float = 0.9
    """Momentum of sgd."""

    nesterov: bool = False
    """Whether the momentum of sgd is Nesterov's."""

    clip_norm: float | None = 1.0
    """Global norm that the gradient of the whole batch is clipped to; None: no clipping."""

    ema: float = 0.0
    """Momentum of a moving average of the weights, such as 0.9999; 0: none. The average is what is
    evaluated and saved."""

    layer_decay: float = 1.0
    """Factor on the learning rate from each block to the one before it, such as 0.75 for
    fine-tuning (BEiT; Bao et al., 2022); the head keeps the full rate. 1: none."""

    learning_rate_rules: tuple[str, ...] = ()
    """Factors on the learning rate, 'PATTERN=FACTOR', such as 'head/.*=10'. No rule: 1. A factor of
    0 freezes."""

    weight_decay_rules: tuple[str, ...] = (".*/kernel=1",)
    """Factors on the weight decay, 'PATTERN=FACTOR'. No rule: 0, so by default biases, norms,
    tokens and positions do not decay."""

    frozen: tuple[str, ...] = ()
    """Patterns of variables that do not learn, such as 'patch_embedding/.*'; they cost neither a
    gradient nor optimizer memory."""

    def __post_init__(self) -> None:
        _check_positive("optimizer.learning_rate", self.learning_rate)
        if self.clip_norm is not None:
            _check_positive("optimizer.clip_norm", self.clip_norm)
        _check_range("optimizer.weight_decay", self.weight_decay, 0, math.inf)
        _check_range("optimizer.beta_1", self.beta_1, 0, 1)
        if self.beta_2 is not None:
            _check_range("optimizer.beta_2", self.beta_2, 0, 1)
        _check_range("optimizer.momentum", self.momentum, 0, 1)
        _check_range("optimizer.ema", self.ema, 0, 1)
        if not 0 < self.layer_decay <= 1:
            raise ValueError(
                f"optimizer.layer_decay must be above 0 and at most 1, not {self.layer_decay}."
            )
        if self.name == "lion" and self.beta_1 == 0:
            raise ValueError("optimizer.beta_1 must be above 0 for lion, not 0.")
        for field in ("learning_rate_rules", "weight_decay_rules"):
            for rule in getattr(self, field):
                parse_rule(rule, f"optimizer.{field}")
        for pattern in self.frozen:
            check_pattern(pattern, "optimizer.frozen")


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate over the run: warm-up, decay, cool-down.

    The formulas are those of big_vision's `create_learning_rate_schedule`.
    """

    name: ScheduleName = "cosine"
    """The decay after the warm-up: cosine, linear, constant, or rsqrt, 1 / sqrt(1 + t / timescale)
    ("Scaling Vision Transformers", Zhai et al., 2022)."""

    warmup_epochs: float = 5.0
    """Epochs until the peak learning rate, which the learning rate rises to linearly."""

    warmup_steps: int | None = None
    """The same in steps; overrides warmup_epochs."""

    start_fraction: float = 0.0
    """Learning rate at the start of the warm-up, as a fraction of the peak."""

    cooldown_epochs: float = 0.0
    """Epochs at the end in which the learning rate falls linearly; for constant and rsqrt."""

    cooldown_steps: int | None = None
    """The same in steps; overrides cooldown_epochs."""

    final_fraction: float = 0.0
    """Learning rate at the end, as a fraction of the peak. Without a cool-down, constant and rsqrt
    do not get there."""

    timescale: float = 10_000.0
    """Of rsqrt, in steps."""

    def __post_init__(self) -> None:
        for field in ("warmup_epochs", "warmup_steps", "cooldown_epochs", "cooldown_steps"):
            value = getattr(self, field)
            if value is not None:
                _check_range(f"schedule.{field}", value, 0, math.inf)
        for field in ("start_fraction", "final_fraction"):
            value = getattr(self, field)
            if not 0 <= value <= 1:
                raise ValueError(f"schedule.{field} must be between 0 and 1, not {value}.")
        _check_positive("schedule.timescale", self.timescale)


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank updates of a frozen model ("LoRA", Hu et al., 2021); the head learns in full."""

    rank: int = 0
    """Rank of the updates, such as 8; 0: no LoRA, every variable learns."""

    alpha: float | None = None
    """The updates are scaled by alpha / rank. None: alpha is the rank."""

    targets: tuple[str, ...] = (r".*/attention2?/(qkv|projection)/kernel",)
    """Patterns of the kernels of dense layers that get an update."""

    trainable: tuple[str, ...] = ()
    """Patterns of what else learns, in full, such as '.*/norm./.*' or '.*/bias'."""

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise ValueError(f"lora.rank must be 0 (no LoRA) or more, not {self.rank}.")
        if self.alpha is not None:
            _check_positive("lora.alpha", self.alpha)
        if self.rank and not self.targets:
            raise ValueError("lora.targets is empty: name the kernels, or leave it at its default.")
        for field in ("targets", "trainable"):
            for pattern in getattr(self, field):
                check_pattern(pattern, f"lora.{field}")


def parse_rule(rule: str, option: str) -> tuple[str, float]:
    """A rule as its pattern and its factor.

    Args:
        rule: "PATTERN=FACTOR"; the last equals sign counts.
        option: where the rule was given, for the message.

    Returns:
        The pattern and the factor.

    Raises:
        ValueError: if there is no such factor, or the pattern is no regular expression.

    Example:
        >>> parse_rule("head/.*=10", "optimizer.learning_rate_rules")
        ('head/.*', 10.0)
    """
    pattern, equals, text = rule.rpartition("=")
    try:
        factor = float(text)
    except ValueError:
        factor = math.nan
    if not equals or not pattern or not 0 <= factor < math.inf:
        raise ValueError(
            f"{option} takes rules 'PATTERN=FACTOR' with a factor of at least 0, such as "
            f"'head/.*=10', not {rule!r}."
        )
    check_pattern(pattern, option)
    return pattern, factor


def check_pattern(pattern: str, option: str) -> None:
    """Refuse what is no regular expression.

    Args:
        pattern: what was given.
        option: where, for the message.

    Raises:
        ValueError: with the reason.

    Example:
        >>> check_pattern("block_0[0-3]/.*", "optimizer.frozen")
    """
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"{option}: {pattern!r} is not a regular expression ({error}); every path below "
            f"block_00 is 'block_00/.*'."
        ) from error


def _check_positive(field: str, value: Any) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{field} must be positive, not {value}.")


def _check_range(field: str, value: float, low: float, high: float) -> None:
    if not low <= value < high:
        limit = f" and below {high}" if high < math.inf else ""
        raise ValueError(f"{field} must be at least {low}{limit}, not {value}.")
