"""The same training on one device, on several, and in several processes.

`KERAS_VIT_TOPOLOGIES=all pytest tests/training/test_topologies.py` runs every case everywhere.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PROGRAM = Path(__file__).with_name("topologies.py")
# The others are parts of these; what takes time is that each is traced.
FEW = ["adamw_ema_accumulation"]
CASES = [*FEW, "gsam_jit_compile_steps_per_execution"]
ALL = os.environ.get("KERAS_VIT_TOPOLOGIES") == "all"
if ALL:
    CASES = FEW = [
        *(*CASES, "sgd", "sgd_accumulation", "adamw_ema", "gsam", "steps_per_execution"),
        "jit_compile_accumulation",
    ]


def start(request, environment=None):
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), json.dumps(request)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PROGRAM.parents[2]), **(environment or {})},
    )


def finish(process):
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0
    return json.loads(output.splitlines()[-1])


def start_workers(request, count=2):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    hosts = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for one in sockets:
        one.close()
    return [
        start(
            {**request, "workers": count},
            {
                "TF_CONFIG": json.dumps(
                    {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}
                )
            },
        )
        for index in range(count)
    ]


def assert_same(one, other, replicas):
    for case, expected in one.items():
        result = other[case]
        assert result["replicas"] == replicas
        a, b = np.array(expected["weights"]), np.array(result["weights"])
        assert np.linalg.norm(a - b) < 1e-5 * np.linalg.norm(a), case
        for x, y in zip(expected["history"], result["history"], strict=True):
            for name in x:
                assert y[name] == pytest.approx(x[name], rel=1e-5, abs=1e-6), (case, name)


@pytest.fixture(scope="module")
def one_device():
    return finish(start({"replicas": 1, "cases": CASES}))


@pytest.mark.slow
def test_two_replicas_give_the_weights_of_one(one_device):
    assert_same(one_device, finish(start({"replicas": 2, "cases": CASES})), 2)


@pytest.mark.slow
@pytest.mark.skipif(not ALL, reason="as two replicas; KERAS_VIT_TOPOLOGIES=all runs it")
def test_four_replicas_give_the_weights_of_one(one_device):
    result = finish(start({"replicas": 4, "cases": FEW[:1]}))
    assert_same({case: one_device[case] for case in FEW[:1]}, result, 4)


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one(one_device):
    first, second = (finish(process) for process in start_workers({"cases": FEW}))
    assert_same({case: one_device[case] for case in FEW}, first, 2)
    for case in FEW:
        assert first[case]["weights"] == second[case]["weights"]


@pytest.mark.slow
@pytest.mark.parametrize("broken", [0, 1] if ALL else [1])
def test_an_overflow_on_any_replica_is_left_out_on_all(broken):
    result = finish(start({"replicas": 2, "overflow": broken}))
    assert result["skipped_steps"] == 1
    assert result["loss_scale"] == 512
    assert result["moved"] == 0
