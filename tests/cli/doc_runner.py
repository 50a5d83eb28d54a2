"""Running the blocks of a page: Python in one namespace, commands in this process."""

import contextlib
import functools
import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest
import yaml
from doc_blocks import ROOT, commands
from doc_world import free_port

import keras_vit_cli

# Appended to commands: the same, small enough for a test.
_MODEL = "--model.hidden-dim 32 --model.depth 1 --model.num-heads 2 --model.image-size 32"
_SMALL = {
    "keras-vit train": "--epochs 1 --batch-size 8 --schedule.warmup-epochs 0",
    "keras-vit export": "--batch-sizes 1",
    "keras-vit probe": "--kinds fewshot --shots 1",
    "keras-vit bench token-merging": "--counts 4 --rounds 1",
    "keras-vit bench serving": "--duration 0.3 --warmup 0.1 --concurrency 2",
}
# Starts processes of its own, so it runs as one.
_DEVICES = {"--num-workers"}
# Small programs that are run as they are.
_RUN = {"curl", "openssl"}


class NotRun(NamedTuple):
    """Commands that cannot run in a test, why, and what is looked at instead."""

    pattern: str
    reason: str
    check: str


NOT_RUN = [
    NotRun(r"^pip install ", "it would change the environment", "extras"),
    NotRun(r"^(docker|kubectl) ", "there is no daemon and no cluster", "files"),
    NotRun(r"^srun |\bTF_CONFIG=", "needs several hosts", "parse"),
    NotRun(r"--strategy tpu", "needs a TPU", "parse"),
    NotRun(r"--num-replicas", "tests/training/test_topologies.py runs that strategy", "parse"),
    NotRun(r"^make ", "makes an environment, in which these tests start or a demo", "make_target"),
    NotRun(r"(^| )pytest ", "the tests would start themselves", "pytest_file"),
    NotRun(
        r"^keras-vit bench (inference|training|input|growth|start)( |$)", "takes minutes", "parse"
    ),
    NotRun(r"--server tensorflow", "there need be no tensorflow_model_server", "parse"),
    NotRun(r"^keras-vit page ", "asks a server that is elsewhere, without end", "parse"),
]


def reason_not_run(command):
    """The entry of the list above that a command falls under, or None."""
    return next((entry for entry in NOT_RUN if re.search(entry.pattern, command.line)), None)


class Runner:
    """One page in a directory of its own.

    Args:
        home: the directory, filled by `make_home`.
        server: the server of `served/photos` that answers at localhost:8500 and 8501.
    """

    def __init__(self, home, server):
        self.home = home
        self.output = ""
        self._namespace = {"__name__": "__main__"}
        self._ports = {"8500": server.port, "8501": server.rest_port}
        self._servers = []
        self._stop = threading.Event()

    def run(self, block):
        """Run a block as its language wants it; a failure says which one."""
        missing = [name for name in block.needs if importlib.util.find_spec(name) is None]
        with contextlib.chdir(self.home):
            if block.language == "python":
                self._python(block, bool(missing))
            elif block.language == "sh":
                for command in commands(block):
                    self._command(command, block)
            elif block.language == "json":
                json.loads(block.text)
            elif block.language == "yaml":
                list(yaml.safe_load_all(block.text))

    def close(self):
        """Stop the servers that the page has started."""
        self._stop.set()
        for thread in self._servers:
            thread.join(60)
            assert not thread.is_alive(), "a server of the page goes on"

    def _python(self, block, compile_only):
        text = "\n" * block.line + self._with_ports(block.text)
        code = compile(text, str(block.page), "exec")
        if not compile_only:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(code, self._namespace)
            self.output += printed.getvalue()

    def _command(self, command, block):
        if entry := reason_not_run(command):
            getattr(self, f"_check_{entry.check}")(command)
            return
        words = shlex.split(self._with_ports(shlex.join(command.words)))
        if words[0] in _RUN and shutil.which(words[0]) is None:
            pytest.skip(f"{words[0]} is not installed")
        if words[0] in _RUN:
            result = subprocess.run(
                self._with_ports(command.line), shell=True, capture_output=True, text=True
            )
            assert result.returncode == 0, f"{block}: {command.line}\n{result.stderr}"
            self.output += result.stdout
            return
        assert words[0] == "keras-vit", f"{block}: what is to be done with {command.line!r}?"
        given = ""
        if command.stdin_of:
            given = subprocess.run(
                command.stdin_of, shell=True, capture_output=True, text=True, check=True
            ).stdout
        with mock.patch.dict(os.environ, command.environment):
            if command.name in ("keras-vit promote", "keras-vit rollback"):
                assert self._servers, f"{block}: would change the server that all pages share"
            if command.name == "keras-vit serve":
                self._serve(command)
                return
            arguments = [*self._expanded([*words[1:], *self._appended(command)])]
            if _DEVICES & set(words):
                self.output += call_process(arguments, str(block))
            else:
                self.output += call(arguments, str(block), given)

    def _appended(self, command):
        """Options that make a command small, and lead it to the page's server."""
        words = command.words
        more = shlex.split(_SMALL.get(command.name, ""))
        if command.name == "keras-vit train":
            if "--model.pretrained" not in words:
                more += shlex.split(_MODEL)
            workdir = Path(words[words.index("--workdir") + 1])
            if not (workdir / "config.json").exists():  # the one that was there before the page
                shutil.rmtree(workdir, ignore_errors=True)
        asks = command.name in ("keras-vit predict", "keras-vit bench serving")
        if asks and "--address" not in words and "--offline" not in words:
            more += ["--address", f"localhost:{self._ports['8500']}"]
        return more

    def _expanded(self, words):
        """File patterns as a shell expands them."""
        for word in words:
            found = sorted(self.home.glob(word)) if "*" in word and not word.startswith("/") else []
            yield from [str(path.relative_to(self.home)) for path in found] or [word]

    def _serve(self, command):
        """Start a server in a thread, and go on when its port is open."""
        words = list(command.words[1:])
        for option, usual in (("--port", "8500"), ("--rest-port", "8501")):
            if option not in words:
                words += [option, usual]
            place = words.index(option) + 1
            self._ports[words[place]] = free_port()
            words[place] = str(self._ports[words[place]])
        failed = []

        @contextlib.contextmanager
        def stop_signals():
            yield self._stop

        def serve():
            try:
                keras_vit_cli.main(words)
            except SystemExit as stop:
                failed.append(stop)

        patch = mock.patch("serving.server._stop_signals", stop_signals)
        patch.start()
        try:
            thread = threading.Thread(target=serve)
            thread.start()
            self._servers.append(thread)
            port = int(words[words.index("--port") + 1])
            _wait_for(port, lambda: not failed)
        finally:
            patch.stop()

    def _with_ports(self, text):
        def replace(match):
            return match[1] + str(self._ports.setdefault(match[2], free_port()))

        return re.sub(r"(:|-?port )(8\d{3})\b", replace, text)

    def _check_parse(self, command):
        parse(command.words[command.words.index("keras-vit") + 1 :])

    def _check_make_target(self, command):
        subprocess.run([*command.words, "-n"], cwd=ROOT, check=True, capture_output=True)

    def _check_pytest_file(self, command):
        paths = [word for word in command.words[1:] if word.startswith("tests")]
        assert paths
        assert all((ROOT / path).exists() for path in paths), command.line

    def _check_files(self, command):
        places = [i + 1 for i, word in enumerate(command.words) if word in ("--file", "--filename")]
        for path in (command.words[i] for i in places):
            assert (self.home / path).exists(), f"{command.line}: there is no {path}"

    def _check_extras(self, command):
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        named = re.findall(r"(?:keras-vit|\.)\[([\w,]+)\]", command.line)
        extras = {extra for names in named for extra in names.split(",")}
        assert extras <= project["optional-dependencies"].keys(), command.line


def call(arguments, where, given=""):
    """Run `keras-vit` in this process: what it printed. It must end well."""
    printed = io.StringIO()
    with (
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
        mock.patch.object(sys, "stdin", io.StringIO(given)),
    ):
        try:
            keras_vit_cli.main(arguments)
        except SystemExit as stop:
            status = stop.code or 0
        else:
            status = 0
    if status:
        pytest.fail(f"{where}: keras-vit {shlex.join(arguments)}\n{printed.getvalue()}")
    return printed.getvalue()


def call_process(arguments, where):
    """The same in a process of its own."""
    result = subprocess.run(
        [sys.executable, "-m", "keras_vit_cli", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{where}: {result.stdout}{result.stderr}"
    return result.stdout


class _ParsedError(Exception):
    """The arguments were read; the command is not to run."""


def parse(arguments):
    """Read the arguments of a command without running it."""
    import tyro

    real = tyro.cli

    def cli(function, **options):
        @functools.wraps(function)  # for tyro the same options
        def nothing(*_, **__):
            pass

        real(nothing, **options)
        raise _ParsedError

    with mock.patch("tyro.cli", cli), pytest.raises(_ParsedError):
        call(arguments, "parsed only")


def _wait_for(port, is_well):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert is_well(), "the server did not start"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens at port {port}")
