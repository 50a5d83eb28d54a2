"""The updates against numpy, with rules and a moving average, on one device and on two."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.optimization.config import OptimizerConfig, ScheduleConfig
from training.optimization.optimizer import make_optimizer
from training.optimization.synchronized import synchronized

NAMES = ("adamw", "adam", "sgd", "nesterov", "lion", "lamb", "adafactor")
RULES = ("head/.*=10", "block_00/.*=0.5")
DECAYS = ("head/bias=0.5", ".*/kernel=1")
CONSTANT = ScheduleConfig(name="constant", warmup_epochs=0)


def config_for(name, **options):
    options = {"learning_rate": 0.01, "weight_decay": 0.3, **options}
    if name == "nesterov":
        return OptimizerConfig(name="sgd", nesterov=True, **options)
    return OptimizerConfig(name=name, **options)


def factors(path):
    """What RULES and DECAYS mean, written out."""
    rate = 10.0 if path.startswith("head/") else 0.5 if path.startswith("block_00/") else 1.0
    decay = 0.5 if path == "head/bias" else 1.0 if path.endswith("/kernel") else 0.0
    return rate, decay


class Reference:
    """One variable in float64, as the papers have it; weight decay before the update."""

    def __init__(self, name, value):
        self.name = name
        self.value = np.asarray(value, np.float64)
        self.m = np.zeros_like(self.value)
        self.v = np.zeros_like(self.value)
        if self.value.ndim >= 2:
            self.rows = np.zeros(self.value.shape[:-1])
            self.columns = np.zeros(self.value.shape[:-2] + self.value.shape[-1:])

    def step(self, g, t, rate, decay):
        self.value *= 1 - rate * decay
        self.value -= getattr(self, self.name)(g, t, rate)

    def adam(self, g, t, rate):
        self.m = 0.9 * self.m + 0.1 * g
        self.v = 0.999 * self.v + 0.001 * g**2
        corrected = self.v / (1 - 0.999**t)
        # Keras adds epsilon before the correction of the second moment.
        epsilon = 1e-7 / np.sqrt(1 - 0.999**t)
        return rate * self.m / (1 - 0.9**t) / (np.sqrt(corrected) + epsilon)

    adamw = adam

    def sgd(self, g, t, rate):
        self.m = 0.9 * self.m + rate * g
        return self.m

    def nesterov(self, g, t, rate):
        self.m = 0.9 * self.m + rate * g
        return 0.9 * self.m + rate * g

    def lion(self, g, t, rate):
        update = rate * np.sign(0.9 * self.m + 0.1 * g)
        self.m = 0.99 * self.m + 0.01 * g
        return update

    def lamb(self, g, t, rate):
        self.m = 0.9 * self.m + 0.1 * g
        self.v = 0.999 * self.v + 0.001 * g**2
        update = self.m / (1 - 0.9**t) / (np.sqrt(self.v / (1 - 0.999**t)) + 1e-7)
        size = np.linalg.norm(self.value)
        return rate * update * (size / np.linalg.norm(update) if size else 1)

    def adafactor(self, g, t, rate):
        keep = 1 - t**-0.8
        square = g**2 + 1e-30
        if g.ndim >= 2:
            self.rows = keep * self.rows + (1 - keep) * square.mean(-1)
            self.columns = keep * self.columns + (1 - keep) * square.mean(-2)
            mean = self.rows.mean(-1, keepdims=True)
            self.v = (self.rows / mean)[..., None] * self.columns[..., None, :]
        else:
            self.v = keep * self.v + (1 - keep) * square
        update = g / np.sqrt(self.v)
        update /= max(1, np.sqrt((update**2).mean()))
        return rate * max(1e-3, np.sqrt((self.value**2).mean())) * update


@pytest.mark.parametrize("name", NAMES)
def test_updates_follow_the_papers_and_the_rules(tiny_model, name):
    model = tiny_model()
    config = config_for(name, learning_rate_rules=RULES, weight_decay_rules=DECAYS, ema=0.7)
    optimizer = make_optimizer(model, config, CONSTANT, 10, 10)
    variables = model.trainable_variables
    references = [Reference(name, variable) for variable in variables]
    averages = [reference.value.copy() for reference in references]
    apply = tf.function(optimizer.apply)
    rng = np.random.default_rng(0)
    for t in range(1, 11):
        gradients = [rng.normal(0, 1, v.shape).astype("float32") for v in variables]
        apply([tf.constant(g) for g in gradients])
        momentum = min(0.7, t / (9 + t))
        for i, (variable, reference) in enumerate(zip(variables, references, strict=True)):
            rate, decay = factors(variable.path)
            reference.step(gradients[i].astype(np.float64), t, 0.01 * rate, 0.3 * decay)
            averages[i] = momentum * averages[i] + (1 - momentum) * reference.value
            if t in (1, 10):
                np.testing.assert_allclose(
                    variable, reference.value, rtol=2e-5, atol=2e-5, err_msg=variable.path
                )
    for average, value in zip(optimizer.moving_average, averages, strict=True):
        np.testing.assert_allclose(average, value, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_without_rules_it_is_the_optimizer_of_keras(tiny_model, name):
    ours, theirs = tiny_model(), tiny_model()
    config = config_for(name, weight_decay_rules=(".*=1",))
    optimizer = make_optimizer(ours, config, CONSTANT, 10, 10)
    plain = type(optimizer).__mro__[1]
    arguments = {"learning_rate": 0.01, "weight_decay": 0.3}
    if plain is keras.optimizers.SGD:
        arguments |= {"momentum": 0.9, "nesterov": name == "nesterov"}
    keras_own = plain(**arguments)
    rng = np.random.default_rng(0)
    for _ in range(3):
        gradients = [
            tf.constant(rng.normal(0, 1, v.shape).astype("float32"))
            for v in ours.trainable_variables
        ]
        optimizer.apply(gradients)
        keras_own.apply(gradients, theirs.trainable_variables)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        # One kernel does Adam's step; it takes 1 - beta_2 in float32, 1e-5 off what Keras takes.
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=5e-7 if "adam" in name else 1e-7)


def test_weight_decay_is_on_kernels_only_by_default(tiny_model):
    model = tiny_model()
    optimizer = make_optimizer(
        model, OptimizerConfig(learning_rate=0.1, weight_decay=0.5), CONSTANT, 10, 10
    )
    before = [np.asarray(v) for v in model.trainable_variables]
    optimizer.apply([tf.zeros(v.shape) for v in model.trainable_variables])
    shrunk = 0
    for variable, old in zip(model.trainable_variables, before, strict=True):
        decays = variable.path.endswith("/kernel")
        np.testing.assert_allclose(variable, old * (0.95 if decays else 1), rtol=1e-6)
        shrunk += decays
    assert shrunk == 2 + 2 * 4  # patches, head, and four in each of two blocks


@pytest.mark.parametrize("frozen", ["by pattern", "by a factor of 0"])
def test_frozen_variables_have_neither_updates_nor_state(tiny_model, frozen):
    model = tiny_model()
    options = {
        "by pattern": {"frozen": ("patch_embedding/.*", "block_00/.*")},
        "by a factor of 0": {"learning_rate_rules": ("patch_embedding/.*=0", "block_00/.*=0")},
    }[frozen]
    still = {
        v.path: np.asarray(v)
        for v in model.weights
        if v.path.startswith(("patch_embedding/", "block_00/"))
    }
    config = OptimizerConfig(weight_decay=0.5, ema=0.9, **options)
    optimizer = make_optimizer(model, config, CONSTANT, 10, 10)
    assert len(still) == 2 + 12
    assert not still.keys() & {v.path for v in model.trainable_variables}
    count = len(model.trainable_variables)
    assert len(model.weights) == count + len(still)
    assert len(optimizer.variables) == 1 + 3 * count  # step, two moments and the average
    before = model.get_layer("norm").gamma.numpy()
    optimizer.apply([tf.ones(v.shape) for v in model.trainable_variables])
    for variable in model.weights:
        if variable.path in still:
            np.testing.assert_array_equal(variable, still[variable.path])
    assert not np.allclose(model.get_layer("norm").gamma, before)


def test_the_moving_average_warms_up():
    variable = keras.Variable([0.0])
    optimizer = synchronized(keras.optimizers.SGD)(1.0, use_ema=True, ema_momentum=0.5)
    optimizer.build([variable])
    average, value = 0.0, 0.0
    for step in range(12):
        optimizer.apply([tf.constant([-1.0])])
        value += 1
        momentum = min(0.5, (1 + step) / (10 + step))
        average = momentum * average + (1 - momentum) * value
        assert float(optimizer.moving_average[0][0]) == pytest.approx(average, rel=1e-5)
    optimizer.finalize_variable_values([variable])
    assert float(variable[0]) == 12  # `fit` leaves the weights alone


def test_the_moving_average_of_bfloat16_weights_is_not_rounded():
    variable = keras.Variable([1.0], dtype="bfloat16")
    optimizer = synchronized(keras.optimizers.SGD)(1.0, use_ema=True, ema_momentum=0.999)
    optimizer.build([variable])
    optimizer.iterations.assign(1_000_000)
    variable.assign([2.0])
    for _ in range(3):
        optimizer.apply([tf.zeros([1], tf.bfloat16)])
    (average,) = optimizer.moving_average
    assert float(average[0]) == pytest.approx(2 - 0.999**3, rel=1e-6)
    variable.assign(average)
    assert float(variable[0]) == 1.0


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_building_again_changes_nothing(tiny_model, dtype):
    model = tiny_model(dtype=dtype)
    config = OptimizerConfig(ema=0.9, learning_rate_rules=RULES)
    optimizer = make_optimizer(model, config, CONSTANT, 10, 10)
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    state = [id(variable) for variable in optimizer.variables]
    multipliers = inner._learning_rate_multipliers
    assert set(multipliers) == {10.0, 0.5, 1.0}
    optimizer.build(model.trainable_variables)
    assert [id(variable) for variable in optimizer.variables] == state
    assert inner._learning_rate_multipliers == multipliers


def test_rules_reach_through_the_loss_scale(tiny_model):
    exact, half = tiny_model(), tiny_model(dtype="mixed_float16")
    config = config_for("sgd", learning_rate_rules=RULES, weight_decay_rules=DECAYS)
    optimizers = [make_optimizer(model, config, CONSTANT, 10, 10) for model in (exact, half)]
    assert isinstance(optimizers[1], keras.optimizers.LossScaleOptimizer)
    for model, optimizer in zip((exact, half), optimizers, strict=True):
        scale = optimizer.scale_loss(tf.constant(1.0))
        optimizer.apply([tf.ones(v.shape) * scale for v in model.trainable_variables])
    for a, b in zip(exact.trainable_variables, half.trainable_variables, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


REPLICAS = """
import json, sys
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras, keras_vit
from training.optimization.config import OptimizerConfig, ScheduleConfig
from training.optimization.optimizer import make_optimizer
result = {}
for name in ("adamw", "sgd", "lion", "lamb", "adafactor", "float16"):
    weights = []
    for devices in (["CPU:0"], ["CPU:0", "CPU:1"]):
        keras.utils.set_random_seed(0)
        strategy = tf.distribute.MirroredStrategy(devices)
        with strategy.scope():
            model = keras_vit.VisionTransformer(
                8, 4, hidden_dim=8, depth=1, num_heads=2, num_classes=3,
                dtype="mixed_float16" if name == "float16" else "float32")
            algorithm = "adamw" if name == "float16" else name
            config = OptimizerConfig(name=algorithm, learning_rate=0.01, ema=0.5,
                                     learning_rate_rules=("head/.*=10",),
                                     frozen=("norm/.*", "block_00/.*"))  # each takes its time
            schedule = ScheduleConfig(warmup_steps=2)
            optimizer = make_optimizer(model, config, schedule, 5, 1)
        average = getattr(optimizer, "inner_optimizer", optimizer).moving_average
        start = np.concatenate([np.ravel(v) for v in [*model.trainable_variables, *average]])
        @tf.function
        def step(gradients):
            strategy.run(lambda: optimizer.apply(gradients))
        rng = np.random.default_rng(0)
        for _ in range(4):
            step([tf.constant(rng.normal(0, 1, v.shape).astype("float32"))
                  for v in model.trainable_variables])
        for replica in range(len(devices)):
            values = [strategy.experimental_local_results(v.value)[replica]
                      for v in [*model.trainable_variables, *average]]
            weights.append(np.concatenate([np.ravel(v) for v in values]))
    assert np.abs(weights[0] - start).max() > 1e-3
    result[name] = [float(np.abs(w - weights[0]).max()) for w in weights]
print(json.dumps(result))
"""


@pytest.mark.slow
def test_two_replicas_do_what_one_does():
    output = subprocess.run(
        [sys.executable, "-c", REPLICAS], check=True, capture_output=True, text=True
    ).stdout
    results = json.loads(output.splitlines()[-1])
    assert len(results) == 6
    for name, differences in results.items():
        assert len(differences) == 3
        assert max(differences) < 1e-6, (name, differences)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0}, "optimizer.learning_rate must be positive, not 0"),
        ({"clip_norm": 0}, "optimizer.clip_norm must be positive"),
        ({"weight_decay": -0.1}, "optimizer.weight_decay must be at least 0, not -0.1"),
        ({"beta_1": 1.0}, "optimizer.beta_1 must be at least 0 and below 1, not 1.0"),
        ({"beta_2": -1}, "optimizer.beta_2"),
        ({"momentum": 1}, "optimizer.momentum"),
        ({"ema": 1.0}, "optimizer.ema"),
        ({"layer_decay": 0}, "optimizer.layer_decay must be above 0 and at most 1, not 0"),
        ({"name": "lion", "beta_1": 0}, "optimizer.beta_1 must be above 0 for lion"),
        ({"weight_decay_rules": (".*",)}, r"weight_decay_rules takes rules 'PATTERN=FACTOR'"),
        ({"learning_rate_rules": (".*=fast",)}, r"'head/.\*=10', not '.\*=fast'"),
        ({"learning_rate_rules": (".*=-1",)}, "factor of at least 0"),
        ({"learning_rate_rules": ("(=1",)}, "is not a regular expression"),
        ({"frozen": ("*/kernel",)}, r"optimizer.frozen: '\*/kernel' is not a regular"),
    ],
)
def test_wrong_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**options)


def test_clipping_can_be_off():
    assert OptimizerConfig(clip_norm=None).clip_norm is None
