"""The main job by its commands: train, be stopped, go on, evaluate, export, serve, predict."""

import contextlib
import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

# fmt: off
TRAIN = [
    "train", "digits", "--epochs", "16", "--batch-size", "128", "--model.hidden-dim", "64",
    "--model.depth", "2", "--schedule.warmup-epochs", "1", "--optimizer.learning-rate", "5e-3",
]
# fmt: on


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def start(home):
    """Start a command in a process of its own."""
    environment = os.environ | {"TFDS_DATA_DIR": str(home / "tfds")}

    def run(*arguments, **options):
        return subprocess.Popen(
            [sys.executable, "-m", "keras_vit_cli", *map(str, arguments)],
            cwd=home,
            env=environment | options.pop("env", {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    return run


@pytest.fixture(scope="module")
def finish(start):
    """Run a command to its end: exit status, output, errors."""

    def run(*arguments, **options):
        process = start(*arguments, **options)
        output, errors = process.communicate(timeout=300)
        return process.returncode, output, errors

    return run


def epochs_in(workdir):
    path = workdir / "metrics.csv"
    if not path.exists():
        return []
    with path.open() as file:
        return [int(row["epoch"]) for row in csv.DictReader(file)]


def stopped_by_ctrl_c(start, workdir):
    """Start the training, and stop it once an epoch is done: the ended process."""
    process = start(*TRAIN, "--workdir", workdir)
    deadline = time.monotonic() + 240
    while not epochs_in(workdir):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    while process.poll() is None:
        process.send_signal(signal.SIGINT)  # again, as a person would, if the first went unheard
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
    output, errors = process.communicate(timeout=120)
    assert not (workdir / "model.keras").exists(), "the run was over before the signal"
    return process.returncode, output, errors


@pytest.fixture(scope="module")
def trained(home, start, finish):
    """A run that was stopped with Ctrl-C and went on; tests/training/test_killed.py kills one."""
    workdir = home / "runs" / "digits"
    status, output, errors = stopped_by_ctrl_c(start, workdir)
    assert status == 130
    assert "Run the same command to go on" in output
    assert "Traceback" not in errors
    assert epochs_in(workdir)[0] == 1
    done = len(epochs_in(workdir))
    status, output, errors = finish(*TRAIN, "--workdir", workdir)
    assert status == 0, errors
    going_on = int(re.search(r"Going on after epoch (\d+) of 16", output)[1])
    assert going_on >= done  # the checkpoint comes before the row
    return workdir


def test_a_stopped_run_goes_on(trained):
    assert epochs_in(trained) == list(range(1, 17))
    assert (trained / "model.keras").exists()
    assert (trained / "curves.png").exists()


def test_another_recipe_in_the_same_workdir(finish, trained):
    status, _, errors = finish(*TRAIN, "--workdir", trained, "--seed", "1")
    assert status == 1
    assert "seed: 0 -> 1" in errors
    assert "Traceback" not in errors


def test_evaluate_prints_one_line_of_json(finish, trained):
    status, output, errors = finish("evaluate", trained, "--data", "digits")
    assert status == 0, errors
    result = json.loads(output)
    assert set(result) == {
        "top1",
        "top5",
        "loss",
        "calibration_error",
        "examples",
        "images_per_second",
    }
    assert result["examples"] == 360
    with (trained / "metrics.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert result["top1"] == pytest.approx(float(last["val_top1"]), abs=1e-6)


def test_two_replicas_train_too(home, finish):
    """Two processes: tests/training/test_killed.py."""
    workdir = home / "runs" / "mirrored"
    status, output, errors = finish(
        *TRAIN,
        "--workdir",
        workdir,
        "--epochs",
        "2",
        "--strategy",
        "mirrored",
        "--num-replicas",
        "2",
    )
    assert status == 0, errors
    assert "2 replica(s)" in output
    assert epochs_in(workdir) == [1, 2]


@pytest.fixture(scope="module")
def served(home, start, finish, trained):
    """The exported model on a server: its address."""
    status, output, errors = finish("export", trained, home / "served" / "digits")
    assert status == 0, errors
    assert str(home / "served" / "digits" / "1") in output
    process = start("serve", home / "served" / "digits", "--port", "0", "--server", "local")
    line = process.stdout.readline()
    found = re.search(r"Serving digits version 1 at (\S+:\d+)", line)
    assert found, (line, process.communicate())
    yield found[1]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.fixture(scope="module")
def images():
    """Test digits as PNG bytes."""
    from PIL import Image
    from sklearn.datasets import load_digits

    encoded = []
    for pixels in load_digits().images[:40]:
        buffer = io.BytesIO()
        Image.fromarray(np.round(pixels * (255 / 16)).astype(np.uint8)).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    return encoded


def test_answers_equal_the_keras_model(served, trained, images):
    import keras
    import tensorflow as tf

    import keras_vit
    from serving import Client

    model = keras_vit.load_model(trained)
    pixels = tf.stack([model.preprocessing(data) for data in images])
    expected = np.asarray(keras.ops.softmax(model(pixels)))
    with Client(served, model="digits") as client:
        answers = client.predict(images, top_k=10)
        again = client.probabilities(images)
    for answer, other, row in zip(answers, again, expected, strict=True):
        assert answer.valid
        assert answer.labels[0] == model.labels[row.argmax()]
        np.testing.assert_allclose(answer.scores, np.sort(row)[::-1], atol=1e-4)
        np.testing.assert_allclose(other.probabilities, row, atol=1e-4)


def test_a_stock_client_gets_the_same_answers(served, images):
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    from serving import Client

    with grpc.insecure_channel(served) as channel:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "digits"
        request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(images[:5]))
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        outputs = stub.Predict(request, timeout=30).outputs
    with Client(served, model="digits") as client:
        ours = client.predict(images[:5], top_k=10)
    scores = tf.make_ndarray(outputs["scores"])
    classes = tf.make_ndarray(outputs["classes"]).astype(str)
    np.testing.assert_array_equal(scores, [answer.scores for answer in ours])
    np.testing.assert_array_equal(classes, [answer.labels for answer in ours])


def test_predict_names_bad_files(served, home, images, finish):
    (home / "seven.png").write_bytes(images[7])
    (home / "broken.png").write_bytes(images[7][:50])
    command = ("predict", home / "seven.png", "--address", served, "--name", "digits")
    status, output, errors = finish(*command, "--top", "3", "--json")
    assert status == 0, errors
    answer = json.loads(output)
    assert answer["valid"]
    assert len(answer["labels"]) == 3
    status, output, errors = finish(*command[:2], home / "broken.png", *command[2:])
    assert status == 1
    assert "seven.png: " in output
    assert "broken.png" in errors
    assert "Traceback" not in errors


def test_an_occupied_port_is_named(served, home, finish):
    port = served.rsplit(":")[-1]
    status, _, errors = finish("serve", home / "served" / "digits", "--port", port)
    assert status == 1
    assert port in errors
    assert "Traceback" not in errors
