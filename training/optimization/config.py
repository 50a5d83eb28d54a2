"""How the weights move: the optimizer and its learning rate; imports nothing heavy."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov & Hutter, 2019)."""

    learning_rate: float = 1e-3
    """Peak learning rate."""

    weight_decay: float = 0.05
    """Decoupled weight decay, times the learning rate; on kernels only."""

    beta_1: float = 0.9
    """Decay of the first moment."""

    beta_2: float = 0.999
    """Decay of the second moment."""

    clip_norm: float = 1.0
    """Global norm that the gradient of the whole batch is clipped to."""


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """Linear warm-up, then cosine decay."""

    warmup_epochs: float = 5.0
    """Epochs until the peak learning rate."""

    final_fraction: float = 0.0
    """Learning rate at the end, as a fraction of the peak."""
