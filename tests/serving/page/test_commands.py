"""`keras-vit serve --page` and `keras-vit page` as processes."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from processes import write_fake_binary

from serving.server import serve
from serving.startup import ServeError

ROOT = Path(__file__).parents[3]


class Command:
    """A command that prints where the page is, and runs until it is stopped."""

    def __init__(self, *arguments, path=None):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        if path is not None:
            environment["PATH"] = f"{path}{os.pathsep}{environment['PATH']}"
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "keras_vit_cli", *map(str, arguments)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines = []
        for line in self.popen.stdout:
            self.lines.append(line)
            if "Page" in line:
                break
        else:
            raise AssertionError(self.popen.communicate()[1])
        self.page = re.search(r"(http://\S+)/", self.lines[-1])[1]

    def get(self, path):
        with urllib.request.urlopen(self.page + path, timeout=30) as answer:
            return answer.read()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.popen.kill()
        self.popen.communicate()


def test_the_local_server_has_it_on_its_rest_port(base):
    arguments = ("--port", 0, "--rest-port", 0, "--server", "local", "--page")
    with Command("serve", base, *arguments) as command:
        assert command.lines[0].startswith("Serving colours version 1 at 127.0.0.1:")
        assert f"REST at {command.page.removeprefix('http://')})" in command.lines[0]
        assert b"<h1" in command.get("/")
        assert b'"versions": [1]' in command.get("/page/state")
        command.popen.send_signal(signal.SIGTERM)
        assert command.popen.wait(30) == 0


def test_a_port_of_its_own(base):
    arguments = ("--port", 0, "--server", "local", "--page-port", 0)
    with Command("serve", base, *arguments) as command:
        assert "REST" not in command.lines[0]
        assert b'"versions": [1]' in command.get("/page/state")


def test_in_front_of_the_real_server(tmp_path):
    (tmp_path / "colours" / "1").mkdir(parents=True)
    binary = write_fake_binary(tmp_path / "bin")
    arguments = ("--port", 0, "--rest-port", 0, "--server", "tensorflow", "--page")
    with Command("serve", tmp_path / "colours", *arguments, path=binary.parent) as command:
        assert "tensorflow_model_server" in command.lines[0]
        assert b"<h1" in command.get("/")
        assert b'"versions": [7]' in command.get("/page/state")
        command.popen.send_signal(signal.SIGTERM)
        assert command.popen.wait(30) == 0


def test_in_front_of_a_server_that_runs(local, configs):
    with Command(
        "page", local.address, "--name", "colours", "--base", configs[0].base_path, "--port", 0
    ) as page:
        assert b'"versions": [2, 1]' in page.get("/page/state")
        page.popen.send_signal(signal.SIGINT)
        assert page.popen.wait(30) == 130
        assert "Traceback" not in page.popen.stderr.read()


def test_arguments_that_make_no_sense(base, tmp_path):
    with pytest.raises(ServeError, match="keras-vit page"):
        serve(base, page=True, ssl_config_file=tmp_path / "ssl.config", server="local")
    with pytest.raises(ServeError, match="port is 70000"):
        serve(base, page_port=70_000, server="local")
