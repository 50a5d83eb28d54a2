"""keras-hub's ViT on the TensorFlow backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_vit_cli.benchmarks.runner import Task

Step = Callable[[], Any]


def build(task: Task) -> tuple[Step, dict[str, Any]]:
    """Set keras-hub's classifier up, with the task's architecture.

    Args:
        task: of kind "inference" or "training".

    Returns:
        The step, and what there is to say about it.

    Raises:
        ValueError: for another kind.
    """
    import keras
    import keras_hub
    import tensorflow as tf

    from keras_vit import VisionTransformer
    from keras_vit.variants import get_variant

    if task.kind not in ("inference", "training"):
        raise ValueError(f"no {task.kind}")
    tf.config.threading.set_intra_op_parallelism_threads(task.threads)
    tf.config.threading.set_inter_op_parallelism_threads(task.threads)
    if task.dtype == "bfloat16":
        policy = "mixed_bfloat16" if task.kind == "training" else "bfloat16"
        keras.config.set_dtype_policy(policy)
    arguments = VisionTransformer.default_arguments() | get_variant(task.model).arguments
    backbone = keras_hub.models.ViTBackbone(
        image_shape=(task.image_size, task.image_size, 3),
        patch_size=arguments["patch_size"],
        num_layers=arguments["depth"],
        num_heads=arguments["num_heads"],
        hidden_dim=arguments["hidden_dim"],
        mlp_dim=4 * arguments["hidden_dim"],
    )
    model = keras_hub.models.ViTImageClassifier(backbone, num_classes=1000, preprocessor=None)
    shape = (task.batch_size, task.image_size, task.image_size, 3)
    images = tf.constant(np.random.default_rng(1).normal(size=shape).astype(np.float32))
    about = {"keras-hub": keras_hub.__version__}
    if task.kind == "inference":
        function = tf.function(
            lambda x: tf.nn.softmax(tf.cast(model(x, training=False), "float32"))
        )
        return lambda: function(images).numpy(), about
    labels = tf.constant(np.random.default_rng(2).integers(0, 1000, task.batch_size))
    model.compile(
        optimizer=keras.optimizers.AdamW(1e-4, weight_decay=0.05, global_clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return lambda: model.train_on_batch(images, labels), about
