"""Choosing devices."""

import json
import subprocess
import sys
import time
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.strategy import distribute, is_chief, make_strategy
from training.workers import run_workers


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
    with pytest.raises(ValueError, match="needs several processes"):
        make_strategy("multiworker")
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": {"worker": ["a:1"]}}))
    with pytest.raises(ValueError, match="needs several processes"):
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
    tf.config.list_logical_devices("CPU")
    with pytest.raises(ValueError, match="TensorFlow has started with"):
        make_strategy("mirrored", num_replicas=64)


def test_a_missing_tpu_is_explained():
    with pytest.raises(ValueError, match="No TPU was found"):
        make_strategy("tpu")


def test_what_keras_cannot_do_is_refused_with_the_reason(monkeypatch):
    with pytest.raises(ValueError, match="Parameter servers have no support in Keras 3"):
        make_strategy("parameter_server")
    cluster = {"cluster": {"worker": ["a:1", "b:1"], "ps": ["c:1"]}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    with pytest.raises(ValueError, match="give all hosts as workers"):
        make_strategy("auto")
    monkeypatch.delenv("TF_CONFIG")
    monkeypatch.setattr(keras.distribution, "distribution", lambda: object())
    with pytest.raises(ValueError, match=r"keras\.distribution is set"):
        make_strategy("auto")


def test_a_step_of_slurm_is_a_cluster(monkeypatch):
    for name, value in {
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
        "SLURM_STEP_NODELIST": "node[3-4]",
        "SLURM_PROCID": "1",
    }.items():
        monkeypatch.setenv(name, value)
    made = []
    monkeypatch.setattr(
        tf.distribute,
        "MultiWorkerMirroredStrategy",
        lambda cluster_resolver: made.append(cluster_resolver),
    )
    make_strategy("auto")
    (resolver,) = made
    hosts = resolver.cluster_spec().as_dict()["worker"]
    assert [host.split(":")[0] for host in hosts] == ["node3", "node4"]
    assert resolver.task_id == 1


@pytest.mark.parametrize(
    ("jobs", "task", "expected"),
    [
        ({"worker": ["a:1", "b:1"]}, ("worker", 0), True),
        ({"worker": ["a:1", "b:1"]}, ("worker", 1), False),
        ({"chief": ["a:1"], "worker": ["b:1"]}, ("chief", 0), True),
        ({"chief": ["a:1"], "worker": ["b:1"]}, ("worker", 0), False),
    ],
)
def test_a_cluster_has_one_chief(jobs, task, expected):
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec(jobs), task_type=task[0], task_id=task[1]
    )
    assert is_chief(SimpleNamespace(cluster_resolver=resolver)) == expected


def test_shares_have_no_end_and_go_to_one_device_as_they_are():
    strategy = tf.distribute.get_strategy()
    batches = distribute(
        strategy, lambda share: tf.data.Dataset.from_tensor_slices((np.ones([2, 3, 4]),))
    )
    sums = [float(tf.reduce_sum(part)) for (part,) in batches.take(4)]
    assert sums == [12, 12, 0, 0]


def test_workers_that_start_a_command_are_at_least_two():
    with pytest.raises(ValueError, match="--num-workers must be at least 2, not 1"):
        run_workers(["true"], 1)


def test_a_worker_that_fails_ends_the_others_and_is_shown(tmp_path):
    script = (
        "import json, os, sys, time\n"
        "index = json.loads(os.environ['TF_CONFIG'])['task']['index']\n"
        "if index == 1:\n"
        "    print('the reason')\n"
        "    sys.exit(3)\n"
        "time.sleep(600)\n"
    )
    lines = []
    begin = time.monotonic()
    assert run_workers([sys.executable, "-c", script], 3, lines.append) == 3
    assert time.monotonic() - begin < 30
    assert "Worker 1 of 3 has ended (exit status 3)" in lines[0]
    assert "  the reason" in lines
    assert run_workers([sys.executable, "-c", "pass"], 2, lines.append) == 0
