"""A program: the same short training on one device, on several, or in several processes.

`python topologies.py '{"replicas": 2}'` prints the results of all cases as one line of JSON.
Processes of `"workers": 2` are started with TF_CONFIG by the test.
"""

import json
import sys

import keras
import numpy as np
import tensorflow as tf

from training.data.pipeline import Share
from training.optimization.synchronized import synchronized
from training.strategy import distribute, make_strategy

EXAMPLES, BATCH, EPOCHS = 100, 16, 4  # 7 steps an epoch, 4 examples in the last


def batches(share: Share, images, targets, epochs=1):
    """Whole batches, the last one filled up, and of each the share of one process."""
    steps = -(-len(images) // BATCH)
    padding = steps * BATCH - len(images)
    images = np.concatenate([images, np.full((padding, *images.shape[1:]), 7, "float32")])
    targets = np.concatenate([targets, np.zeros((padding, targets.shape[1]), "float32")])
    weights = np.concatenate([np.ones(EXAMPLES), np.zeros(padding)]).astype("float32")
    own = BATCH // share.count
    part = slice(share.index * own, (share.index + 1) * own)
    parts = tuple(
        np.stack([a[i * BATCH : (i + 1) * BATCH][part] for i in range(steps)])
        for a in (images, targets, weights)
    )
    return tf.data.Dataset.from_tensor_slices(parts).repeat(epochs)


def run(strategy, optimizer, options, compile_options=None, use_ema=False):
    import keras_vit
    from training.train_step import TrainedModel

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (EXAMPLES, 16, 16, 3)).astype("float32")
    targets = np.eye(5, dtype="float32")[rng.integers(0, 5, EXAMPLES)]
    with strategy.scope():
        model = keras_vit.VisionTransformer(
            16, 4, hidden_dim=16, depth=1, num_heads=2, num_classes=5
        )
        for variable in model.trainable_variables:
            variable.assign(variable + 0.1 * rng.normal(size=variable.shape))
        name, arguments = optimizer
        made = synchronized(getattr(keras.optimizers, name))(use_ema=use_ema, **arguments)
        made.build(model.trainable_variables)
        trained = TrainedModel(model, **options)
        trained.compile(optimizer=made, jit_compile=False, **(compile_options or {}))
    steps = -(-EXAMPLES // BATCH)
    history = []
    train = distribute(strategy, lambda share: batches(share, images, targets, EPOCHS))
    test = distribute(strategy, lambda share: batches(share, images, targets))

    class Count(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            trained.steps_left = steps

        def on_test_begin(self, logs=None):
            trained.steps_left = steps

        def on_epoch_end(self, epoch, logs=None):
            history.append({name: float(value) for name, value in logs.items()})

    trained.fit(
        train,
        epochs=EPOCHS,
        steps_per_epoch=steps,
        validation_data=test,
        validation_steps=steps,
        callbacks=[Count()],
        shuffle=False,
        verbose=0,
    )
    weights = np.concatenate([np.ravel(w) for w in model.get_weights()])
    return {
        "weights": weights.tolist(),
        "history": history,
        "replicas": strategy.num_replicas_in_sync,
    }


SGD = ("SGD", {"learning_rate": 0.5, "momentum": 0.9})
ADAMW = ("AdamW", {"learning_rate": 3e-3, "weight_decay": 0.1})
CASES = {
    "sgd": lambda s: run(s, SGD, {"clip_norm": 0.05}),
    "adamw_ema": lambda s: run(s, ADAMW, {"clip_norm": 0.05}, use_ema=True),
    "sgd_accumulation": lambda s: run(s, SGD, {"clip_norm": 0.05, "accumulation": 4}),
    "adamw_ema_accumulation": lambda s: run(
        s, ADAMW, {"clip_norm": 0.05, "accumulation": 4}, use_ema=True
    ),
    "gsam": lambda s: run(s, SGD, {"clip_norm": 0.05, "sharpness": _gsam()}),
    "steps_per_execution": lambda s: run(
        s, SGD, {"clip_norm": 0.05}, compile_options={"steps_per_execution": 3}
    ),
    "gsam_jit_compile_steps_per_execution": lambda s: run(
        s,
        SGD,
        {"clip_norm": 0.05, "sharpness": _gsam(), "jit_compile": True},
        compile_options={"steps_per_execution": 3},
    ),
    "jit_compile_accumulation": lambda s: run(
        s, SGD, {"clip_norm": 0.05, "accumulation": 4, "jit_compile": True}
    ),
}


def _gsam():
    from training.sharpness import Sharpness

    return Sharpness(0.5, rho_min=0.1, alpha=0.3)


def overflow(strategy, replica):
    """One step of float16 with an infinite image on one replica."""
    import keras_vit
    from training.optimization.synchronized import LossScaleOptimizer
    from training.train_step import TrainedModel

    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = keras_vit.VisionTransformer(
            16, 4, hidden_dim=16, depth=1, num_heads=2, num_classes=5, dtype="mixed_float16"
        )
        optimizer = LossScaleOptimizer(
            synchronized(keras.optimizers.SGD)(1.0), initial_scale=1024.0
        )
        optimizer.build(model.trainable_variables)
        trained = TrainedModel(model)
        trained.compile(optimizer=optimizer, jit_compile=False)
    images = np.zeros([8, 16, 16, 3], "float32")
    images[4 * replica] = np.inf
    parts = (images, np.eye(5, dtype="float32")[np.arange(8) % 5], np.ones(8, "float32"))
    before = model.get_weights()
    history = trained.fit(
        distribute(strategy, lambda share: tf.data.Dataset.from_tensors(parts)),
        steps_per_epoch=1,
        verbose=0,
        shuffle=False,
    ).history
    moved = max(np.abs(a - b).max() for a, b in zip(before, model.get_weights(), strict=True))
    return {name: value[0] for name, value in history.items()} | {"moved": float(moved)}


def main():
    request = json.loads(sys.argv[1])
    replicas = request.get("replicas", 1)
    if "overflow" in request:
        print(json.dumps(overflow(make_strategy("mirrored", replicas), request["overflow"])))
        return
    if request.get("workers"):
        strategy = make_strategy("multiworker")
    else:
        strategy = make_strategy("mirrored", replicas) if replicas > 1 else make_strategy("none")
    results = {name: CASES[name](strategy) for name in request.get("cases", CASES)}
    print(json.dumps(results))


if __name__ == "__main__":
    main()
