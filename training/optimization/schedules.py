"""The learning rate as a function of the step."""

from __future__ import annotations

import math
from typing import Any

import keras

from training.optimization.config import ScheduleConfig


@keras.saving.register_keras_serializable("keras_vit_training")
class LearningRate(keras.optimizers.schedules.LearningRateSchedule):
    """Warm-up, decay and cool-down, as in big_vision's `create_learning_rate_schedule`.

    With s the step, w the warm-up, T all steps, p = (s - w) / (T - w) in [0, 1] and e the final
    fraction, the peak is multiplied by

    - "cosine": e + (1 - e) (1 + cos(pi p)) / 2
    - "linear": e + (1 - e) (1 - p)
    - "rsqrt": 1 / sqrt(1 + max(s - w, 0) / timescale)
    - "constant": 1

    and by f + (1 - f) min(1, s / w) in the warm-up. In the cool-down what lies above e is
    multiplied by (T - s) / cooldown. big_vision has e = 0 and f = 0, but for "linear".

    Args:
        peak: the learning rate after the warm-up.
        total_steps: T.
        decay: one of the four. Default "cosine".
        warmup_steps: w. Default 0.
        cooldown_steps: last steps in which it falls linearly. Default 0.
        start_fraction: f. Default 0.
        final_fraction: e. Default 0.
        timescale: of "rsqrt", in steps. Default 10,000.

    Raises:
        ValueError: if warm-up and cool-down do not fit into the run.

    Example:
        >>> rate = LearningRate(2.0, total_steps=120, warmup_steps=20)
        >>> [round(float(rate(step)), 3) for step in (0, 10, 20, 70, 120)]
        [0.0, 1.0, 2.0, 1.0, 0.0]
    """

    def __init__(
        self,
        peak: float,
        total_steps: int,
        decay: str = "cosine",
        warmup_steps: int = 0,
        cooldown_steps: int = 0,
        start_fraction: float = 0.0,
        final_fraction: float = 0.0,
        timescale: float = 10_000.0,
    ) -> None:
        super().__init__()
        if warmup_steps + cooldown_steps > total_steps:
            raise ValueError(
                f"schedule: {warmup_steps} steps of warm-up and {cooldown_steps} of cool-down do "
                f"not fit into a run of {total_steps} steps: shorten schedule.warmup_epochs (or "
                f"warmup_steps) and schedule.cooldown_epochs, or train for longer."
            )
        self.peak = peak
        self.total_steps = total_steps
        self.decay = decay
        self.warmup_steps = warmup_steps
        self.cooldown_steps = cooldown_steps
        self.start_fraction = start_fraction
        self.final_fraction = final_fraction
        self.timescale = timescale

    def __call__(self, step: Any) -> Any:
        """The learning rate of a step, counted from 0: float32 scalar."""
        step = keras.ops.cast(step, "float32")
        end = self.final_fraction
        decayed_steps = max(self.total_steps - self.warmup_steps, 1)
        since_peak = keras.ops.maximum(step - self.warmup_steps, 0.0)
        progress = keras.ops.minimum(since_peak / decayed_steps, 1.0)
        if self.decay == "cosine":
            rate = end + (1 - end) * 0.5 * (1 + keras.ops.cos(math.pi * progress))
        elif self.decay == "linear":
            rate = end + (1 - end) * (1 - progress)
        elif self.decay == "rsqrt":
            rate = keras.ops.rsqrt(1 + since_peak / self.timescale)
        else:
            rate = keras.ops.ones_like(step)
        if self.warmup_steps:
            risen = keras.ops.minimum(step / self.warmup_steps, 1.0)
            rate = rate * (self.start_fraction + (1 - self.start_fraction) * risen)
        if self.cooldown_steps:
            left = keras.ops.clip((self.total_steps - step) / self.cooldown_steps, 0.0, 1.0)
            rate = end + (rate - end) * left
        return self.peak * rate

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "peak": self.peak,
            "total_steps": self.total_steps,
            "decay": self.decay,
            "warmup_steps": self.warmup_steps,
            "cooldown_steps": self.cooldown_steps,
            "start_fraction": self.start_fraction,
            "final_fraction": self.final_fraction,
            "timescale": self.timescale,
        }


def make_learning_rate(
    peak: float, schedule: ScheduleConfig, steps_per_epoch: int, total_steps: int
) -> LearningRate:
    """The learning rate that a config describes.

    Args:
        peak: the learning rate after the warm-up.
        schedule: its settings.
        steps_per_epoch: turns epochs into steps.
        total_steps: of the whole run.

    Returns:
        A `LearningRate`.

    Raises:
        ValueError: if warm-up and cool-down do not fit into the run.

    Example:
        >>> make_learning_rate(1.0, ScheduleConfig(warmup_epochs=0.5), 10, 100).warmup_steps
        5
    """

    def steps(count: int | None, epochs: float) -> int:
        return round(epochs * steps_per_epoch) if count is None else count

    return LearningRate(
        peak,
        total_steps,
        schedule.name,
        warmup_steps=steps(schedule.warmup_steps, schedule.warmup_epochs),
        cooldown_steps=steps(schedule.cooldown_steps, schedule.cooldown_epochs),
        start_fraction=schedule.start_fraction,
        final_fraction=schedule.final_fraction,
        timescale=schedule.timescale,
    )
