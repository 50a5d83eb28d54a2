"""`keras-vit serve` as a process, on the local server and on the real one where there is one."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SERVERS = [
    "local",
    pytest.param(
        "tensorflow",
        marks=pytest.mark.skipif(
            shutil.which("tensorflow_model_server") is None,
            reason="no tensorflow_model_server on the PATH",
        ),
    ),
]

# Stands in for tensorflow_model_server: takes its flags, answers GetModelStatus, ends on SIGTERM.
_FAKE_BINARY = """#!{python}
import signal, sys, threading
from concurrent import futures
import grpc
from serving.protos import serving_wire_pb2 as wire

print("started with", *sys.argv[1:], file=sys.stderr, flush=True)
flags = dict(argument.lstrip("-").split("=", 1) for argument in sys.argv[1:])

def status(request, context):
    assert request.model_spec.name == flags.get("model_name", request.model_spec.name)
    entry = wire.ModelVersionStatus(version=7, state="AVAILABLE")
    return wire.GetModelStatusResponse(model_version_status=[entry])

handler = grpc.unary_unary_rpc_method_handler(
    status, wire.GetModelStatusRequest.FromString, wire.GetModelStatusResponse.SerializeToString
)
server = grpc.server(futures.ThreadPoolExecutor())
service = "tensorflow.serving.ModelService"
server.add_generic_rpc_handlers(
    [grpc.method_handlers_generic_handler(service, {{"GetModelStatus": handler}})]
)
server.add_insecure_port("127.0.0.1:" + flags["port"])
server.start()
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
stop.wait()
"""


def write_fake_binary(folder):
    """Put a tensorflow_model_server that only tells its state into a folder; gives its path."""
    folder.mkdir()
    binary = folder / "tensorflow_model_server"
    binary.write_text(_FAKE_BINARY.format(python=sys.executable))
    binary.chmod(0o755)
    return binary


class Server:
    """`keras-vit serve` in a process of its own."""

    def __init__(self, kind, *arguments):
        command = [sys.executable, "-m", "keras_vit_cli", "serve", *map(str, arguments)]
        self.process = subprocess.Popen(
            [*command, "--port", "0", "--rest-port", "0", "--server", kind],
            stdout=subprocess.PIPE,
            text=True,
        )
        line = self.process.stdout.readline()
        found = re.search(r" at (\S+) \(.*REST at ([^\s)]+)", line)
        assert found, line
        self.address, self.rest_address = found.groups()

    def memory(self, field):
        """Bytes in use now ("VmRSS") or at most so far ("VmHWM"), of all its processes."""
        pids = [self.process.pid, *children_of(self.process.pid)]
        texts = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
        lines = "".join(texts).splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

    def stop(self):
        assert self.process.poll() is None, "the server has died"
        self.process.terminate()
        self.process.wait(60)


def children_of(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
