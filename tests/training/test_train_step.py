"""The update of one step, against numpy and against more replicas."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.optimization.optimizer import decays, make_optimizer
from training.optimization.config import OptimizerConfig, ScheduleConfig
from training.train_step import TrainedModel


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (8, 16, 16, 3)).astype("float32")
    return images, np.eye(5, dtype="float32")[rng.integers(0, 5, 8)]


def compiled(model, clip_norm, optimizer):
    trained = TrainedModel(model, clip_norm)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    trained.compile(
        optimizer=optimizer, loss=loss, metrics=[keras.metrics.CategoricalAccuracy("top1")]
    )
    return trained


def gradient(model, images, targets):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(
            tf.nn.softmax_cross_entropy_with_logits(targets, model(images, training=True))
        )
    values = [variable.value for variable in model.trainable_variables]
    return float(loss), [np.asarray(g) for g in tape.gradient(loss, values)]


@pytest.mark.parametrize("clip_norm", [0.01, 1e6])
def test_sgd_moves_against_the_clipped_gradient(tiny_model, batch, clip_norm):
    model = tiny_model()
    before = [np.asarray(v) for v in model.trainable_variables]
    loss, gradients = gradient(model, *batch)
    norm = np.sqrt(sum((g**2).sum() for g in gradients))
    scale = min(1, clip_norm / norm)
    logs = compiled(model, clip_norm, keras.optimizers.SGD(1.0)).train_on_batch(
        *batch, return_dict=True
    )
    assert logs["loss"] == pytest.approx(loss, rel=1e-5)
    for old, g, variable in zip(before, gradients, model.trainable_variables, strict=True):
        np.testing.assert_allclose(variable, old - scale * g, atol=1e-5)


def test_float16_loss_scaling_gives_the_same_update(tiny_model, batch):
    exact, half = tiny_model(), tiny_model(dtype="mixed_float16")
    half.set_weights(exact.get_weights())
    before = np.concatenate([np.ravel(w) for w in exact.get_weights()])
    for model in (exact, half):
        compiled(model, 0.01, keras.optimizers.SGD(1.0)).train_on_batch(*batch)
    moves = [
        np.concatenate([np.ravel(w) for w in model.get_weights()]) - before
        for model in (exact, half)
    ]
    assert np.linalg.norm(moves[0]) == pytest.approx(0.01, rel=1e-3)
    assert np.linalg.norm(moves[1] - moves[0]) < 0.05 * np.linalg.norm(moves[0])


def test_weight_decay_is_on_kernels_only(tiny_model):
    model = tiny_model()
    optimizer = make_optimizer(
        model,
        OptimizerConfig(learning_rate=0.1, weight_decay=0.5),
        ScheduleConfig(warmup_epochs=0),
        steps_per_epoch=10,
        epochs=10,
    )
    before = {v.path: np.asarray(v) for v in model.trainable_variables}
    optimizer.build(model.trainable_variables)
    zeros = [tf.zeros(v.shape) for v in model.trainable_variables]
    optimizer.apply_gradients(zip(zeros, model.trainable_variables, strict=True))
    shrunk = 0
    for variable in model.trainable_variables:
        factor = 1 - 0.1 * 0.5 if decays(variable.path) else 1
        shrunk += decays(variable.path)
        np.testing.assert_allclose(variable, before[variable.path] * factor, rtol=1e-5)
    assert shrunk == 2 + 2 * 4  # patches, head, and four in each of two blocks


def test_learning_rate_warms_up_and_follows_a_cosine(tiny_model):
    optimizer = make_optimizer(
        tiny_model(),
        OptimizerConfig(learning_rate=2.0),
        ScheduleConfig(warmup_epochs=2, final_fraction=0.1),
        steps_per_epoch=10,
        epochs=12,
    )
    rate = optimizer._learning_rate
    assert float(rate(0)) == 0
    assert float(rate(10)) == pytest.approx(1.0)
    assert float(rate(20)) == pytest.approx(2.0)
    assert float(rate(70)) == pytest.approx(2.0 * (0.9 * 0.5 + 0.1))
    assert float(rate(120)) == pytest.approx(0.2)


REPLICAS = """
import json, sys
import keras, numpy as np, tensorflow as tf
from training.strategy import make_strategy
strategy = make_strategy("mirrored" if sys.argv[1] != "1" else "none",
                         int(sys.argv[1]) if sys.argv[1] != "1" else None)
import keras_vit
from training.train_step import TrainedModel
keras.utils.set_random_seed(0)
with strategy.scope():
    model = keras_vit.VisionTransformer(16, 4, hidden_dim=16, depth=2, num_heads=2, num_classes=5)
    trained = TrainedModel(model, clip_norm=0.05)
    trained.compile(optimizer=keras.optimizers.SGD(0.5, momentum=0.9),
                    loss=keras.losses.CategoricalCrossentropy(from_logits=True),
                    metrics=[keras.metrics.CategoricalAccuracy("top1")])
rng = np.random.default_rng(0)
images = rng.uniform(-1, 1, (64, 16, 16, 3)).astype("float32")
targets = np.eye(5, dtype="float32")[rng.integers(0, 5, 64)]
data = tf.data.Dataset.from_tensor_slices((images, targets)).batch(16, drop_remainder=True)
test = tf.data.Dataset.from_tensor_slices((images[:37], targets[:37])).batch(16)
history = trained.fit(data, validation_data=test, epochs=2, verbose=0).history
weights = np.concatenate([np.ravel(w) for w in model.get_weights()])
print(json.dumps({"history": history, "weights": weights.tolist(),
                  "replicas": strategy.num_replicas_in_sync}))
"""


def test_two_replicas_give_the_weights_of_one():
    results = []
    for count in ("1", "2"):
        output = subprocess.run(
            [sys.executable, "-c", REPLICAS, count], check=True, capture_output=True, text=True
        ).stdout
        results.append(json.loads(output.splitlines()[-1]))
    one, two = results
    assert (one["replicas"], two["replicas"]) == (1, 2)
    a, b = np.array(one["weights"]), np.array(two["weights"])
    assert np.linalg.norm(a - b) < 1e-5 * np.linalg.norm(a)
    for name in one["history"]:
        np.testing.assert_allclose(one["history"][name], two["history"][name], rtol=1e-5)
