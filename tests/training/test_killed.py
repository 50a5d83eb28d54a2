"""Runs that are killed, stopped, or lose a worker, and go on by the same command.

`KERAS_VIT_KILLED_RUNS=20 pytest tests/training/test_killed.py -k killed_again` is the figure of the
documentation: each run is killed up to three times.
"""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import keras_vit
from training.workdir import only_run

RUNS = int(os.environ.get("KERAS_VIT_KILLED_RUNS", "1"))
EPOCHS = 6
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def command(workdir, *more):
    """A short run with everything in it that is random or has a state."""
    return [
        *(sys.executable, "-u", "-m", "keras_vit_cli", "train", "digits"),
        *("--workdir", str(workdir), "--epochs", str(EPOCHS), "--batch-size", "128"),
        *("--model.hidden-dim", "16", "--model.depth", "1", "--model.num-heads", "2"),
        *("--model.dropout-rate", "0.1", "--schedule.warmup-epochs", "1"),
        *("--optimizer.ema", "0.9", "--checkpoint.every-steps", "5", "--deterministic"),
        *more,
    ]


def start(workdir, *more):
    return subprocess.Popen(
        command(workdir, *more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def whole(workdir, *more):
    """Run to the end; what was printed."""
    process = start(workdir, *more)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    return output


def wait_for(process, text):
    """Read lines until one holds the text; all of them."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError(f"{text!r} did not come: {''.join(lines)}")


def weights(workdir):
    return keras_vit.load_model(workdir).get_weights()


def epochs(workdir):
    with (workdir / "metrics.csv").open() as file:
        return [int(row["epoch"]) for row in csv.DictReader(file)]


def metrics(workdir):
    with (workdir / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted") / "run"
    whole(workdir)
    return workdir


def assert_equal_runs(workdir, uninterrupted):
    assert epochs(workdir) == list(range(1, EPOCHS + 1))
    assert metrics(workdir) == metrics(uninterrupted)
    for a, b in zip(weights(workdir), weights(uninterrupted), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("seed", range(RUNS))
def test_a_run_that_is_killed_again_and_again_ends_as_an_uninterrupted_one(
    uninterrupted, tmp_path, seed
):
    workdir = tmp_path / "run"
    generator = random.Random(seed)
    process = start(workdir)
    wait_for(process, "epoch   1/")
    delays = [generator.uniform(0, 1)]
    # From here on at any moment of a start, too.
    delays += [generator.uniform(0, 15) for _ in range(generator.randint(0, 2))]
    killed = 0
    for delay in delays:
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        process = start(workdir)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    assert killed
    assert_equal_runs(workdir, uninterrupted)


def test_a_run_that_is_told_to_stop_saves_first(uninterrupted, tmp_path):
    workdir = tmp_path / "run"
    process = start(workdir)
    wait_for(process, "epoch   2/")
    process.send_signal(signal.SIGTERM)  # Ctrl-C: tests/cli/test_end_to_end.py
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "Stopped and saved" in output
    assert not (workdir / "model.keras").exists()
    assert "Going on after epoch" in whole(workdir)
    assert_equal_runs(workdir, uninterrupted)


def test_two_runs_cannot_write_one_workdir(tmp_path):
    with only_run(tmp_path / "run"):
        second = subprocess.run(command(tmp_path / "run"), capture_output=True, text=True)
    assert second.returncode == 1
    assert "Another run is writing" in second.stderr


def test_a_lost_worker_ends_the_other_and_the_run_goes_on(tmp_path):
    expected, workdir = tmp_path / "expected", tmp_path / "run"
    whole(expected, "--num-workers", "2")
    process = start(workdir, "--num-workers", "2")
    wait_for(process, "epoch   2/")
    children = children_of(process.pid)
    assert len(children) == 2
    os.kill(max(children), signal.SIGKILL)
    begin = time.monotonic()
    output, _ = process.communicate(timeout=60)
    assert time.monotonic() - begin < 60
    assert process.returncode not in (0, None)
    assert "has ended" in output
    assert "go on from the last checkpoint" in output
    assert not any(alive(child) for child in children)
    assert "Going on after epoch" in whole(workdir, "--num-workers", "2")
    assert epochs(workdir) == list(range(1, EPOCHS + 1))
    for a, b in zip(weights(workdir), weights(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False
