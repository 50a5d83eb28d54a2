"""The train step: gradients summed over every replica first, then clipped, then applied.

Keras clips each replica's own gradient before the sum, looks for infinities on the first replica
only, and cannot accumulate or run several steps at once on more than one. This step can, and gives
the same weights on one device, on several, and across processes.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_vit import VisionTransformer
from training.gradients import Batch, GradientFunction, Result, Tensors, hits, squared_norm
from training.losses import Distillation, Loss, make_loss
from training.sharpness import Sharpness
from training.strategy import is_multiworker

# Where `TrainedModel.train_sums` and `test_sums` hold what.
_TRAIN = (
    "loss",
    "top1",
    "weight",
    "gradient_norm",
    "steps",
    "skipped",
    "trace",
    "squared_norm",
    "stop",
)
_TEST = ("loss", "top1", "weight", "top5")


@keras.saving.register_keras_serializable("keras_vit_training")
class TrainedModel(keras.Model):
    """A Vision Transformer with the train step of this project; it is what `fit` runs.

    Batches are (images [B, H, W, C], targets [B, classes], weights [B]); an example of weight 0
    counts for nothing, so the last batch of an epoch is filled up with such and every batch has one
    size. The loss is the mean over the examples that count, of all replicas.

    Args:
        model: what is trained.
        loss: of each example. Default None: softmax cross-entropy.
        clip_norm: global norm that the gradient of the whole batch is clipped to. Default None: not
            clipped.
        accumulation: micro-batches that each replica's share is cut into. Default 1.
        sharpness: SAM or GSAM. Default None: plain gradients.
        distillation: a teacher. Default None.
        jit_compile: whether XLA compiles forward and backward pass. Default False.
        noise_scale: whether the gradient noise scale is estimated ("An Empirical Model of
            Large-Batch Training", McCandlish et al., 2018); needs accumulation or several replicas.
            Default False.
        streams: parts of each replica's share that are computed at the same time, see
            `GradientFunction`. Default 1.
        seed: of dropout and stochastic depth. Default 0.

    Example:
        >>> model = VisionTransformer(32, 8, hidden_dim=16, depth=1, num_heads=2, num_classes=3)
        >>> trained = TrainedModel(model, clip_norm=1.0)
        >>> trained(keras.ops.zeros([1, 32, 32, 3])).shape
        TensorShape([1, 3])
    """

    def __init__(
        self,
        model: VisionTransformer,
        loss: Loss | None = None,
        *,
        clip_norm: float | None = None,
        accumulation: int = 1,
        sharpness: Sharpness | None = None,
        distillation: Distillation | None = None,
        jit_compile: bool = False,
        noise_scale: bool = False,
        streams: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(name="trained_model")
        self.model = model
        self.steps_left: int | None = None  # in this epoch or evaluation; None: one at a time
        self._evaluating = False
        self._criterion = loss or make_loss("softmax")
        self._clip_norm = clip_norm
        self._sharpness = sharpness
        self._distillation = distillation
        self._noise_scale = noise_scale
        self._small_batches = accumulation * self.distribute_strategy.num_replicas_in_sync
        if noise_scale and self._small_batches == 1:
            raise ValueError(
                "The gradient noise scale compares the gradients of parts of a batch: it needs "
                "--accumulation 2 or more, or several replicas."
            )
        self._seed = seed
        self._gradient = GradientFunction(
            model.heads_model(),
            self._example_losses,
            accumulation,
            jit_compile,
            noise_scale,
            streams,
        )
        self.train_sums = self._sums_variable("train_sums", len(_TRAIN))
        self.test_sums = self._sums_variable("test_sums", len(_TEST))
        # Another value in each process: whether it has been told to stop.
        self._stop = tf.Variable(
            0.0,
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.SUM,
        )
        self.build((None, *model.input_shape[1:]))

    def _sums_variable(self, name: str, size: int) -> keras.Variable:
        return keras.Variable(tf.zeros([size], tf.float64), trainable=False, name=name)

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Nothing to create: the model inside is built."""
        self.built = True

    def call(self, images: Any, training: bool | None = None) -> Any:
        """Images [B, H, W, C] -> logits [B, num_classes]."""
        return self.model(images, training=training)

    def _example_losses(self, batch: Batch, outputs: Tensors) -> tf.Tensor:
        # Without a teacher every head learns from the targets, through the mean of their logits.
        if self._distillation is None:
            return self._criterion(batch.targets, _mean(outputs))  # [b]
        losses = self._criterion(batch.targets, outputs[0])
        return self._distillation.blend(losses, batch.images, outputs[-1])

    # === One step on one replica ===

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """One step on this replica's share of the batch.

        Args:
            data: images [b, H, W, C], targets [b, classes] and weights [b].

        Returns:
            What it adds to `train_sums`, the same on every replica.
        """
        batch = Batch(*data)
        context = tf.distribute.get_replica_context()
        replicas = context.num_replicas_in_sync
        trainable = self.model.trainable_variables
        values = [tf.convert_to_tensor(variable.value) for variable in trainable]
        statistics = [tf.convert_to_tensor(v.value) for v in self._gradient.statistics]
        # Dividing by the full batch keeps float16 in range; the weights correct it afterwards.
        whole = tf.cast(tf.shape(batch.weights)[0] * replicas, tf.float32)
        factor = self.optimizer.scale_loss(tf.constant(1.0)) / whole
        steps = self.optimizer.iterations
        seed = tf.random.experimental.stateless_fold_in(
            tf.stack([self._seed, tf.cast(steps, tf.int32)]),
            tf.cast(context.replica_id_in_sync_group, tf.int32),
        )

        def gradient_at(values: Tensors) -> Result:
            return self._synchronized(
                self._gradient(values, statistics, seed, batch, factor), whole
            )

        result = gradient_at(values)
        gradients = result.gradients
        if self._sharpness is not None:
            gradients = self._sharpness(values, gradients, gradient_at, self.optimizer)
        scale = self.optimizer.scale_loss(tf.constant(1.0))
        norm = tf.sqrt(squared_norm(gradients)) / scale
        if self._clip_norm is not None:
            shrink = tf.minimum(1.0, self._clip_norm / tf.maximum(norm, 1e-12))
            gradients = [gradient * tf.cast(shrink, gradient.dtype) for gradient in gradients]
        self.optimizer.apply(gradients, trainable)
        _assign_everywhere(self._gradient.statistics, result.statistics)
        return self._summary(result, norm, whole)

    def _synchronized(self, result: Result, whole: tf.Tensor) -> Result:
        """The sum over all replicas; the gradient of the mean over the examples that count."""
        context = tf.distribute.get_replica_context()
        sums = result.sums
        if self.has_workers:
            sums = tf.concat([sums, tf.reshape(self._stop, [1])], axis=0)
        *gradients, sums = context.all_reduce(tf.distribute.ReduceOp.SUM, [*result.gradients, sums])
        statistics = result.statistics
        if statistics:
            statistics = context.all_reduce(tf.distribute.ReduceOp.MEAN, statistics)
        correction = whole / tf.maximum(sums[2], 1.0)
        gradients = [g * tf.cast(correction, g.dtype) for g in gradients]
        return Result(gradients, sums, statistics)

    def _summary(self, result: Result, norm: tf.Tensor, whole: tf.Tensor) -> tf.Tensor:
        loss, hit, weight, small, *told = tf.unstack(result.sums)
        stop = told[0] if told else tf.zeros([])
        finite = tf.math.is_finite(norm) & tf.math.is_finite(loss)
        trace = squared = tf.zeros([])
        if self._noise_scale:
            # Unbiased estimates from two batch sizes, McCandlish et al., appendix A.1.
            ratio = float(self._small_batches)
            small_squared = small / weight  # E |g|^2 of a micro-batch
            whole_squared = norm**2
            squared = (ratio * whole_squared - small_squared) / (ratio - 1)
            trace = (small_squared - whole_squared) / (ratio - 1) * weight
            # A batch that is filled up has micro-batches of other sizes.
            full = tf.cast(weight >= whole, tf.float32)
            trace, squared = trace * full, squared * full
        summary = tf.stack(
            [loss, hit, weight, norm, tf.ones([]), tf.zeros([]), trace, squared, stop]
        )
        if _scales_loss(self.optimizer):
            # The optimizer leaves such a step out, on every replica.
            skipped = tf.one_hot(_TRAIN.index("skipped"), len(_TRAIN))
            summary = tf.where(finite, summary, skipped)
        return tf.cast(summary, tf.float64)

    def test_step(self, data: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """One evaluation step; arguments as of `train_step`, the result is for `test_sums`."""
        images, targets, weights = data
        logits = _mean(self._gradient.outputs(images))  # [b, classes]
        losses = make_loss("softmax")(targets, logits)
        columns = [
            losses,
            hits(targets, logits),
            tf.ones_like(losses),
            hits(targets, logits, min(5, logits.shape[-1])),
        ]
        # The logits of what only fills up the batch may be anything.
        counted = [tf.where(weights > 0, column * weights, 0.0) for column in columns]
        sums = tf.cast(tf.reduce_sum(tf.stack(counted), axis=-1), tf.float64)
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, sums)

    # === Steps on all replicas ===

    def make_train_function(self, force: bool = False) -> None:
        """Keras' hook: what `fit` calls for each step, or for `steps_per_execution` of them."""
        if getattr(self, "train_function", None) is None or force:
            self.train_function: Any = self._stepper(
                self.train_step, self.train_sums, self.train_logs
            )

    def make_test_function(self, force: bool = False) -> None:
        """Keras' hook: what `evaluate` calls."""
        if getattr(self, "test_function", None) is None or force:
            self.test_function: Any = self._stepper(self.test_step, self.test_sums, self.test_logs)

    def _stepper(
        self, step: Callable[..., tf.Tensor], sums: keras.Variable, logs: Callable[[], dict]
    ) -> Callable[[Any], dict[str, float]]:
        strategy = self.distribute_strategy

        @tf.function(autograph=False)
        def one(iterator: Any) -> None:
            per_replica = strategy.run(step, args=(next(iterator),))
            sums.assign_add(strategy.experimental_local_results(per_replica)[0])

        @tf.function(autograph=False)
        def several(iterator: Any, count: tf.Tensor) -> None:
            def body(done: tf.Tensor) -> tf.Tensor:
                one(iterator)
                return done + 1

            tf.while_loop(lambda done: done < count, body, [tf.constant(0)])

        def function(iterator: Any) -> dict[str, float]:
            count = 1
            if self.steps_left is not None:
                count = min(self.steps_per_execution, self.steps_left)
                self.steps_left -= count
            if count == 1:
                one(iterator)
            else:
                several(iterator, tf.constant(count))
            return logs()

        return function

    def train_logs(self) -> dict[str, float]:
        """The metrics of the epoch so far."""
        sums = dict(zip(_TRAIN, self.train_sums.numpy().tolist(), strict=True))
        weight, steps = max(sums["weight"], 1.0), max(sums["steps"], 1.0)
        logs = {
            "loss": sums["loss"] / weight,
            "top1": sums["top1"] / weight,
            "gradient_norm": sums["gradient_norm"] / steps,
        }
        if self._noise_scale:
            measured = sums["squared_norm"]  # 0 before the first full batch
            logs["noise_scale"] = sums["trace"] / measured if measured else math.nan
        if _scales_loss(self.optimizer):
            logs["skipped_steps"] = sums["skipped"]
            logs["loss_scale"] = float(self.optimizer.dynamic_scale.numpy())
        return logs

    def test_logs(self) -> dict[str, float]:
        """The metrics of the evaluation so far."""
        sums = dict(zip(_TEST, self.test_sums.numpy().tolist(), strict=True))
        weight = max(sums["weight"], 1.0)
        return {name: sums[name] / weight for name in ("loss", "top1", "top5")}

    # === Stopping ===

    @property
    def has_workers(self) -> bool:
        """Whether several processes train together."""
        return is_multiworker(self.distribute_strategy)

    def ask_to_stop(self) -> None:
        """Tell the other workers with the next step, so that all stop at the same one."""
        if self.has_workers:
            self._stop.assign(1.0)

    def must_stop(self, told: bool) -> bool:
        """Whether to stop after this step: this process was told, or with workers any of them."""
        if not self.has_workers:
            return told
        sums = self.train_sums.numpy()
        place = _TRAIN.index("stop")
        stop = bool(sums[place])
        if stop:  # what is saved now must not stop the run that goes on from it
            sums[place] = 0.0
            self.train_sums.assign(sums)
        return stop

    # === What Keras asks for ===

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """None of Keras': the sums are kept over all replicas, and saved in checkpoints."""
        return []

    def reset_metrics(self) -> None:
        """Begin an epoch or an evaluation, which leaves the sums of the epoch alone."""
        sums = self.test_sums if self._evaluating else self.train_sums
        sums.assign(tf.zeros_like(sums))

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Every variable exists already; Keras' own way fails with several workers."""

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.evaluate`, with the moving average of the weights where there is one."""
        self._evaluating = True
        try:
            with self.averaged_weights():
                return super().evaluate(*args, **kwargs)
        finally:
            self._evaluating = False

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """The moving average in the place of the weights; exactly the weights again afterwards."""
        optimizer: Any = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        if not optimizer.use_ema:
            yield
            return
        variables = self.model.trainable_variables
        weights = [variable.numpy() for variable in variables]
        for variable, average in zip(variables, optimizer.moving_average, strict=True):
            variable.assign(average)
        try:
            yield
        finally:
            for variable, weight in zip(variables, weights, strict=True):
                variable.assign(weight)


def _mean(logits: Tensors) -> tf.Tensor:
    """The mean of what the heads give [B, classes], in float32."""
    return tf.add_n([tf.cast(one, tf.float32) for one in logits]) / len(logits)


def _scales_loss(optimizer: keras.optimizers.Optimizer) -> bool:
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


def _assign_everywhere(variables: list[keras.Variable], values: Tensors) -> None:
    """Assign what is the same on every replica."""
    if not variables:
        return

    def update(distribution: tf.distribute.Strategy, values: Tensors) -> None:
        for variable, value in zip(variables, values, strict=True):
            distribution.extended.update(
                variable.value, lambda v, new: v.assign(new), args=(value,), group=False
            )

    tf.__internal__.distribute.interim.maybe_merge_call(
        update, tf.distribute.get_strategy(), values
    )
