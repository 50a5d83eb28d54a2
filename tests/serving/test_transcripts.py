"""The local server gives the answers that a real tensorflow_model_server 2.20 gave.

`fixtures/tf_serving_transcripts` holds the requests and answers, recorded from the C++ server with
the models beside them. They are replayed in order: the reload cases at the end change its state.
"""

import base64
import json
import re
from http.client import HTTPConnection
from importlib import import_module
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf import text_format

FIXTURES = Path(__file__).parent / "fixtures" / "tf_serving_transcripts"
RECORDINGS = {
    name: [json.loads(line) for line in (FIXTURES / f"{name}.jsonl").read_text().splitlines()]
    for name in ("plain", "batching")
}

# Cases that end with the same code but not the same words, and why.
PARSER = "the words come from the JSON parser, Python's here and RapidJSON there"
DUMP = "the message repeats the body, which RapidJSON lays out and cuts in its own way"
OTHER_WORDS = {
    "unknown method": "the words come from the gRPC library, Python's here and C++'s there",
    "rest not json": PARSER,
    "rest both forms": DUMP,
}

# Where each procedure lives, and its two messages: module and names.
PREDICTION = "/tensorflow.serving.PredictionService/"
MODEL = "/tensorflow.serving.ModelService/"
APIS = "tensorflow_serving.apis."
PROCEDURES = {
    "Predict": (PREDICTION, APIS + "predict_pb2", "Predict"),
    "Classify": (PREDICTION, APIS + "classification_pb2", "Classification"),
    "Regress": (PREDICTION, APIS + "regression_pb2", "Regression"),
    "MultiInference": (PREDICTION, APIS + "inference_pb2", "MultiInference"),
    "GetModelMetadata": (PREDICTION, APIS + "get_model_metadata_pb2", "GetModelMetadata"),
    "GetModelStatus": (MODEL, APIS + "get_model_status_pb2", "GetModelStatus"),
    "HandleReloadConfigRequest": (MODEL, APIS + "model_management_pb2", "ReloadConfig"),
    "grpc.health.v1.Health/Check": ("/", "grpc_health.v1.health_pb2", "HealthCheck"),
    "Nope": (PREDICTION, APIS + "predict_pb2", "Predict"),  # no such procedure
}


@pytest.fixture(scope="module", params=RECORDINGS)
def recording(request):
    return request.param


@pytest.fixture(scope="module")
def server(recording):
    """A local server started with the recorded configuration."""
    from tensorflow_serving.config import model_server_config_pb2

    from serving.configuration.batching import BatchingParameters
    from serving.configuration.monitoring import MonitoringConfig
    from serving.local_server.model_config import parse_model_configs
    from serving.local_server.server import LocalServer

    text = (FIXTURES / "models.config").read_text().replace("MODELS", str(FIXTURES / "models"))
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    models = parse_model_configs(config)
    batching = None
    if recording == "batching":
        batching = BatchingParameters.parse((FIXTURES / "batching.pbtxt").read_text())
    monitoring = MonitoringConfig.parse((FIXTURES / "monitoring.config").read_text())
    with LocalServer(
        models, port=0, rest_port=0, poll_seconds=60, batching=batching, monitoring=monitoring
    ) as running:
        yield running


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.address) as opened:
        yield opened


# On the page of the real server, and of no use here: without a value in the recordings, or parts of
# a time that is there as a whole.
NOT_COUNTED = (
    ":tensorflow:cc:saved_model:load_latency_by_stage histogram",
    ":tensorflow:serving:batching:mixed_priority_batching_policy gauge",
    ":tensorflow:serving:batching:padding_size_v2 histogram",
    ":tensorflow:serving:batching:processed_batch_size_v2 counter",
    ":tensorflow:serving:mlmd_map gauge",
    ":tensorflow:serving:request_log_count counter",
)


# The real server was recorded while it still loaded a version.
LOADING_THEN = {("batching", "status after all")}


def without_names(message):
    """Leave out what differs between builds: node names, generated names, dumped messages."""
    message = re.sub(r"\{\{[^}]*\}\}", "{{}}", message)
    message = re.sub(r"(SignatureDef: |Signature was: ).*", r"\1", message, flags=re.DOTALL)
    return message.strip()


def assert_same(got, want, where=""):
    """Compare messages field by field, numbers within 1e-6; maps in any order."""
    from google.protobuf.any_pb2 import Any
    from tensorflow_serving.apis.get_model_metadata_pb2 import SignatureDefMap

    if isinstance(want, Any):
        maps = SignatureDefMap(), SignatureDefMap()
        assert got.Unpack(maps[0]), where
        assert want.Unpack(maps[1]), where
        assert_same(*maps, where)
    elif hasattr(want, "DESCRIPTOR"):
        fields = {field.name for field, _ in want.ListFields()}
        assert {field.name for field, _ in got.ListFields()} == fields, where
        for name in fields:
            assert_same(getattr(got, name), getattr(want, name), f"{where}.{name}")
    elif hasattr(want, "keys"):
        assert set(got) == set(want), where
        for key in want:
            assert_same(got[key], want[key], f"{where}[{key}]")
    elif isinstance(want, list) or hasattr(want, "MergeFrom"):
        assert len(got) == len(want), where
        for index, pair in enumerate(zip(got, want, strict=True)):
            assert_same(*pair, f"{where}[{index}]")
    elif isinstance(want, float):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6, err_msg=where)
    else:
        assert got == want, where


def test_answers_like_the_real_server(server, channel, recording):
    """In the order of the recording: its reload cases change the server's state."""
    failed = {}
    for number, case in enumerate(RECORDINGS[recording]):
        try:
            if case["protocol"] == "grpc":
                check_grpc(channel, case)
            else:
                check_rest(f"127.0.0.1:{server.rest_port}", case)
        except AssertionError as error:
            if (recording, case["name"]) in LOADING_THEN:
                continue
            failed[f"{number:03d} {case['name']}"] = str(error)
    assert not failed
    check_metrics(server, recording)


def check_grpc(channel, case):
    prefix, module, name = PROCEDURES[case["rpc"]]
    messages = import_module(module)
    request_type = getattr(messages, f"{name}Request")
    response_type = getattr(messages, f"{name}Response")
    request = request_type.FromString(base64.b64decode(case["request"]))
    if case["rpc"] == "HandleReloadConfigRequest":
        text = case["request_text"].replace("MODELS", str(FIXTURES / "models"))
        request = text_format.Parse(text, request_type())
    method = channel.unary_unary(
        prefix + case["rpc"], request_type.SerializeToString, response_type.FromString
    )
    if case["code"] != "OK":
        late = case["code"] == "DEADLINE_EXCEEDED"  # only once the whole time is over
        with pytest.raises(grpc.RpcError) as caught:
            method(request, timeout=2 if late else 30)
        assert caught.value.code().name == case["code"], caught.value.details()
        if case["name"] not in OTHER_WORDS:
            assert without_names(caught.value.details()) == without_names(case["details"])
        return
    response = method(request, timeout=30)
    assert_same(response, response_type.FromString(base64.b64decode(case["response"])))


def check_rest(address, case):
    connection = HTTPConnection(address, timeout=30)
    connection.request(case["method"], case["path"], case["body"])
    answer = connection.getresponse()
    text = answer.read().decode()
    assert answer.status == case["status"], text
    assert answer.getheader("Content-Type") == case["content_type"]
    if case["content_type"] != "application/json":
        assert text == case["response"]
        return
    got, want = json.loads(text), json.loads(case["response"])
    if case["status"] != 200:
        assert set(got) == {"error"}
        if case["name"] not in OTHER_WORDS:
            assert without_names(got["error"]) == without_names(want["error"])
        return
    assert_same(got, want)


def check_metrics(server, recording):
    """The page has the real one's names and labels; counts of requests are equal."""
    page = HTTPConnection(f"127.0.0.1:{server.rest_port}", timeout=30)
    page.request("GET", "/monitoring/prometheus/metrics")
    got = page.getresponse().read().decode().splitlines()
    want = (FIXTURES / f"{recording}.prometheus.txt").read_text()
    want = want.replace("MODELS", str(FIXTURES / "models")).splitlines()
    names = {line for line in want if line.startswith("# TYPE")}
    assert names - set(got) == {f"# TYPE {name}" for name in NOT_COUNTED}
    exact = (":tensorflow:serving:request_count", ":tensorflow:serving:request_latency_count")
    for prefix in exact:
        lines = [sorted(line for line in page if line.startswith(prefix)) for page in (got, want)]
        assert lines[0] == lines[1]
