"""Looking for flat minima: SAM and GSAM."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from training.gradients import Result, Tensors, squared_norm


@dataclasses.dataclass(frozen=True)
class Sharpness:
    """Take the gradient where the loss is highest nearby, instead of here.

    SAM, "Sharpness-Aware Minimization" (Foret et al., 2021): the gradient at `w + rho g / |g|`,
    with g the gradient of the whole batch, over all replicas. GSAM, "Surrogate Gap Minimization"
    (Zhuang et al., 2022), for `alpha` above 0: from that gradient, `alpha` times the part of g that
    is orthogonal to it is taken away, and rho falls with the learning rate from `rho` to `rho_min`.

    Args:
        rho: radius.
        rho_min: radius where the learning rate is 0. Default None: `rho` throughout.
        alpha: of GSAM. Default 0: SAM.
        peak_learning_rate: where the radius is `rho`; needed with `rho_min`. Default 1.
    """

    rho: float
    rho_min: float | None = None
    alpha: float = 0.0
    peak_learning_rate: float = 1.0

    def __call__(
        self,
        values: Tensors,
        gradients: Tensors,
        gradient_at: Callable[[Tensors], Result],
        optimizer: Any,
    ) -> Tensors:
        """The gradients to follow.

        Args:
            values: the weights.
            gradients: at the weights, of the whole batch.
            gradient_at: gives the same at other weights.
            optimizer: gives the learning rate.

        Returns:
            As many gradients.
        """
        radius = tf.constant(self.rho)
        if self.rho_min is not None:
            share = tf.cast(optimizer.learning_rate, tf.float32) / self.peak_learning_rate
            radius = self.rho_min + (self.rho - self.rho_min) * share
        step = radius / tf.maximum(tf.sqrt(squared_norm(gradients)), 1e-12)
        moved = [
            value + tf.cast(step, value.dtype) * tf.cast(gradient, value.dtype)
            for value, gradient in zip(values, gradients, strict=True)
        ]
        robust = gradient_at(moved).gradients
        if not self.alpha:
            return robust
        product = tf.add_n([tf.reduce_sum(a * b) for a, b in zip(gradients, robust, strict=True)])
        along = product / tf.maximum(squared_norm(robust), 1e-24)
        return [r - self.alpha * (g - along * r) for r, g in zip(robust, gradients, strict=True)]
