"""The learning rate against formulas in numpy."""

import keras
import numpy as np
import pytest

from training.optimization.config import OptimizerConfig, ScheduleConfig
from training.optimization.optimizer import make_optimizer
from training.optimization.schedules import LearningRate, make_learning_rate

TOTAL, WARMUP = 1000, 100


def expected(name, steps, *, start=0.0, final=0.0, cooldown=0, timescale=10_000.0, warmup=WARMUP):
    """What big_vision computes, with a start and an end of its own; float64."""
    values = []
    for step in steps:
        progress = np.clip((step - warmup) / (TOTAL - warmup), 0, 1)
        value = {
            "cosine": final + (1 - final) * (1 + np.cos(np.pi * progress)) / 2,
            "linear": 1 - (1 - final) * progress,
            "rsqrt": 1.0 if step < warmup else (1 + (step - warmup) / timescale) ** -0.5,
            "constant": 1.0,
        }[name]
        if step < warmup:
            value *= start + (1 - start) * step / warmup
        if cooldown and step > TOTAL - cooldown:
            value = final + (value - final) * (TOTAL - step) / cooldown
        values.append(value)
    return np.array(values)


@pytest.mark.parametrize("name", ["cosine", "linear", "constant", "rsqrt"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"start": 0.01, "final": 0.1},
        {"cooldown": 200},
        {"cooldown": 200, "final": 0.05, "timescale": 50.0},
        {"warmup": 0},
    ],
)
def test_formulas(name, options):
    schedule = ScheduleConfig(
        name=name,
        warmup_steps=options.get("warmup", WARMUP),
        cooldown_steps=options.get("cooldown", 0),
        start_fraction=options.get("start", 0.0),
        final_fraction=options.get("final", 0.0),
        timescale=options.get("timescale", 10_000.0),
    )
    rate = make_learning_rate(0.5, schedule, steps_per_epoch=7, total_steps=TOTAL)
    steps = [0, 1, 7, 99, 100, 101, 350, 550, 799, 800, 801, 900, 999, 1000]
    values = [float(rate(step)) for step in steps]
    np.testing.assert_allclose(values, 0.5 * expected(name, steps, **options), atol=1e-6)


def test_the_numbers_of_a_run(tiny_model):
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


def test_after_the_last_step_the_rate_stays():
    for name in ("cosine", "linear"):
        rate = LearningRate(1.0, 100, name, final_fraction=0.2)
        assert float(rate(150)) == pytest.approx(0.2)
    rate = LearningRate(1.0, 100, "constant", cooldown_steps=10)
    assert float(rate(150)) == 0


def test_epochs_become_steps_and_steps_override_them():
    schedule = ScheduleConfig(warmup_epochs=0.5, cooldown_epochs=2)
    rate = make_learning_rate(1.0, schedule, steps_per_epoch=10, total_steps=100)
    assert (rate.warmup_steps, rate.cooldown_steps) == (5, 20)
    schedule = ScheduleConfig(warmup_steps=3, warmup_epochs=5, cooldown_epochs=2, cooldown_steps=0)
    rate = make_learning_rate(1.0, schedule, steps_per_epoch=10, total_steps=100)
    assert (rate.warmup_steps, rate.cooldown_steps) == (3, 0)


def test_total_steps_override_the_epochs(tiny_model):
    def rate(**options):
        schedule = ScheduleConfig(warmup_steps=0)
        optimizer = make_optimizer(
            tiny_model(), OptimizerConfig(learning_rate=2.0), schedule, 10, 12, **options
        )
        return optimizer._learning_rate

    assert float(rate()(60)) == pytest.approx(1.0)
    assert float(rate(total_steps=60)(30)) == pytest.approx(1.0)


def test_the_optimizer_follows_the_schedule(tiny_model):
    model = tiny_model()
    optimizer = make_optimizer(model, OptimizerConfig(), ScheduleConfig(warmup_epochs=1), 4, 10)
    rates = []
    for _ in range(6):
        rates.append(float(optimizer.learning_rate))
        optimizer.apply([keras.ops.ones_like(v) for v in model.trainable_variables])
    decay = (1 + np.cos(np.pi * np.array([0, 1]) / 36)) / 2
    np.testing.assert_allclose(rates, 1e-3 * np.array([0, 0.25, 0.5, 0.75, *decay]), rtol=1e-5)


def test_a_schedule_survives_serialisation():
    rate = LearningRate(0.3, 100, "rsqrt", 10, 20, 0.1, 0.2, 50.0)
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(rate))
    assert again.get_config() == rate.get_config()
    assert float(again(42)) == float(rate(42))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup_epochs": -1}, "schedule.warmup_epochs must be at least 0, not -1"),
        ({"warmup_steps": -1}, "schedule.warmup_steps must be at least 0"),
        ({"cooldown_epochs": -0.5}, "schedule.cooldown_epochs must be"),
        ({"start_fraction": 1.5}, "schedule.start_fraction must be between 0 and 1, not 1.5"),
        ({"final_fraction": -0.1}, "schedule.final_fraction must be"),
        ({"timescale": 0}, "schedule.timescale must be positive"),
    ],
)
def test_wrong_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ScheduleConfig(**options)


def test_warm_up_and_cool_down_must_fit():
    schedule = ScheduleConfig(warmup_epochs=5, cooldown_steps=60)
    with pytest.raises(ValueError, match=r"50 steps of warm-up and 60 .* run of 100 steps"):
        make_learning_rate(1.0, schedule, steps_per_epoch=10, total_steps=100)
