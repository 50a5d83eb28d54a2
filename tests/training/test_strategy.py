"""Choosing devices."""

import json
import subprocess
import sys

import pytest

from training.strategy import is_chief, make_strategy


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.delenv("TPU_NAME", raising=False)


def test_one_cpu_needs_no_strategy():
    strategy = make_strategy("auto")
    assert strategy.num_replicas_in_sync == 1
    assert is_chief(strategy)


def test_logical_devices_are_used_when_they_are_there():
    script = (
        "import tensorflow as tf\n"
        "from training.strategy import make_strategy\n"
        "(cpu,) = tf.config.list_physical_devices('CPU')\n"
        "two = [tf.config.LogicalDeviceConfiguration()] * 2\n"
        "tf.config.set_logical_device_configuration(cpu, two)\n"
        "assert make_strategy('auto').num_replicas_in_sync == 2\n"
        "assert make_strategy('mirrored').num_replicas_in_sync == 2\n"
        "assert make_strategy('none').num_replicas_in_sync == 1\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_multiworker_explains_tf_config(monkeypatch):
    with pytest.raises(ValueError, match="TF_CONFIG with at least two workers"):
        make_strategy("multiworker")
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": {"worker": ["a:1"]}}))
    with pytest.raises(ValueError, match="at least two workers"):
        make_strategy("multiworker")
    monkeypatch.setenv("TF_CONFIG", "{")
    with pytest.raises(ValueError, match="not valid JSON"):
        make_strategy("auto")


def test_num_replicas_is_for_mirrored():
    with pytest.raises(ValueError, match="goes with the strategy mirrored"):
        make_strategy("none", num_replicas=2)
    with pytest.raises(ValueError, match="at least 1"):
        make_strategy("mirrored", num_replicas=0)


def test_the_cpu_cannot_be_split_late():
    import tensorflow as tf

    tf.config.list_logical_devices("CPU")
    with pytest.raises(ValueError, match="TensorFlow has started with"):
        make_strategy("mirrored", num_replicas=64)


def test_a_missing_tpu_is_explained():
    with pytest.raises(ValueError, match="No TPU was found"):
        make_strategy("tpu")
