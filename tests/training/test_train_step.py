"""The update of one step, against numpy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.gradients import Batch, GradientFunction
from training.losses import make_loss
from training.optimization.synchronized import LossScaleOptimizer, synchronized
from training.sharpness import Sharpness
from training.train_step import TrainedModel


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (8, 16, 16, 3)).astype("float32")
    return images, np.eye(5, dtype="float32")[rng.integers(0, 5, 8)]


def compiled(model, optimizer=None, **options):
    optimizer = optimizer or synchronized(keras.optimizers.SGD)(1.0)
    optimizer.build(model.trainable_variables)
    trained = TrainedModel(model, **options)
    trained.compile(optimizer=optimizer, jit_compile=False)
    return trained


def fit(trained, images, targets, weights=None, steps=1):
    weights = np.ones(len(images), "float32") if weights is None else weights
    batches = tf.data.Dataset.from_tensors((images, targets, weights)).repeat()
    return trained.fit(batches, steps_per_epoch=steps, verbose=0, shuffle=False).history


def flat(model):
    return np.concatenate([np.ravel(v) for v in model.trainable_variables])


def gradient(model, images, targets):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(
            tf.nn.softmax_cross_entropy_with_logits(targets, model(images, training=True))
        )
    values = [variable.value for variable in model.trainable_variables]
    return float(loss), [np.asarray(g) for g in tape.gradient(loss, values)]


@pytest.mark.parametrize("clip_norm", [0.01, None])
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("streams", [1, 2])
def test_sgd_moves_against_the_clipped_gradient(
    tiny_model, batch, clip_norm, accumulation, streams
):
    model = tiny_model()
    before = [np.asarray(v) for v in model.trainable_variables]
    loss, gradients = gradient(model, *batch)
    norm = np.sqrt(sum((g**2).sum() for g in gradients))
    scale = 1 if clip_norm is None else min(1, clip_norm / norm)
    options = {"clip_norm": clip_norm, "accumulation": accumulation, "streams": streams}
    logs = fit(compiled(model, **options), *batch)
    assert logs["loss"][0] == pytest.approx(loss, rel=1e-5)
    assert logs["gradient_norm"][0] == pytest.approx(norm, rel=1e-4)
    for old, g, variable in zip(before, gradients, model.trainable_variables, strict=True):
        np.testing.assert_allclose(variable, old - scale * g, atol=1e-5)


def test_examples_of_weight_zero_count_for_nothing(tiny_model, batch):
    images, targets = batch
    whole, filled = tiny_model(), tiny_model()
    expected = fit(compiled(whole), images[:6], targets[:6])
    blank = np.concatenate([images[:6], np.full_like(images[6:], 9)])
    weights = np.array([1] * 6 + [0] * 2, "float32")
    logs = fit(compiled(filled), blank, targets, weights)
    np.testing.assert_allclose(flat(filled), flat(whole), atol=1e-6)
    for name, (value,) in expected.items():
        assert logs[name][0] == pytest.approx(value, rel=1e-5)


def test_evaluation_counts_each_example_once(tiny_model, batch):
    images, targets = batch
    model = tiny_model()
    logits = np.asarray(model(images))
    weights = np.array([1] * 5 + [0] * 3, "float32")
    batches = tf.data.Dataset.from_tensors((images, targets, weights))
    logs = compiled(model).evaluate(batches, steps=1, verbose=0, return_dict=True)
    log_softmax = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    losses = -(log_softmax * targets).sum(-1)
    assert logs["loss"] == pytest.approx(losses[:5].mean(), rel=1e-5)
    hits = logits.argmax(-1) == targets.argmax(-1)
    assert logs["top1"] == pytest.approx(hits[:5].mean())


def test_float16_loss_scaling_gives_the_same_update(tiny_model, batch):
    exact, half = tiny_model(), tiny_model(dtype="mixed_float16")
    half.set_weights(exact.get_weights())
    before = flat(exact)
    fit(compiled(exact, clip_norm=0.01), *batch)
    scaled = LossScaleOptimizer(synchronized(keras.optimizers.SGD)(1.0))
    fit(compiled(half, scaled, clip_norm=0.01), *batch)
    moves = [flat(model) - before for model in (exact, half)]
    assert np.linalg.norm(moves[0]) == pytest.approx(0.01, rel=1e-3)
    assert np.linalg.norm(moves[1] - moves[0]) < 0.05 * np.linalg.norm(moves[0])


def test_a_step_that_overflows_is_left_out_and_halves_the_scale(tiny_model, batch):
    images, targets = batch
    model = tiny_model(dtype="mixed_float16")
    before = flat(model)
    optimizer = LossScaleOptimizer(synchronized(keras.optimizers.SGD)(1.0), initial_scale=1024.0)
    broken = images.copy()
    broken[0] = np.inf
    logs = fit(compiled(model, optimizer), broken, targets)
    np.testing.assert_array_equal(flat(model), before)
    assert logs["skipped_steps"] == [1.0]
    assert logs["loss_scale"] == [512.0]


def test_the_moving_average_is_evaluated_and_leaves_the_weights_alone(tiny_model, batch):
    images, targets = batch
    model = tiny_model()
    optimizer = synchronized(keras.optimizers.SGD)(1.0, use_ema=True, ema_momentum=0.5)
    trained = compiled(model, optimizer)
    fit(trained, images, targets, steps=3)
    weights = flat(model)
    averages = [np.asarray(average) for average in optimizer.moving_average]
    data = tf.data.Dataset.from_tensors((images, targets, np.ones(8, "float32")))
    logs = trained.evaluate(data, steps=1, verbose=0, return_dict=True)
    np.testing.assert_array_equal(flat(model), weights)
    for variable, average in zip(model.trainable_variables, averages, strict=True):
        variable.assign(average)
    loss = np.mean(make_loss("softmax")(targets, model(images)))
    assert logs["loss"] == pytest.approx(loss, rel=1e-5)


def test_sam_takes_the_gradient_up_the_hill(tiny_model, batch):
    model, moved = tiny_model(), tiny_model()
    _, gradients = gradient(moved, *batch)
    norm = np.sqrt(sum((g**2).sum() for g in gradients))
    for variable, g in zip(moved.trainable_variables, gradients, strict=True):
        variable.assign(variable + 0.3 * g / norm)
    _, robust = gradient(moved, *batch)
    before = flat(model)
    fit(compiled(model, sharpness=Sharpness(0.3)), *batch)
    expected = before - np.concatenate([np.ravel(g) for g in robust])
    np.testing.assert_allclose(flat(model), expected, atol=1e-5)


def test_gsam_takes_the_orthogonal_part_away(tiny_model, batch):
    model, moved = tiny_model(), tiny_model()
    _, gradients = gradient(moved, *batch)
    clean = np.concatenate([np.ravel(g) for g in gradients])
    for variable, g in zip(moved.trainable_variables, gradients, strict=True):
        variable.assign(variable + 0.3 * g / np.linalg.norm(clean))
    robust = np.concatenate([np.ravel(g) for g in gradient(moved, *batch)[1]])
    orthogonal = clean - clean @ robust / (robust @ robust) * robust
    before = flat(model)
    fit(compiled(model, sharpness=Sharpness(0.3, alpha=0.4)), *batch)
    np.testing.assert_allclose(flat(model), before - (robust - 0.4 * orthogonal), atol=2e-5)


@pytest.mark.parametrize("streams", [1, 2])
def test_the_noise_scale_is_that_of_the_micro_batches(tiny_model, batch, streams):
    images, targets = batch
    model = tiny_model()
    parts = [gradient(model, images[i : i + 2], targets[i : i + 2])[1] for i in range(0, 8, 2)]
    parts = [np.concatenate([np.ravel(g) for g in part]) for part in parts]
    whole = np.mean(parts, axis=0)
    small, large = np.mean([p @ p for p in parts]), whole @ whole
    squared = (8 * large - 2 * small) / (8 - 2)
    trace = (small - large) / (1 / 2 - 1 / 8)
    options = {"accumulation": 4, "noise_scale": True, "streams": streams}
    logs = fit(compiled(model, **options), images, targets)
    assert logs["noise_scale"][0] == pytest.approx(trace / squared, rel=1e-3)
    trained = compiled(model, accumulation=4, noise_scale=True)
    assert np.isnan(trained.train_logs()["noise_scale"])  # no full batch so far
    with pytest.raises(ValueError, match="--accumulation 2"):
        TrainedModel(model, noise_scale=True)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_remat_changes_no_gradient(tiny_model, batch, jit_compile):
    rates = {"dropout_rate": 0.2, "drop_path_rate": 0.2, "attention_dropout_rate": 0.1}
    results = []
    for remat in (False, True):
        model = tiny_model(**rates)
        for block in model.blocks:
            block.remat = remat
        fit(compiled(model, jit_compile=jit_compile), *batch, steps=3)
        results.append(flat(model))
    np.testing.assert_allclose(results[1], results[0], atol=1e-6)


def test_dropout_depends_on_the_seed_and_the_step_alone(tiny_model, batch):
    results = []
    for seed in (0, 0, 1):
        model = tiny_model(dropout_rate=0.3)
        fit(compiled(model, seed=seed), *batch, steps=2)
        results.append(flat(model))
    np.testing.assert_array_equal(results[0], results[1])
    assert np.abs(results[2] - results[0]).max() > 1e-4


def test_bce_is_that_of_deit_3():
    targets = np.array([[0.0, 0.3, 0.7], [1.0, 0.0, 0.0]])
    logits = np.array([[0.5, -1.0, 2.0], [3.0, 0.1, -0.2]])
    # Its engine makes a 1 of every share above 0; torch's BCEWithLogitsLoss averages over classes.
    sign = np.where(targets > 0, 1.0, -1.0)
    expected = np.log1p(np.exp(-sign * logits)).mean(axis=1)
    losses = make_loss("bce")(tf.constant(targets, tf.float32), tf.constant(logits, tf.float32))
    np.testing.assert_allclose(losses, expected, rtol=1e-6)


def test_both_heads_of_a_distilled_model_learn_from_the_targets(tiny_model, batch):
    model = tiny_model(distillation_token=True)
    before = [np.asarray(v) for v in model.trainable_variables]
    _, gradients = gradient(model, *batch)  # of the mean of both
    fit(compiled(model), *batch)
    for old, g, variable in zip(before, gradients, model.trainable_variables, strict=True):
        np.testing.assert_allclose(variable, old - g, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "lengths"), [(8, [4, 4]), (5, [2, 3]), (1, [1]), (None, [None])], ids=str
)
def test_streams_share_a_batch(size, lengths):
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(3)])
    seen = []

    def losses(batch, outputs):
        seen.append(batch.images.shape[0])
        return tf.reduce_sum((outputs[0] - batch.targets) ** 2, -1)

    function = GradientFunction(model, losses, streams=2)
    values = [variable.value for variable in model.trainable_variables]

    @tf.function(
        input_signature=[tf.TensorSpec([size, n]) for n in (2, 3)] + [tf.TensorSpec([size])]
    )
    def gradients(*batch):
        return function(values, [], tf.constant([0, 0]), Batch(*batch), tf.constant(1.0))

    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(size or 4, n)).astype("float32") for n in (2, 3)]
    weights = np.arange(1, 1 + len(arrays[0]), dtype="float32")  # differ from part to part
    result = gradients(*arrays, weights)
    assert seen == lengths
    residual = arrays[0] @ np.asarray(values[0]) - arrays[1]
    expected = 2 * arrays[0].T @ (residual * weights[:, None])
    np.testing.assert_allclose(result.gradients[0], expected, rtol=1e-4, atol=1e-5)
    assert float(result.sums[0]) == pytest.approx((residual**2).sum(-1) @ weights, rel=1e-5)
    assert float(result.sums[2]) == weights.sum()


def test_an_evaluation_has_the_streams_of_the_training():
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(3)])
    seen = []
    call = model.call
    model.call = lambda x, **options: seen.append(x.shape[0]) or call(x, **options)
    function = GradientFunction(model, lambda batch, y: y[0][:, 0], streams=2)
    images = np.random.default_rng(0).normal(size=(5, 2)).astype("float32")
    (logits,) = function.outputs(tf.constant(images))
    assert seen == [2, 3]
    np.testing.assert_allclose(logits, images @ np.asarray(model.layers[0].kernel), rtol=1e-5)


@pytest.mark.parametrize("streams", [1, 2])
def test_parts_of_a_batch_draw_masks_of_their_own(streams):
    model = keras.Sequential([keras.Input([64]), keras.layers.Dropout(0.5)])
    outputs = []
    function = GradientFunction(
        model, lambda batch, y: outputs.append(y[0]) or tf.reduce_sum(y[0], -1), streams=streams
    )
    batch = Batch(tf.ones([2, 64]), tf.zeros([2, 64]), tf.ones([2]))
    function([], [], tf.constant([0, 1]), batch, tf.constant(1.0))
    first, second = np.concatenate([np.asarray(y) for y in outputs])
    assert (first != second).any()


def test_a_model_with_running_statistics_has_one_stream():
    model = keras.Sequential([keras.Input([2]), keras.layers.BatchNormalization()])
    function = GradientFunction(model, lambda batch, y: tf.reduce_sum(y[0], -1), streams=2)
    values = [variable.value for variable in model.trainable_variables]
    statistics = [variable.value for variable in function.statistics]
    images = tf.constant([[0.0, 0.0], [2.0, 4.0]])
    batch = Batch(images, tf.zeros([2, 2]), tf.ones([2]))
    result = function(values, statistics, tf.constant([0, 1]), batch, tf.constant(1.0))
    np.testing.assert_allclose(result.statistics[0], [0.01, 0.02], rtol=1e-5)
