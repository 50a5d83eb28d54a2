"""The version manager and the services around it, in this process."""

import shutil
import threading
import time

import grpc
import numpy as np
import pytest
from colour_model import png
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo
from tensorflow_serving.apis import (
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
)

from serving import Client
from serving.client import (
    InvalidRequestError,
    ModelNotFoundError,
    ServerUnavailableError,
    ServingError,
)
from serving.configuration.models import ModelConfig
from serving.local_server.predict import input_feeds
from serving.local_server.server import LocalServer
from serving.local_server.status import StatusError
from serving.startup import ServeError
from serving.tensors import write_tensor
from serving.version_directory import list_versions

RED = png((255, 0, 0))


@pytest.fixture
def running(base):
    """A server of its own that looks for versions all the time."""
    with LocalServer([ModelConfig("colours", str(base))], port=0, poll_seconds=0.1) as server:
        yield server


@pytest.fixture
def client(running):
    with Client(running.address, "colours") as opened:
        yield opened


def publish(exported, base, version):
    """Put a version into place at once, as the export does."""
    shutil.copytree(exported, base / f".tmp-{version}")
    (base / f".tmp-{version}").rename(base / str(version))


def wait_for(client, states):
    """Wait until the versions are in these states, newest first."""
    deadline = time.monotonic() + 20
    while True:
        seen = {status.version: status.state for status in client.status()}
        if seen == states:
            return
        assert time.monotonic() < deadline, f"still {seen}, waiting for {states}"
        time.sleep(0.05)


def test_which_names_are_versions(tmp_path):
    for name in ("1", "007", "7", "-3", "1.5", "v2", ".4", "latest", "²", "9" * 20):
        (tmp_path / name).mkdir()
    (tmp_path / "9").write_text("a file")
    assert list_versions(str(tmp_path)) == {1: f"{tmp_path}/1", 7: f"{tmp_path}/7"}


def test_policies():
    on_disk = [1, 2, 3, 10]
    assert ModelConfig("m", "/m").aspired(on_disk) == {10}
    assert ModelConfig("m", "/m", latest=2).aspired(on_disk) == {3, 10}
    assert ModelConfig("m", "/m", latest=None).aspired(on_disk) == {1, 2, 3, 10}
    assert ModelConfig("m", "/m", specific=frozenset({2, 5})).aspired(on_disk) == {2}


# === Versions that come and go ===


def test_a_hot_swap_under_load_loses_no_request(running, client, base, renamed):
    stop = threading.Event()
    versions, failures = [], []

    def ask():
        while not stop.is_set():
            try:
                (result,) = client.predict(RED, top_k=1)
                expected = {1: "red", 2: "rouge"}[result.version]
                versions.append(result.version)
                assert result.labels == (expected,)
            except Exception as error:  # noqa: BLE001 - whatever happened is the finding
                failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    publish(renamed, base, 2)
    wait_for(client, {2: "AVAILABLE", 1: "END"})
    time.sleep(0.1)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert {1, 2} == set(versions)
    with (
        Client(running.address, "colours", version=1) as old,
        pytest.raises(ModelNotFoundError, match="Specific"),
    ):
        old.predict(RED)


def test_a_broken_new_version_keeps_the_old_one_serving(client, base, exported):
    (base / "2").mkdir()
    (base / "2" / "saved_model.pb").write_bytes(b"not a model")
    wait_for(client, {2: "END", 1: "AVAILABLE"})
    assert client.status()[0].error
    assert client.predict(RED)[0].version == 1
    # The rest of a slow copy arrives: the version heals without a new number.
    shutil.copytree(exported, base / "2", dirs_exist_ok=True)
    wait_for(client, {2: "AVAILABLE", 1: "END"})
    assert client.predict(RED)[0].version == 2


def test_running_requests_finish_on_a_version_that_goes(client, base, exported):
    answers = []

    def ask():
        answers.append(client.call({"seconds": np.array([1.5])}, signature="slow"))

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.2)
    publish(exported, base, 2)
    wait_for(client, {2: "AVAILABLE", 1: "UNLOADING"})
    thread.join()
    assert len(answers) == 1
    wait_for(client, {2: "AVAILABLE", 1: "END"})


def test_a_vanished_directory_unloads_nothing_and_an_emptied_one_all(client, base):
    base.rename(base.with_name("away"))
    time.sleep(0.3)
    assert client.predict(RED)[0].valid
    base.with_name("away").rename(base)
    shutil.rmtree(base / "1")
    wait_for(client, {1: "END"})


def warmup_record(signature):
    log = prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.model_spec.signature_name = signature
    write_tensor(request.inputs["image_bytes"], np.array([RED], object))
    return log.SerializeToString()


def test_warm_up_decides_whether_a_version_goes_into_service(client, base, exported):
    import tensorflow as tf

    def publish_with_warmup(version, record):
        shutil.copytree(exported, base / f".tmp-{version}")
        folder = base / f".tmp-{version}" / "assets.extra"
        folder.mkdir()
        with tf.io.TFRecordWriter(str(folder / "tf_serving_warmup_requests")) as writer:
            writer.write(record)
        (base / f".tmp-{version}").rename(base / str(version))

    publish_with_warmup(2, warmup_record("serving_default"))
    wait_for(client, {2: "AVAILABLE", 1: "END"})
    publish_with_warmup(3, warmup_record("nope"))
    wait_for(client, {3: "END", 2: "AVAILABLE", 1: "END"})
    assert client.status()[0].error == 'Serving signature key "nope" not found.'


# === Configuration ===


def test_labels_and_reload(running, base, exported):
    publish(exported, base, 2)
    with grpc.insecure_channel(running.address) as channel:
        reload = model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest
        request = model_management_pb2.ReloadConfigRequest()
        entry = request.config.model_config_list.config.add(
            name="colours", base_path=str(base), model_platform="tensorflow"
        )
        entry.model_version_policy.specific.versions.extend([1, 2])
        entry.version_labels["stable"] = 1
        reload(request, timeout=30)
        for label, version in (("stable", 1), (None, 2)):
            with Client(running.address, "colours", version_label=label) as client:
                assert client.predict(RED)[0].version == version
        entry.version_labels["stable"] = 3
        with pytest.raises(grpc.RpcError, match="not currently available"):
            reload(request, timeout=30)
        del request.config.model_config_list.config[:]
        reload(request, timeout=30)
    with Client(running.address, "colours") as client:
        assert {status.state for status in client.status()} == {"END"}


def test_reload_of_a_model_that_cannot_be_loaded(running, tmp_path):
    (tmp_path / "other" / "1").mkdir(parents=True)
    with grpc.insecure_channel(running.address) as channel:
        request = model_management_pb2.ReloadConfigRequest()
        request.config.model_config_list.config.add(
            name="other", base_path=str(tmp_path / "other"), model_platform="tensorflow"
        )
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        with pytest.raises(grpc.RpcError, match="SavedModel file does not exist"):
            stub.HandleReloadConfigRequest(request, timeout=30)


# === Requests ===


def test_health(server):
    with grpc.insecure_channel(server.address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        for service in ("", "ModelService", "PredictionService"):
            answer = check(health_pb2.HealthCheckRequest(service=service), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_large_messages_pass(server):
    images = np.zeros((2, 1500, 1500, 3), np.uint8)  # 13 MB, the default limit is 4
    with Client(server.address, "colours") as client:
        assert len(client.predict(images)) == 2


def test_two_signatures_of_one_request_are_not_confused(server):
    with (
        Client(server.address, "colours") as client,
        pytest.raises(InvalidRequestError, match="alias: images"),
    ):
        client.call({"image_bytes": np.array([RED], object)}, signature="images")


def test_inputs_that_defaults_stand_in_for():
    """Which of the errors it is depends on whether the signature has any default."""
    signature = SignatureDef(
        inputs={name: TensorInfo(name=f"{name}:0") for name in "ab"},
        defaults={"b": tensor_proto(2)},
    )

    def feeds(**inputs):
        request = predict_pb2.PredictRequest(inputs=inputs)
        return {name: value.item() for name, value in input_feeds(signature, request).items()}

    assert feeds(a=tensor_proto(1)) == {"a:0": 1, "b:0": 2}
    assert feeds(a=tensor_proto(1), b=tensor_proto(3)) == {"a:0": 1, "b:0": 3}
    with pytest.raises(StatusError, match=r"alias: a\(feed name: a:0\) not found .* set: b"):
        feeds(b=tensor_proto(3))
    with pytest.raises(StatusError, match=r"invalid name. Used request inputs: a, request .* a,c"):
        feeds(a=tensor_proto(1), c=tensor_proto(3))
    with pytest.raises(StatusError, match=r"3!=2 .* Sent extra: {c}. Missing but required: {}"):
        feeds(a=tensor_proto(1), b=tensor_proto(2), c=tensor_proto(3))


def tensor_proto(value):
    proto = TensorProto()
    write_tensor(proto, np.int32(value))
    return proto


def test_an_empty_request_is_refused(server):
    with grpc.insecure_channel(server.address) as channel:
        predict = channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            predict_pb2.PredictRequest.SerializeToString,
            predict_pb2.PredictResponse.FromString,
        )
        with pytest.raises(grpc.RpcError, match="Missing ModelSpec"):
            predict(predict_pb2.PredictRequest(), timeout=10)


# === Start and stop ===


def test_a_server_without_a_loadable_model_does_not_start(tmp_path):
    empty = LocalServer([ModelConfig("colours", str(tmp_path))], port=0)
    with pytest.raises(ServeError, match="holds no version of colours"):
        empty.start()
    (tmp_path / "1").mkdir()
    broken = LocalServer([ModelConfig("colours", str(tmp_path))], port=0)
    with pytest.raises(ServeError, match=r"colours version 1 at .* cannot be loaded"):
        broken.start()


def test_waiting_for_the_first_version(tmp_path, exported):
    server = LocalServer([ModelConfig("colours", str(tmp_path))], port=0, poll_seconds=0.1)
    threading.Timer(0.5, publish, (exported, tmp_path, 4)).start()
    server.start(wait=True)
    with Client(server.address, "colours") as client:
        assert client.status()[0].version == 4
    server.stop()


def test_waiting_can_be_given_up(tmp_path):
    server = LocalServer([ModelConfig("colours", str(tmp_path / "nowhere"))], port=0)
    server.start(wait=True, cancelled=lambda: True)
    server.stop()


def test_stop_cuts_off_what_outlasts_the_grace(base):
    server = LocalServer([ModelConfig("colours", str(base))], port=0)
    server.start()
    with Client(server.address, "colours", timeout=60) as client:
        client.status()
        failures = []

        def ask():
            try:
                client.call({"seconds": np.array([30.0])}, signature="slow")
            except ServingError as error:
                failures.append(error)

        slow = threading.Thread(target=ask)
        slow.start()
        time.sleep(0.3)
        start = time.monotonic()
        server.stop(grace=0.2)
        slow.join()
    assert time.monotonic() - start < 5
    assert len(failures) == 1


def test_stop_finishes_running_requests_and_refuses_new_ones(base):
    server = LocalServer([ModelConfig("colours", str(base))], port=0)
    server.start()
    answers = []
    with Client(server.address, "colours", timeout=10) as client:
        client.status()
        slow = threading.Thread(
            target=lambda: answers.append(
                client.call({"seconds": np.array([1.0])}, signature="slow")
            )
        )
        slow.start()
        time.sleep(0.3)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        time.sleep(0.2)
        with pytest.raises(ServerUnavailableError):
            client.predict(RED, timeout=0.4)
        slow.join()
        stopping.join()
    assert len(answers) == 1
