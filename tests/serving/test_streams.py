"""Streams of images: order, bounds, failures, early ends; fingerprints; interceptors; addresses."""

import asyncio
import threading
import time
from concurrent import futures

import grpc
import numpy as np
import pytest
from colour_model import png

from serving.client import (
    AsyncClient,
    Client,
    Failure,
    FingerprintError,
    ServerUnavailableError,
    ServingError,
)
from serving.protos import serving_wire_pb2 as wire
from serving.tensors import read_tensor, write_tensor

PREDICT = "/tensorflow.serving.PredictionService/Predict"


class Fake:
    """A Predict service that says the first byte of each image, after a delay of its choice."""

    def __init__(self, delay=lambda number: 0.0, version=lambda number: 1, fails=()):
        self.delay, self.version, self.fails = delay, version, fails
        self.requests, self.running, self.most, self.cancelled = 0, 0, 0, 0
        self.fingerprints = {1: "0" * 12, 2: "1" * 12}
        self.lock = threading.Lock()
        self.headers = []
        self.server = grpc.server(futures.ThreadPoolExecutor(32))
        methods = {
            "Predict": (self.predict, wire.PredictRequest, wire.PredictResponse),
            "GetModelMetadata": (
                self.metadata,
                wire.GetModelMetadataRequest,
                wire.GetModelMetadataResponse,
            ),
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                handle, request.FromString, response.SerializeToString
            )
            for name, (handle, request, response) in methods.items()
        }
        service = "tensorflow.serving.PredictionService"
        self.server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(service, handlers)]
        )
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.address = f"127.0.0.1:{self.port}"

    def __enter__(self):
        self.server.start()
        return self

    def __exit__(self, *_):
        self.server.stop(0).wait()

    def predict(self, request, context):
        with self.lock:
            number = self.requests
            self.requests += 1
            self.running += 1
            self.most = max(self.most, self.running)
            self.headers.append(dict(context.invocation_metadata()))
        end = time.monotonic() + self.delay(number)
        while context.is_active() and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.02))
        with self.lock:
            self.running -= 1
            self.cancelled += not context.is_active()
        if number in self.fails:
            context.abort(grpc.StatusCode[self.fails[number]], "as told")
        images = read_tensor(request.inputs["image_bytes"])
        response = wire.PredictResponse()
        response.model_spec.version.value = self.version(number)
        labels = np.array([[chr(data[0]).encode()] for data in images], object)
        write_tensor(response.outputs["classes"], labels)
        write_tensor(response.outputs["scores"], np.ones((len(images), 1), np.float32))
        write_tensor(response.outputs["valid"], np.ones(len(images), bool))
        return response

    def metadata(self, request, context):
        version = request.model_spec.version.value or self.version(self.requests)
        signatures = wire.SignatureDefMap()
        output = signatures.signature_def["serving_default"].outputs["scores"]
        output.name = f"preprocessing_{self.fingerprints[version]}/serving_default/scores:0"
        response = wire.GetModelMetadataResponse()
        response.model_spec.name, response.model_spec.version.value = "fake", version
        response.metadata["signature_def"].value = signatures.SerializeToString()
        return response


def wait_for(condition):
    end = time.monotonic() + 5
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def letters(count):
    return [bytes([65 + i % 26]) + b"." for i in range(count)]


def said(results):
    return [r.labels[0] if r.valid else type(r.error).__name__ for r in results]


async def gather(stream):
    return [result async for result in stream]


def ask(kind, fake, images, **arguments):
    """All results of a stream of the blocking or the asyncio client."""
    client = {name: arguments.pop(name) for name in list(arguments) if name in CLIENT}
    if kind == "sync":
        with Client(fake.address, "fake", **client) as opened:
            return list(opened.stream(images, **arguments))

    async def run():
        async with AsyncClient(fake.address, "fake", **client) as opened:
            return await gather(opened.stream(images, **arguments))

    return asyncio.run(run())


CLIENT = ("max_batch_size", "require_fingerprint", "timeout")
KINDS = pytest.mark.parametrize("kind", ["sync", "async"])


@KINDS
def test_results_come_in_order_though_answers_do_not(kind):
    with Fake(delay=lambda number: 0.2 if number % 3 == 0 else 0.0) as fake:
        results = ask(kind, fake, iter(letters(40)), max_batch_size=3, in_flight=5)
    assert said(results) == [chr(65 + i % 26) for i in range(40)]
    assert [r.source for r in results[:2]] == ["image 0", "image 1"]
    assert fake.requests == 14
    assert 1 < fake.most <= 5


def test_images_are_read_as_they_are_needed():
    read = []

    def images():
        for i, image in enumerate(letters(100)):
            read.append(i)
            yield image

    with Fake() as fake, Client(fake.address, "fake", max_batch_size=2) as client:
        stream = client.stream(images(), in_flight=3)
        next(stream)
        assert len(read) <= 8
        time.sleep(0.2)
        assert len(read) <= 8
        stream.close()
        assert fake.requests <= 4


def test_an_early_end_cancels_what_is_under_way():
    slow = threading.Event()
    fake = Fake(delay=lambda number: 8.0 if slow.is_set() else 0.0)
    with fake, Client(fake.address, "fake", max_batch_size=1) as client:
        stream = client.stream(letters(50), in_flight=4)
        next(stream)
        wait_for(lambda: fake.requests == 4 and fake.running == 0)
        slow.set()
        assert len([next(stream) for _ in range(3)]) == 3  # each sends another, which is slow
        wait_for(lambda: fake.running == 3)
        stream.close()
        wait_for(lambda: fake.cancelled == 3)  # well before their answers


def test_a_task_that_is_cancelled_cancels_its_requests():
    async def run(fake):
        async with AsyncClient(fake.address, "fake", max_batch_size=1) as client:

            async def ask_all():
                return [result async for result in client.stream(letters(50), in_flight=4)]

            with pytest.raises(TimeoutError):
                await asyncio.wait_for(ask_all(), 0.5)
            await asyncio.to_thread(wait_for, lambda: fake.cancelled >= 4)

    with Fake(delay=lambda number: 8.0) as fake:
        asyncio.run(run(fake))


def test_a_client_that_is_closed_ends_its_streams_with_a_clear_error():
    slow = threading.Event()
    with Fake(delay=lambda number: 8.0 if slow.is_set() else 0.0) as fake:
        client = Client(fake.address, "fake", max_batch_size=1)
        stream = client.stream(letters(9), in_flight=2)
        next(stream)
        wait_for(lambda: fake.requests == 2 and fake.running == 0)
        slow.set()
        next(stream)
        client.close()
        with pytest.raises(ServingError, match="closed"):
            next(stream)

    async def run(fake):
        client = AsyncClient(fake.address, "fake", max_batch_size=1)
        stream = client.stream(letters(9), in_flight=2)
        await anext(stream)
        await asyncio.to_thread(wait_for, lambda: fake.requests == 2 and fake.running == 0)
        slow.set()
        await anext(stream)
        waiting = asyncio.create_task(client.predict(b"B"))
        await asyncio.sleep(0.1)
        await client.close()
        with pytest.raises(ServingError, match="closed"):
            await waiting
        with pytest.raises(ServingError, match="closed"):
            await anext(stream)

    slow.clear()
    with Fake(delay=lambda number: 8.0 if slow.is_set() else 0.0) as fake:
        asyncio.run(run(fake))


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("a:1,b:2", "ipv4:///"),
        ("ipv4:///10.0.0.1:8500,10.0.0.2", "'10.0.0.2' has no port"),
        ("localhost", "no port"),
        ("localhost:0", "no port"),
    ],
)
def test_addresses_that_cannot_work_are_refused(address, words):
    with pytest.raises(ValueError, match=words):
        Client(address, "fake")


def test_several_servers_share_the_work():
    with Fake() as one, Fake() as two:
        address = f"ipv4:///{one.address},{two.address}"
        with Client(address, "fake", max_batch_size=1) as client:
            assert len(list(client.stream(letters(40)))) == 40
        assert one.requests + two.requests == 40
        assert min(one.requests, two.requests) > 5


@KINDS
def test_one_image_that_fails_is_reported_in_its_place(kind, tmp_path):
    (tmp_path / "a.png").write_bytes(b"A")
    (tmp_path / "folder").mkdir()
    images = [tmp_path / "a.png", tmp_path / "no.png", b"B", tmp_path / "folder", 7, b"C", b"D"]
    with Fake(fails={1: "INVALID_ARGUMENT"}) as fake:
        results = ask(kind, fake, images, max_batch_size=6, on_error="yield", in_flight=1)
        assert said(results) == [
            "A",
            "MissingImageError",
            "B",
            "MissingImageError",
            "ImageInputError",
            "C",
            "InvalidRequestError",
        ]
        assert isinstance(results[1], Failure)
        assert "no.png does not exist" in str(results[1].error)
        assert "is a folder" in str(results[3].error)
        with pytest.raises(ServingError, match=r"no\.png"):
            ask(kind, fake, images, max_batch_size=6)


@KINDS
def test_async_iterables_and_nothing_at_all(kind):
    with Fake() as fake:
        assert ask(kind, fake, []) == []
        if kind == "async":

            async def images():
                for image in letters(5):
                    yield image

            assert said(ask(kind, fake, images(), max_batch_size=2)) == list("ABCDE")


@KINDS
def test_one_image_is_a_stream_of_one(kind, tmp_path):
    (tmp_path / "a.png").write_bytes(b"A")
    with Fake() as fake:
        assert said(ask(kind, fake, str(tmp_path / "a.png"))) == ["A"]
        (failed,) = ask(kind, fake, ["zero\0byte.png"], on_error="yield")
        assert not failed.valid


def test_arguments_that_make_no_sense():
    with Client("localhost:1", "fake") as client:
        for arguments in ({"asked": "colour"}, {"in_flight": 0}, {"on_error": "ignore"}):
            with pytest.raises(ValueError, match="must be"):
                next(client.stream([], **arguments))


@KINDS
def test_a_model_with_another_fingerprint_is_refused(kind):
    with Fake() as fake:
        assert said(ask(kind, fake, letters(2), require_fingerprint="0" * 12)) == ["A", "B"]
    with Fake() as fake:
        with pytest.raises(FingerprintError, match=f"{'0' * 12}, but {'f' * 12} is required"):
            ask(kind, fake, letters(2), require_fingerprint="f" * 12)
        assert fake.requests == 0  # nothing was sent


@KINDS
def test_a_new_version_is_asked_for_its_fingerprint(kind):
    with Fake(version=lambda number: 1 if number < 2 else 2) as fake:
        results = ask(
            kind,
            fake,
            letters(4),
            max_batch_size=1,
            in_flight=1,
            on_error="yield",
            require_fingerprint="0" * 12,
        )
    assert said(results) == ["A", "B", "FingerprintError", "FingerprintError"]


def test_the_fingerprint_of_a_server_that_does_not_say(server):
    with Client(server.address, "colours") as client:
        assert client.metadata().preprocessing_fingerprint is None
    with (
        Client(server.address, "colours", require_fingerprint="0" * 12) as client,
        pytest.raises(FingerprintError, match="None, but"),
    ):
        client.predict(png((255, 0, 0)))


def test_a_message_that_is_too_large_is_not_sent_again():
    with Fake(fails={0: "UNAVAILABLE", 1: "UNAVAILABLE", 3: "RESOURCE_EXHAUSTED"}) as fake:
        with Client(fake.address, "fake") as client:
            assert client.predict(b"A")[0].labels == ("A",)
            assert fake.requests == 3
            with pytest.raises(ServingError):
                client.predict(b"B")
        assert fake.requests == 4


def test_a_server_that_ends_while_it_is_asked():
    """gRPC answers CANCELLED for requests that were about to be taken up: another server may."""
    with Fake(fails=dict.fromkeys((0, 2, 3, 4), "CANCELLED")) as fake:
        with Client(fake.address, "fake") as client:
            assert client.predict(b"A")[0].labels == ("A",)
            assert fake.requests == 2
            with pytest.raises(ServerUnavailableError, match="shutting down"):
                client.predict(b"B")
        assert fake.requests == 5


def test_all_addresses_of_a_name_get_requests():
    with Fake() as one, Fake() as other:
        address = f"ipv4:///127.0.0.1:{one.port},127.0.0.1:{other.port}"
        with Client(address, "fake") as client:
            for _ in range(40):
                client.predict(b"A")
        assert one.requests > 5
        assert other.requests > 5


class Recorder(grpc.UnaryUnaryClientInterceptor):
    def __init__(self):
        self.methods = []

    def intercept_unary_unary(self, continuation, details, request):
        self.methods.append(details.method)
        return continuation(details, request)


def test_interceptors_headers_and_compression():
    recorder = Recorder()
    with (
        Fake() as fake,
        Client(
            fake.address,
            "fake",
            interceptors=[recorder],
            headers={"authorization": "Bearer x"},
            compression=grpc.Compression.Gzip,
        ) as client,
    ):
        client.predict(b"A")
        assert said(client.stream(letters(3))) == ["A", "B", "C"]
    assert recorder.methods == [PREDICT, PREDICT]
    assert fake.headers[0]["authorization"] == "Bearer x"


def test_interceptors_of_the_asyncio_client():
    seen = []

    class Record(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation, details, request):
            seen.append(details.method)
            return await continuation(details, request)

    async def run(address):
        async with AsyncClient(address, "fake", interceptors=[Record()]) as client:
            return await client.predict(b"A")

    with Fake() as fake:
        asyncio.run(run(fake.address))
    assert len(seen) == 1
