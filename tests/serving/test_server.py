"""`serve` as a process: what it prints, how it stops, what it refuses."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from certificates import make_certificate
from colour_model import png
from processes import write_fake_binary

from serving.client import TLS, Client, ServingError
from serving.configuration.models import ModelConfig, write_models
from serving.configuration.tls import TlsConfig
from serving.server import serve
from serving.startup import ServeError

ROOT = Path(__file__).parents[2]
RED = png((255, 0, 0))


class Process:
    """A `serve` call in another process, once it has printed its line."""

    def __init__(self, base, folder, **arguments):
        base = None if base is None else str(base)
        code = (
            "from pathlib import Path, PosixPath\n"
            f"from serving.server import serve; serve({base!r}, **{arguments!r})"
        )
        path = f"{folder}{os.pathsep}{os.environ['PATH']}"
        self.popen = subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": str(ROOT), "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.line = self.popen.stdout.readline().strip()
        if not self.line:
            raise AssertionError(self.popen.communicate()[1])
        self.address = re.search(r" at (\S+)", self.line)[1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.popen.kill()
        self.popen.communicate()


def test_sigterm_drains_and_exits_with_0(base, tmp_path):
    answers = []
    with (
        Process(base, tmp_path, port=0, server="local") as process,
        Client(process.address, "colours") as client,
    ):
        assert process.line == f"Serving colours version 1 at {process.address} (local server)"
        assert client.predict(RED, top_k=1)[0].labels == ("red",)
        slow = threading.Thread(
            target=lambda: answers.append(
                client.call({"seconds": np.array([1.0])}, signature="slow")
            )
        )
        slow.start()
        time.sleep(0.3)
        process.popen.send_signal(signal.SIGTERM)
        slow.join()
        _, errors = process.popen.communicate(timeout=20)
    assert len(answers) == 1
    assert process.popen.returncode == 0
    assert "Traceback" not in errors


def test_ctrl_c_exits_with_0(base, tmp_path):
    with Process(base, tmp_path, port=0, rest_port=0, name="paint", server="local") as process:
        assert process.line.startswith("Serving paint version 1 at 127.0.0.1:")
        rest = re.search(r"REST at (\S+)\)", process.line)[1]
        with urllib.request.urlopen(f"http://{rest}/v1/models/paint", timeout=10) as answer:
            assert b"AVAILABLE" in answer.read()
        process.popen.send_signal(signal.SIGINT)
        _, errors = process.popen.communicate(timeout=20)
    assert process.popen.returncode == 0
    assert "Traceback" not in errors


def test_the_real_server_is_used_when_it_is_there(tmp_path):
    (tmp_path / "colours" / "1").mkdir(parents=True)
    binary = write_fake_binary(tmp_path / "bin")
    with Process(tmp_path / "colours", binary.parent, port=0) as process:
        assert process.line.startswith("Serving colours version 7 at 127.0.0.1:")
        assert "tensorflow_model_server" in process.line
        process.popen.send_signal(signal.SIGTERM)
        _, errors = process.popen.communicate(timeout=20)
    assert process.popen.returncode == 0
    assert f"--model_base_path={tmp_path / 'colours'}" in errors
    assert "--model_name=colours" in errors


def config_text(base, **labels):
    return write_models([ModelConfig("paint", str(base), latest=None, labels=labels)])


def test_the_real_server_is_told_everything(tmp_path):
    (tmp_path / "colours" / "1").mkdir(parents=True)
    binary = write_fake_binary(tmp_path / "bin")
    config = tmp_path / "models.config"
    config.write_text(config_text(tmp_path / "colours"))
    (tmp_path / "batching.pbtxt").write_text("max_batch_size { value: 8 }")
    arguments = {
        "model_config_file": config,
        "batching_parameters_file": tmp_path / "batching.pbtxt",
        "port": 0,
        "rest_port": 0,
    }
    with Process(None, binary.parent, **arguments) as process:
        assert process.line.startswith("Serving paint version 7 at 127.0.0.1:")
        process.popen.send_signal(signal.SIGTERM)
        _, errors = process.popen.communicate(timeout=20)
    for flag in (
        f"--model_config_file={config}",
        "--allow_version_labels_for_unavailable_models=true",
        "--enable_batching=true",
        "--batching_parameters_file=",
        "--monitoring_config_file=",
        "--enable_grpc_healthcheck_service=true",
    ):
        assert flag in errors


def test_a_model_config_file_is_followed(base, renamed, tmp_path):
    config = tmp_path / "models.config"
    config.write_text(config_text(base, stable=1))
    arguments = {"model_config_file": config, "port": 0, "rest_port": 0, "server": "local"}
    with Process(None, tmp_path, poll_seconds=0.1, **arguments) as process:
        with Client(process.address, "paint", version_label="stable") as client:
            assert client.predict(RED, top_k=1)[0].labels == ("red",)
            for without_effect in ("nonsense", ""):  # a file is empty while it is written anew
                config.write_text(without_effect)
                time.sleep(0.5)
                assert client.predict(RED, top_k=1)[0].labels == ("red",)
            config.write_text(config_text(base, stable=2))
            time.sleep(0.5)  # the version comes after the file that names it
            assert client.predict(RED, top_k=1)[0].labels == ("red",)
            Path(shutil.copytree(renamed, tmp_path / "2")).rename(base / "2")
            deadline = time.monotonic() + 20
            while client.predict(RED, top_k=1)[0].labels != ("rouge",):
                assert time.monotonic() < deadline
                time.sleep(0.1)
        rest = re.search(r"REST at (\S+)\)", process.line)[1]
        page = f"http://{rest}/monitoring/prometheus/metrics"
        with urllib.request.urlopen(page, timeout=10) as answer:
            counted = 'request_count{model_name="paint",status="OK"}'
            assert counted in answer.read().decode()


def test_tls_and_a_client_with_a_certificate(base, tmp_path):
    key, certificate = make_certificate(tmp_path)
    config = tmp_path / "ssl.config"
    tls = TlsConfig.from_files(key, certificate, certificate, client_verify=True)
    config.write_text(tls.to_text())
    with Process(base, tmp_path, ssl_config_file=config, port=0, server="local") as process:
        ours = TLS(certificate, certificate, key, server_name="localhost")
        with Client(process.address, "colours", tls=ours) as client:
            assert client.predict(RED, top_k=1)[0].labels == ("red",)
        without = TLS(certificate, server_name="localhost")
        with (
            Client(process.address, "colours", tls=without, timeout=3) as client,
            pytest.raises(ServingError),
        ):
            client.predict(RED)


def test_configuration_files_that_cannot_be_used(tmp_path):
    (tmp_path / "1").mkdir()
    with pytest.raises(ServeError, match=r"missing\.pbtxt cannot be used"):
        serve(tmp_path, batching_parameters_file=tmp_path / "missing.pbtxt")
    with pytest.raises(ServeError, match="exclude each other"):
        serve(tmp_path, batching_parameters_file=tmp_path / "x", per_model_batching=True)
    with pytest.raises(ServeError, match="either the base directory"):
        serve()
    (tmp_path / "models.config").write_text("")
    with pytest.raises(ServeError, match="lists no model"):
        serve(model_config_file=tmp_path / "models.config")
    with pytest.raises(ServeError, match="has its own"):
        serve(model_config_file=tmp_path / "models.config", name="a")


def test_a_taken_port_is_named(tmp_path):
    (tmp_path / "1").mkdir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match=f"127.0.0.1:{port}.*--port"):
            serve(tmp_path, port=port, server="local")


def test_bases_without_a_model(tmp_path):
    with pytest.raises(ServeError, match=r"is not a directory.*keras-vit export"):
        serve(tmp_path / "nowhere")
    with pytest.raises(ServeError, match="holds no version"):
        serve(tmp_path)
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(ServeError, match=f"serve its parent, {tmp_path.parent}"):
        serve(tmp_path)


def test_senseless_arguments(tmp_path):
    (tmp_path / "1").mkdir()
    with pytest.raises(ServeError, match="poll_seconds"):
        serve(tmp_path, poll_seconds=0)
    with pytest.raises(ServeError, match="'auto', 'tensorflow' or 'local'"):
        serve(tmp_path, server="triton")
    with pytest.raises(ServeError, match="port is 99999"):
        serve(tmp_path, port=99999, server="local")


def test_the_real_server_is_missing(tmp_path, monkeypatch):
    (tmp_path / "1").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServeError, match=r"not on PATH.*--server local"):
        serve(tmp_path, server="tensorflow")
