"""The clients: what they accept, what they send, what they return, how they fail."""

import asyncio
import io
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from colour_model import pixels, png
from PIL import Image

from serving import AsyncClient, Client
from serving.client import (
    TLS,
    DeadlineExceededError,
    ImageInputError,
    InvalidRequestError,
    MissingImageError,
    ModelNotFoundError,
    ServerUnavailableError,
    ServingError,
    SignatureNotFoundError,
)
from serving.client.images import batches, collect

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.fixture(scope="module")
def client(server):
    with Client(server.address, model="colours", max_batch_size=3) as opened:
        yield opened


# === What images may be ===


def test_every_kind_of_image_in_one_call(client, tmp_path):
    file = tmp_path / "red.png"
    file.write_bytes(png(RED))
    images = [file, str(file), png(GREEN), Image.new("RGB", (5, 5), BLUE), pixels(RED), b"broken"]
    results = client.predict(images, top_k=2)
    assert [result.labels[:1] for result in results] == [
        ("red",), ("red",), ("green",), ("blue",), ("red",), (),
    ]  # fmt: skip
    assert [result.valid for result in results] == [True] * 5 + [False]
    assert [result.source for result in results] == [
        str(file), str(file), "image 2", "image 3", "image 4", "image 5",
    ]  # fmt: skip
    assert results[5].labels == results[5].scores == ()
    assert all(result.version == 1 for result in results)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_pil_modes_are_sent_as_png(mode):
    (image,) = collect(Image.new(mode, (4, 3)))
    assert Image.open(io.BytesIO(image.encoded())).size == (4, 3)


def test_a_single_image_gives_a_list_of_one(client):
    (result,) = client.predict(png(RED), top_k=1)
    assert result.labels == ("red",)
    assert 0.9 < result.scores[0] <= 1


def test_no_images_give_no_results(client):
    assert client.predict([]) == []


def test_arrays_of_different_sizes_keep_their_order(client):
    images = [pixels(RED, 4, 4), pixels(GREEN, 9, 5), pixels(BLUE, 4, 4), pixels(RED, 9, 5)]
    labels = [result.labels[0] for result in client.predict(images, top_k=1)]
    assert labels == ["red", "green", "blue", "red"]


def test_more_images_than_one_request_holds(client):
    colours = [RED, GREEN, BLUE] * 5
    array = np.stack([pixels(colour) for colour in colours])
    assert [r.labels[0] for r in client.predict(array)] == ["red", "green", "blue"] * 5
    encoded = [png(colour) for colour in colours]
    assert [r.labels[0] for r in client.predict(iter(encoded))] == ["red", "green", "blue"] * 5


def test_batches_hold_at_most_the_maximum():
    images = collect([pixels(RED)] * 5 + [png(RED)] * 4)
    shapes = [array.shape for _, array in batches(images, 2, pixels_apart=True)]
    assert shapes == [(2, 6, 8, 3), (2, 6, 8, 3), (1, 6, 8, 3), (2,), (2,)]


def test_our_png_is_lossless():
    array = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    (image,) = collect(array)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(image.encoded()))), array)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (pixels(RED).astype(np.float32) / 255, "float32 array of shape"),
        (np.zeros((8, 8), np.uint8), "gray"),
        (np.zeros((0, 8, 3), np.uint8), r"\[0, 8, 3\]"),
        ([3], "image 0 is a int"),
        ({"a": b"x"}, "cannot send dict"),
        (None, "cannot send NoneType"),
    ],
)
def test_other_things_are_refused(images, words):
    with pytest.raises(ImageInputError, match=words):
        collect(images)


def test_missing_files_are_named_before_anything_is_sent(tmp_path):
    client = Client("localhost:1", "colours")  # nobody listens there, and nobody is asked
    with pytest.raises(MissingImageError, match=r"nowhere\.png.*Nothing was sent"):
        client.predict([png(RED), tmp_path / "nowhere.png"])
    with pytest.raises(MissingImageError, match=tmp_path.name):
        client.predict(tmp_path)


# === What comes back ===


def test_probabilities_embeddings_and_attention(client):
    images = [png(RED), b"broken", pixels(BLUE)]
    first, broken, last = client.probabilities(images)
    assert first.probabilities.shape == (3,)
    assert first.probabilities.argmax() == 0
    assert last.probabilities.argmax() == 2
    assert not broken.valid
    assert broken.probabilities.shape == (0,)
    assert [result.embedding.shape for result in client.embed(images)] == [(3,), (0,), (3,)]
    np.testing.assert_allclose(client.embed(png(RED))[0].embedding, [1, 0, 0], atol=1e-6)
    shapes = [result.attention.shape for result in client.attention(images)]
    assert shapes == [(2, 3), (0, 0), (2, 3)]


def test_classify_api(client):
    results = client.classify([png(GREEN), pixels(BLUE)], top_k=1)
    assert [result.labels for result in results] == [("green",), ("blue",)]


def test_metadata_and_status(client):
    metadata = client.metadata()
    assert (metadata.model, metadata.version) == ("colours", 1)
    assert metadata.signatures["images"].inputs["images"].shape == (-1, -1, -1, 3)
    assert metadata.signatures["embed"].outputs["embedding"].dtype == "DT_FLOAT"
    assert not any(name.startswith("__") for name in metadata.signatures)
    (status,) = client.status()
    assert (status.version, status.state, status.error) == (1, "AVAILABLE", "")


def test_any_signature(client):
    answer = client.call({"seconds": np.array([0.01])}, signature="slow")
    np.testing.assert_allclose(answer["seconds"], [0.01])


def test_the_async_client_answers_the_same(client, server, tmp_path):
    file = tmp_path / "red.png"
    file.write_bytes(png(RED))
    images = [file, b"broken", *[pixels(GREEN)] * 4]

    async def ask():
        async with AsyncClient(server.address, "colours", max_batch_size=3) as twin:
            answers = await asyncio.gather(
                twin.predict(images), twin.embed(images), twin.status(), twin.classify(file)
            )
            with pytest.raises(SignatureNotFoundError, match="nope"):
                await twin.call({}, signature="nope")
            with pytest.raises(MissingImageError):
                await twin.predict("nowhere.png")
        with pytest.raises(ServingError, match="closed"):
            await twin.status()
        return answers

    predicted, embedded, status, classified = asyncio.run(ask())
    assert predicted == client.predict(images)
    for ours, theirs in zip(embedded, client.embed(images), strict=True):
        np.testing.assert_array_equal(ours.embedding, theirs.embedding)
    assert status == client.status()
    assert classified == client.classify(file)


def test_a_stock_client_gets_the_same_answers(client, server):
    """What TensorFlow Serving's own Python package is told by the same server."""
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    images = [png(RED), png(GREEN), b"broken"]
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "colours"
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(images))
    with grpc.insecure_channel(server.address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        outputs = stub.Predict(request, timeout=30).outputs
    classes, scores = (tf.make_ndarray(outputs[name]) for name in ("classes", "scores"))
    ours = client.predict(images)
    assert [r.valid for r in ours] == tf.make_ndarray(outputs["valid"]).tolist()
    for row, result in enumerate(ours[:2]):
        assert [label.encode() for label in result.labels] == classes[row].tolist()
        np.testing.assert_array_equal(np.float32(result.scores), scores[row])


# === How it fails ===


def test_nobody_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        Client(f"127.0.0.1:{port}", "colours", timeout=5) as client,
        pytest.raises(ServerUnavailableError, match=f"127.0.0.1:{port}.*keras-vit serve"),
    ):
        client.predict(png(RED))


def test_unknown_model_version_and_signature(server, client):
    with (
        Client(server.address, "colors") as other,
        pytest.raises(ModelNotFoundError, match=r"'colors'.*--name"),
    ):
        other.predict(png(RED))
    with (
        Client(server.address, "colours", version=7) as other,
        pytest.raises(ModelNotFoundError, match="version 7") as caught,
    ):
        other.metadata()
    assert caught.value.code == "NOT_FOUND"
    assert caught.value.details == "Servable not found for request: Specific(colours, 7)"
    with pytest.raises(SignatureNotFoundError, match=r"'nope'.*metadata\(\)"):
        client.call({}, signature="nope")
    with (
        Client(server.address, "colours", version_label="stable") as other,
        pytest.raises(InvalidRequestError, match="stable"),
    ):
        other.predict(png(RED))


def test_deadline(client):
    start = time.monotonic()
    with pytest.raises(DeadlineExceededError, match=r"within 0\.3 s.*timeout"):
        client.call({"seconds": np.array([1.0])}, signature="slow", timeout=0.3)
    assert time.monotonic() - start < 0.9


def test_closed_client(server):
    client = Client(server.address, "colours")
    client.close()
    with pytest.raises(ServingError, match="closed"):
        client.status()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"address": "http://localhost:8501"}, "HOST:PORT"),
        ({"address": "localhost"}, "no port"),
        ({"model": ""}, "empty"),
        ({"version": 1, "version_label": "stable"}, "not both"),
        ({"timeout": 0}, "positive"),
        ({"max_batch_size": 0}, "at least 1"),
    ],
)
def test_senseless_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        Client(**({"address": "localhost:8500", "model": "colours"} | arguments))


def test_top_k_must_be_positive(client):
    with pytest.raises(ValueError, match="top_k is 0"):
        client.predict(png(RED), top_k=0)


def test_tls_files_are_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ca\.pem"):
        Client("localhost:8500", "colours", tls=TLS(root_certificates=tmp_path / "ca.pem"))


# === What it costs ===


def test_the_client_imports_neither_tensorflow_nor_the_model():
    code = (
        "import sys, time; start = time.perf_counter(); import serving; "
        "cost = time.perf_counter() - start; serving.Client; serving.AsyncClient; "
        "heavy = {'tensorflow', 'keras', 'keras_vit', 'PIL', 'rich', 'tyro'}; "
        "print(cost, sorted(heavy & {name.partition('.')[0] for name in sys.modules}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    cost, _, heavy = run.stdout.partition(" ")
    assert heavy.strip() == "[]"
    assert float(cost) < 0.4
