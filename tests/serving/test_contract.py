"""The contract of an export, on the local server and on a tensorflow_model_server on the PATH."""

import base64
import json
import shutil
import time
import urllib.error
import urllib.request

import keras
import numpy as np
import pytest
import tensorflow as tf
from animals import LABELS, animal_model
from processes import SERVERS, Server

import keras_vit
from keras_vit.decoding import decode_image
from serving import Client
from serving.configuration.models import ModelConfig, write_models
from serving.export import export_model
from serving.promotion import Target, promote
from serving.warmup_records import example

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models():
    return [animal_model(seed) for seed in range(2)]


@pytest.fixture(scope="module")
def exports(models, tmp_path_factory):
    base = tmp_path_factory.mktemp("exports") / "animals"
    return [export_model(model, base, batch_sizes=[1, 4]).path for model in models]


@pytest.fixture(scope="module")
def images(photo_bytes):
    return [photo_bytes(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def photo_bytes():
    def make(seed):
        rng = np.random.default_rng(seed)
        coarse = tf.constant(rng.integers(0, 256, (1, 5, 6, 3)), tf.float32)
        pixels = tf.cast(tf.image.resize(coarse, (60, 80))[0], tf.uint8)
        return tf.io.encode_jpeg(pixels, quality=95).numpy()

    return make


@pytest.fixture(scope="module", params=SERVERS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def server(kind, exports, tmp_path_factory):
    """With batching; `test_hostile_requests.py` asks one without."""
    base = tmp_path_factory.mktemp("served") / "animals"
    shutil.copytree(exports[0], base / "1")
    server = Server(kind, base, "--per-model-batching")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def expected(models, images):
    pixels = tf.stack([models[0].preprocessing(data) for data in images])
    return {
        "probabilities": np.asarray(keras.ops.softmax(models[0](pixels))),
        "embedding": np.asarray(models[0].representation_model()(pixels)),
        "attention": np.asarray(keras_vit.attention_rollout(models[0], pixels)),
    }


def test_every_signature_gives_the_models_numbers(server, images, expected):
    mixed = [images[0], b"no image", *images[1:]]
    with Client(server.address, "animals") as client:
        answers = client.predict(mixed, top_k=5)
        assert [answer.valid for answer in answers] == [True, False, True, True]
        valid = [answer for answer in answers if answer.valid]
        for answer, row in zip(valid, expected["probabilities"], strict=True):
            scores = dict(zip(answer.labels, answer.scores, strict=True))
            np.testing.assert_allclose([scores[name] for name in LABELS], row, atol=1e-5)
        embedded = np.stack([e.embedding for e in client.embed(images)])
        np.testing.assert_allclose(embedded, expected["embedding"], rtol=1e-4, atol=1e-4)
        attention = np.stack([a.attention for a in client.attention(images)])
        np.testing.assert_allclose(attention, expected["attention"], atol=1e-5)
        strings = np.array([example(data).SerializeToString() for data in mixed], object)
        classified = client.call({"inputs": strings}, signature="classify")
        assert classified["classes"].shape == (4, 5)
        assert not classified["scores"][1].any()
        pixels = np.stack([decode_image(data, 10**6) for data in images])
        raw = client.call({"images": pixels}, signature="images")
        best = np.sort(expected["probabilities"])[:, ::-1]
        np.testing.assert_allclose(raw["scores"], best, atol=1e-5)


def test_rest_rows_and_columns(server, images, expected):
    row = {"image_bytes": {"b64": base64.b64encode(images[0]).decode()}}
    body = {"signature_name": "probabilities", "instances": [row]}
    (answer,) = post(server, "/v1/models/animals:predict", body)["predictions"]
    np.testing.assert_allclose(answer["probabilities"], expected["probabilities"][0], atol=1e-5)
    body = {"inputs": [row["image_bytes"]] * 2}
    columns = post(server, "/v1/models/animals/versions/1:predict", body)["outputs"]
    assert columns["valid"] == [True, True]
    with pytest.raises(urllib.error.HTTPError, match="404"):
        post(server, "/v1/models/animals/versions/9:predict", body)


def test_the_page_counts(server, images):
    with Client(server.address, "animals") as client:
        client.predict(images[0])
    url = f"http://{server.rest_address}/monitoring/prometheus/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        page = answer.read().decode()
    assert ':tensorflow:serving:request_count{model_name="animals",status="OK"}' in page
    assert ":tensorflow:serving:model_warmup_latency_count" in page


def test_versions_and_labels(kind, exports, images, tmp_path):
    base = tmp_path / "animals"
    for number, path in enumerate(exports, 1):
        shutil.copytree(path, base / str(number))
    config = tmp_path / "models.config"
    model = ModelConfig("animals", str(base), specific=frozenset({1}), labels={"stable": 1})
    config.write_text(write_models([model]))
    (base / "labels.json").write_text('{"stable": [1]}')
    server = Server(kind, "--model-config-file", config)
    try:
        with Client(server.address, "animals", version_label="stable") as client:
            assert client.predict(images[0])[0].version == 1
            target = Target(base, "animals", config, server.address)
            promote(target, 2, "canary")
            promote(target, 2, "stable")
            assert client.predict(images[0])[0].version == 2
            deadline = time.monotonic() + 60
            while {s.version: s.state for s in client.status()}[1] != "END":
                assert time.monotonic() < deadline
                time.sleep(0.2)
    finally:
        server.stop()


def post(server, path, body):
    url = f"http://{server.rest_address}{path}"
    request = urllib.request.Request(url, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)
