"""Configuration files: what TF Serving takes is read and written, what it refuses is refused."""

import subprocess
import sys
from pathlib import Path

import pytest
from certificates import make_certificate

from serving.configuration.batching import BatchingParameters
from serving.configuration.models import ModelConfig, parse_models, write_models
from serving.configuration.monitoring import MonitoringConfig
from serving.configuration.tls import TlsConfig

RECORDED = Path(__file__).parent / "fixtures" / "tf_serving_transcripts"


def test_the_recorded_files_are_read():
    batching = BatchingParameters.parse((RECORDED / "batching.pbtxt").read_text())
    assert batching == BatchingParameters(
        max_batch_size=4,
        batch_timeout_micros=1000,
        num_batch_threads=2,
        allowed_batch_sizes=(1, 2, 4),
    )
    monitoring = MonitoringConfig.parse((RECORDED / "monitoring.config").read_text())
    assert monitoring == MonitoringConfig()
    text = (RECORDED / "models.config").read_text().replace("MODELS", "/models")
    assert parse_models(text) == [
        ModelConfig(
            "tiny",
            "/models/tiny",
            specific=frozenset({1, 2}),
            labels={"stable": 1, "canary": 2},
        )
    ]


@pytest.mark.parametrize(
    "parameters",
    [
        BatchingParameters(),
        BatchingParameters(8, 500, 3, 2, "pool", (1, 8), True),
        BatchingParameters(
            64,
            enable_large_batch_splitting=True,
            max_execution_batch_size=8,
            allowed_batch_sizes=(2, 8),
        ),
    ],
)
def test_batching_parameters_come_back(parameters):
    assert BatchingParameters.parse(parameters.to_text()) == parameters


def test_a_batching_file_is_what_people_write_by_hand():
    text = BatchingParameters(8, 500, allowed_batch_sizes=(4, 8)).to_text()
    assert " ".join(text.split()) == (
        "max_batch_size { value: 8 } batch_timeout_micros { value: 500 } "
        "allowed_batch_sizes: 4 allowed_batch_sizes: 8"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch_size: 8", "protobuf's text format"),
        ("max_batchsize { value: 8 }", "Its fields are max_batch_size, "),
        ("max_batch_size { value: 0 }", "at least 1"),
        ("max_batch_size { value: 8 } allowed_batch_sizes: 4", "the last must be 8"),
        ("max_batch_size { value: 4 } allowed_batch_sizes: [4, 2, 4]", "must increase"),
        ("max_execution_batch_size { value: 4 }", "enable_large_batch_splitting"),
        ("batch_timeout_micros { value: -1 }", "0 or more"),
        (
            "max_batch_size { value: 4 } enable_large_batch_splitting { value: true } "
            "max_execution_batch_size { value: 8 }",
            "must not be above max_batch_size",
        ),
    ],
)
def test_what_tf_serving_refuses_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        BatchingParameters.parse(text)


@pytest.mark.parametrize(
    "model",
    [
        ModelConfig("a", "/m/a"),
        ModelConfig("a", "gs://bucket/a", latest=3, labels={"stable": 2, "canary": 3}),
        ModelConfig("a", "/m/a", latest=None),
        ModelConfig("a", "/m/a", specific=frozenset({2, 5})),
    ],
)
def test_models_come_back(model):
    other = ModelConfig("other", "/m/other")
    assert parse_models(write_models([model, other])) == [model, other]


def test_models_are_what_tensorflow_servings_own_message_reads():
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    text = write_models([ModelConfig("a", "/m/a", latest=2, labels={"stable": 1, "canary": 2})])
    message = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (entry,) = message.model_config_list.config
    assert dict(entry.version_labels) == {"stable": 1, "canary": 2}
    assert entry.model_version_policy.latest.num_versions == 2


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('name: "a" base_path: "m/a" model_platform: "tensorflow"', "absolute path"),
        (
            'name: "a" base_path: "/m" model_platform: "caffe"',
            "requests unsupported platform caffe",
        ),
        (
            'name: "a" base_path: "/m" model_platform: "tensorflow" logging_config { }',
            "does not start",
        ),
        (
            'name: "a" base_path: "/m" model_platform: "tensorflow" '
            "model_version_policy { specific { } }",
            "lists none",
        ),
        ('base_path: "/m" model_platform: "tensorflow"', "needs a name"),
    ],
)
def test_models_that_a_server_would_refuse(entry, message):
    with pytest.raises(ValueError, match=message):
        parse_models(f"model_config_list {{ config {{ {entry} }} }}")


def test_one_name_twice():
    model = ModelConfig("a", "/m/a")
    with pytest.raises(ValueError, match="one name"):
        write_models([model, model])


def test_tls_comes_back_and_is_checked(tmp_path):
    key, certificate = make_certificate(tmp_path)
    other_key, _ = make_certificate(tmp_path, "elsewhere")
    tls = TlsConfig.from_files(key, certificate, certificate, client_verify=True)
    assert TlsConfig.parse(tls.to_text()) == tls
    with pytest.raises(ValueError, match="server_key and server_cert"):
        TlsConfig.from_files(other_key, certificate)
    with pytest.raises(ValueError, match="server_key and server_cert"):
        TlsConfig("key", "certificate")
    with pytest.raises(ValueError, match="custom_ca"):
        TlsConfig(key.read_text(), certificate.read_text(), "no certificate")


def test_a_monitoring_path_begins_with_a_slash():
    assert MonitoringConfig.parse(MonitoringConfig(path="/m").to_text()).path == "/m"
    with pytest.raises(ValueError, match="slash"):
        MonitoringConfig(path="m")


def test_reading_and_writing_needs_no_tensorflow():
    code = "import serving.configuration.models, sys; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
