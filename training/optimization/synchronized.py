"""What Keras' optimizers lack under `tf.distribute`.

Keras 3 clips and checks each replica's own gradient before it sums over the replicas, keeps its
moving average by an all-reduce for each variable, and overwrites the weights with the average when
`fit` ends. The train step of this project sums first; the optimizer then has nothing left to sum.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


@functools.cache
def synchronized(optimizer_class: type[keras.optimizers.Optimizer]) -> type:
    """A Keras optimizer that takes gradients which are the same on every replica.

    Args:
        optimizer_class: such as `keras.optimizers.AdamW`.

    Returns:
        A subclass of the same name. After `build`, `set_multipliers` gives each variable a
        learning rate and a weight decay of its own. With `use_ema=True` the average starts at the
        first weights and warms up: its momentum is at most (1 + t) / (10 + t) after t steps, as in
        `tf.train.ExponentialMovingAverage`; it is float32 whatever the weights are, as bfloat16
        would lose its small steps.

    Example:
        >>> variable = keras.Variable([1.0, 2.0])
        >>> optimizer = synchronized(keras.optimizers.SGD)(1.0)
        >>> optimizer.build([variable])
        >>> optimizer.set_multipliers([0.5], [0.0])
        >>> optimizer.apply([tf.constant([1.0, 1.0])])
        >>> variable.numpy().tolist()
        [0.5, 1.5]
    """

    class Synchronized(optimizer_class):
        def build(self, variables: list[keras.Variable]) -> None:
            if self.built:
                return  # the multipliers and the average stay
            super().build(variables)
            self.set_multipliers([1.0] * len(variables), [1.0] * len(variables))
            if self.use_ema:
                for average, variable in zip(self.moving_average, variables, strict=True):
                    average.assign(variable)

        def add_variable(self, *args: Any, **kwargs: Any) -> keras.Variable:
            if str(kwargs.get("name")).endswith("_average"):
                kwargs["dtype"] = "float32"
            return super().add_variable(*args, **kwargs)

        @property
        def moving_average(self) -> list[keras.Variable]:
            return list(self._model_variables_moving_average)

        def set_multipliers(
            self, learning_rates: Sequence[float], weight_decays: Sequence[float]
        ) -> None:
            # As tuples: Keras follows lists for variables in them.
            self._learning_rate_multipliers = tuple(learning_rates)
            self._weight_decay_multipliers = tuple(weight_decays)

        def update_step(self, gradient: tf.Tensor, variable: Any, learning_rate: Any) -> None:
            factor = self._learning_rate_multipliers[self._get_variable_index(variable)]
            learning_rate = learning_rate * factor
            adam = isinstance(self, keras.optimizers.Adam) and not self.amsgrad
            if adam and variable.dtype == tf.float32 and isinstance(gradient, tf.Tensor):
                _adam_step(self, gradient, variable, learning_rate)
            else:
                super().update_step(gradient, variable, learning_rate)

        def _apply_weight_decay(self, variables: list[keras.Variable]) -> None:
            if not self.weight_decay:
                return
            decays = [
                self.weight_decay
                * self._learning_rate_multipliers[self._get_variable_index(variable)]
                * self._weight_decay_multipliers[self._get_variable_index(variable)]
                for variable in variables
            ]

            def shrink(variable: tf.Variable, rate: Any) -> None:
                variable.assign_sub(variable * tf.cast(rate, variable.dtype))

            def update(distribution: tf.distribute.Strategy, rates: list[Any]) -> None:
                for variable, decay, rate in zip(variables, decays, rates, strict=True):
                    if decay:
                        distribution.extended.update(
                            variable.value, shrink, args=(rate,), group=False
                        )

            # Multiplied here: what arrives in `update` is one value for each replica.
            rate = tf.convert_to_tensor(self.learning_rate)
            self._everywhere(update, [rate * decay for decay in decays])

        def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
            return grads_and_vars  # the train step has summed them

        def _update_model_variables_moving_average(self, variables: list[keras.Variable]) -> None:
            steps = tf.cast(self.iterations.value, tf.float32)
            momentum = tf.minimum(self.ema_momentum, (1.0 + steps) / (10.0 + steps))

            def follow(average: tf.Variable, variable: tf.Variable, share: Any) -> None:
                average.assign_add((tf.cast(variable, average.dtype) - average) * share)

            def update(distribution: tf.distribute.Strategy, share: Any) -> None:
                for average, variable in zip(self.moving_average, variables, strict=True):
                    distribution.extended.update(
                        average.value, follow, args=(variable.value, share), group=False
                    )

            self._everywhere(update, 1.0 - momentum)

        def _everywhere(self, update: Any, *args: Any) -> None:
            tf.__internal__.distribute.interim.maybe_merge_call(
                update, tf.distribute.get_strategy(), *args
            )

        def finalize_variable_values(self, var_list: Any) -> None:
            """Keras puts the average in the place of the weights here; training may go on."""

    Synchronized.__name__ = optimizer_class.__name__
    return Synchronized


def _adam_step(
    adam: keras.optimizers.Adam, gradient: tf.Tensor, variable: tf.Variable, learning_rate: Any
) -> None:
    """The update of Keras' Adam and AdamW in one kernel, where Keras makes eleven passes."""
    index = adam._get_variable_index(variable)
    step = tf.cast(adam.iterations.value + 1, tf.float32)
    tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=adam._momentums[index].value.handle,
        v=adam._velocities[index].value.handle,
        beta1_power=tf.pow(adam.beta_1, step),
        beta2_power=tf.pow(adam.beta_2, step),
        lr=tf.cast(learning_rate, tf.float32),
        beta1=adam.beta_1,
        beta2=adam.beta_2,
        epsilon=adam.epsilon,
        grad=tf.cast(gradient, tf.float32),
    )


class LossScaleOptimizer(keras.optimizers.LossScaleOptimizer):
    """Keras', which may be asked to build once more.

    Args:
        inner_optimizer: what it wraps.
        **kwargs: as of `keras.optimizers.LossScaleOptimizer`.

    Example:
        >>> optimizer = LossScaleOptimizer(synchronized(keras.optimizers.SGD)(1.0))
        >>> variables = [keras.Variable([1.0, 2.0])]
        >>> optimizer.build(variables)
        >>> count = len(optimizer.variables)
        >>> optimizer.build(variables)
        >>> len(optimizer.variables) == count
        True
    """

    def build(self, variables: list[keras.Variable]) -> None:
        """Create the state of this optimizer and of the inner one, once."""
        if not self.built:
            super().build(variables)
