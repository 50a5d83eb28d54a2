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
