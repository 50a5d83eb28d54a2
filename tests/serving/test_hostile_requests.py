"""Servers under damaged images, malformed tensors and load while versions come and go.

The figures: `KERAS_VIT_HOSTILE=full pytest tests/serving/test_hostile_requests.py` sends 2,000
images, 5,000 tensors and 10,000 requests. A tensorflow_model_server on the PATH is tried too.
"""

import os
import random
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import hostile
import numpy as np
import pytest
from animals import animal_model
from processes import SERVERS, Server

from serving import Client
from serving.client import calls
from serving.export import export_model
from serving.local_server.servable import Servable
from serving.protos import serving_wire_pb2 as wire

FULL = os.environ.get("KERAS_VIT_HOSTILE") == "full"
IMAGES, TENSORS, REQUESTS = (2000, 5000, 10_000) if FULL else (80, 180, 300)
CALLERS = 32
GIGABYTE = 2**30
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """Versions of a model, not published yet; the third is the first again."""
    base = tmp_path_factory.mktemp("exports") / "animals"
    one, two = (export_model(animal_model(seed), base, batch_sizes=[1]).path for seed in range(2))
    return [one, two, one]


@pytest.fixture(scope="module", params=SERVERS)
def server(request, versions, tmp_path_factory):
    base = tmp_path_factory.mktemp("served") / "animals"
    shutil.copytree(versions[0], base / "1")
    server = Server(request.param, base, "--name", "animals")
    yield server
    server.stop()


def scores(client, images):
    """Scores [N, K] of the valid ones of some images, and which ones are."""
    answers = client.predict(images)
    valid = [answer.valid for answer in answers]
    return np.array([answer.scores for answer in answers if answer.valid]), valid


def test_damaged_images_harm_nobody(server):
    rng = np.random.default_rng(0)
    good = list(hostile.samples(rng).values())
    with Client(server.address, "animals", timeout=120, max_batch_size=8) as client:
        scores(client, good)
        idle = server.memory("VmRSS")
        images = iter(hostile.corpus(rng, IMAGES))
        found = 0
        while batch := [data for _, data in zip(range(5), images, strict=False)]:
            neighbours = [good[i] for i in rng.integers(0, len(good), 2)]
            mixed = [neighbours[0], *batch, neighbours[1]]
            got, valid = scores(client, mixed)
            assert valid[0]
            assert valid[-1]
            found += valid.count(False)
            # The same batch without the bad ones, bit for bit.
            alone, _ = scores(client, [d for d, v in zip(mixed, valid, strict=True) if v])
            np.testing.assert_array_equal(got, alone)
        assert found > IMAGES / 4
        if FULL:
            assert not client.predict([rng.bytes(100_000_000)])[0].valid
    assert server.memory("VmHWM") - idle < 1.5 * GIGABYTE


@pytest.mark.parametrize(
    "signature",
    ["serving_default", "probabilities", "images", "embed", "attention", "classify"],
)
def test_malformed_tensors_get_a_proper_status(server, signature):
    rng = np.random.default_rng(1)
    name = {"images": "images", "classify": "inputs"}.get(signature, "image_bytes")
    (predict,) = (method for method in calls.METHODS if method.path.endswith("/Predict"))
    proper = {"INVALID_ARGUMENT", "FAILED_PRECONDITION", "UNIMPLEMENTED", "OUT_OF_RANGE"}
    seen, failed = {}, []
    with grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary(
            predict.path, predict.request.SerializeToString, predict.response.FromString
        )
        for tensor in hostile.tensors(rng, wire, TENSORS // 6):
            request = wire.PredictRequest()
            request.model_spec.name, request.model_spec.signature_name = "animals", signature
            request.inputs[name].CopyFrom(tensor)
            try:
                call(request, timeout=20)
                status = "OK"
            except grpc.RpcError as error:
                status = error.code().name
                if status not in proper:
                    failed.append((status, error.details(), str(tensor)[:500]))
            seen[status] = seen.get(status, 0) + 1
        assert not failed
        assert seen["INVALID_ARGUMENT"] > TENSORS / 20
    with Client(server.address, "animals") as client:
        assert client.predict(next(iter(hostile.samples(rng).values())))[0].valid


def answers_of(path, images):
    """The scores that an export gives in this process, each image by itself."""
    servable = Servable("animals", 1, str(path))
    signature = servable.signatures["serving_default"]
    feed, scores = signature.inputs["image_bytes"].name, signature.outputs["scores"].name
    rows = [servable.run({feed: np.array([i], object)}, [scores], None)[scores] for i in images]
    servable.close()
    return [tuple(row[0].tolist()) for row in rows]


@pytest.mark.parametrize("kind", SERVERS)
def test_no_request_is_lost_while_versions_come_and_go(versions, tmp_path, kind):
    rng = np.random.default_rng(2)
    good = list(hostile.samples(rng).values())
    one, two = (answers_of(path, good) for path in versions[:2])
    expected = {1: one, 2: two, 3: one}
    assert one != two

    base = tmp_path / "animals"
    shutil.copytree(versions[0], base / "1")
    server = Server(kind, base, "--name", "animals")
    done, failed, answered_by = [], [], set()
    all_published = threading.Event()

    def publish(number):
        shutil.copytree(versions[number - 1], base / f".{number}")
        (base / f".{number}").rename(base / str(number))
        deadline = time.monotonic() + 120
        while number not in answered_by:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def ask(seed):
        chooser = random.Random(seed)
        while len(done) < REQUESTS or not all_published.is_set():
            which, bad = chooser.randrange(len(good)), chooser.random() < 0.05
            data = good[which][:40] if bad else good[which]
            (answer,) = client.predict(data)
            answered_by.add(answer.version)
            right = answer.valid and answer.scores == expected[answer.version][which]
            if right == bad or answer.valid == bad:
                failed.append((which, bad, answer))
            done.append(answer)

    with (
        Client(server.address, "animals", timeout=60) as client,
        ThreadPoolExecutor(CALLERS) as callers,
    ):
        calling = [callers.submit(ask, seed) for seed in range(CALLERS)]
        try:
            publish(2)
            shutil.rmtree(base / "1")
            publish(3)
        finally:
            all_published.set()
        for call in calling:
            call.result()  # raises what a request raised
    server.stop()
    assert not failed
    assert len(done) >= REQUESTS
    assert answered_by == {1, 2, 3}
