"""The train step: gradients summed over every replica first, then clipped, then applied.

Keras clips each replica's own gradient before the sum, which is another (and wrong) update as
soon as there are two replicas.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_vit import VisionTransformer


@keras.saving.register_keras_serializable("keras_vit_training")
class TrainedModel(keras.Model):
    """A Vision Transformer with the train step of this project; it is what `fit` runs.

    Args:
        model: what is trained.
        clip_norm: global norm that the gradient of the whole batch is clipped to.

    Example:
        >>> model = VisionTransformer(32, 8, hidden_dim=16, depth=1, num_heads=2, num_classes=3)
        >>> trained = TrainedModel(model, clip_norm=1.0)
        >>> trained(keras.ops.zeros([1, 32, 32, 3])).shape
        TensorShape([1, 3])
    """

    def __init__(self, model: VisionTransformer, clip_norm: float) -> None:
        super().__init__(name="trained_model")
        self.model = model
        self.clip_norm = clip_norm
        self.build((None, *model.input_shape[1:]))

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Nothing to create: the model inside is built."""
        self.built = True

    def call(self, images: Any, training: bool | None = None) -> Any:
        """Images [B, H, W, C] -> logits [B, num_classes]."""
        return self.model(images, training=training)

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One step on this replica's share of the batch.

        Args:
            data: images [b, H, W, C] and one-hot targets [b, num_classes].

        Returns:
            The metrics so far.
        """
        images, targets, _ = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            logits = self(images, training=True)  # [b, num_classes]
            loss = self.compute_loss(images, targets, logits)  # this replica's part of the mean
            scaled_loss = self.optimizer.scale_loss(loss)
        variables = [variable.value for variable in self.trainable_variables]
        gradients = tape.gradient(scaled_loss, variables)

        context = tf.distribute.get_replica_context()
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        # Under loss scaling the gradients carry the scale, and so must the threshold.
        gradients, _ = tf.clip_by_global_norm(
            gradients, self.optimizer.scale_loss(tf.constant(self.clip_norm))
        )
        # The optimizer sums over the replicas once more: hand it equal shares of the sum.
        replicas = context.num_replicas_in_sync
        self.optimizer.apply_gradients(
            zip([g / replicas for g in gradients], self.trainable_variables, strict=True)
        )
        self._loss_tracker.update_state(loss * replicas, sample_weight=tf.shape(images)[0])
        return self._logs(self.compute_metrics(images, targets, logits))

    def test_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One evaluation step; arguments and result as of `train_step`."""
        return self._logs(super().test_step(data))

    # === What Keras 3.15 lacks for several processes ===

    def _logs(self, logs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        # Keras averages the logs of several workers over axis 0, which a scalar does not have.
        if not isinstance(self.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
            return logs
        return {name: tf.reshape(value, [1]) for name, value in logs.items()}

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        # Keras reduces a batch of several workers here, which fails; one local share is enough to
        # create every variable.
        if iterator is not None:
            for _, _, batches in iterator:
                data_batch = keras.tree.map_structure(self._local_share, next(batches))
                break
        with self.distribute_strategy.scope():
            self._symbolic_build(data_batch=data_batch)

    def _local_share(self, value: Any) -> tf.Tensor:
        return self.distribute_strategy.experimental_local_results(value)[0]
