"""What the server says of itself: its Prometheus page, and its process where it runs here."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import urllib.request
from pathlib import Path

from serving.bench.results import Batches

PAGE = "/monitoring/prometheus/metrics"
_PREFIX = ":tensorflow:serving:batching_session:"
_LINE = re.compile(r"^([^\s{]+)(?:\{(.*)\})? ([^\s]+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_LISTENING = "0A"  # the state of a socket in /proc/net/tcp

# A metric's name and labels -> its value.
Metrics = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read_metrics(url: str, timeout: float = 5.0) -> Metrics:
    """Fetch a Prometheus page.

    Args:
        url: of the page.
        timeout: seconds it may take. Default 5.

    Returns:
        Its values.

    Raises:
        ValueError: if there is no such page.
    """
    try:
        # No proxy: the server is named by its address, as for gRPC.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=timeout) as answer:
            return parse_metrics(answer.read().decode())
    except (OSError, http.client.HTTPException, UnicodeDecodeError) as error:
        raise ValueError(
            f"{url} gives no metrics ({error}): start tensorflow_model_server with --rest_api_port "
            f"and a --monitoring_config_file that enables Prometheus, or leave --rest-port out."
        ) from error


def parse_metrics(text: str) -> Metrics:
    """Read a Prometheus page.

    Args:
        text: of the page.

    Returns:
        Values by name and labels; what is no number is left out.

    Example:
        >>> parse_metrics('requests{model="a"} 3')
        {('requests', (('model', 'a'),)): 3.0}
    """
    metrics: Metrics = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        with contextlib.suppress(ValueError):
            labels = tuple(_LABEL.findall(match[2] or ""))
            metrics[match[1], labels] = float(match[3])
    return metrics


def batches_between(before: Metrics, after: Metrics) -> Batches | None:
    r"""What TF Serving's batching did between two readings.

    Args:
        before: the first reading.
        after: the second.

    Returns:
        The batches; None if the server does not batch.

    Example:
        >>> name = ":tensorflow:serving:batching_session:processed_batch_size"
        >>> page = parse_metrics(name + "_sum{} 12\n" + name + "_count{} 3")
        >>> batches_between({}, page).mean_size
        4.0
    """
    if not any(name.startswith(_PREFIX) for name, _ in after):
        return None

    def grown(metric: str) -> dict[tuple[tuple[str, str], ...], float]:
        name = _PREFIX + metric
        return {
            labels: value - before.get((name, labels), 0.0)
            for (this, labels), value in after.items()
            if this == name
        }

    def mean(metric: str) -> float | None:
        count = sum(grown(f"{metric}_count").values())
        return round(sum(grown(f"{metric}_sum").values()) / count, 3) if count else None

    by_size = {
        int(dict(labels)["execution_batch_size"]): int(count)
        for labels, count in grown("padding_size_count").items()
        if count and "execution_batch_size" in dict(labels)
    }
    queuing = mean("queuing_latency")  # microseconds
    return Batches(
        mean("processed_batch_size"),
        dict(sorted(by_size.items())),
        None if queuing is None else round(queuing / 1000, 3),
    )


def process_of(port: int) -> int | None:
    """Find the process of this machine that listens on a port.

    Args:
        port: of TCP.

    Returns:
        Its number; None if there is none that may be looked at, or no /proc.
    """
    sockets = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    sockets.add(f"socket:[{fields[9]}]")
    for folder in Path("/proc").glob("[0-9]*/fd"):
        with contextlib.suppress(OSError):  # ended meanwhile, or someone else's
            if any(str(entry.readlink()) in sockets for entry in folder.iterdir()):
                return int(folder.parent.name)
    return None


def cpu_seconds(process: int) -> float | None:
    """The processor time that a process has used.

    Args:
        process: its number.

    Returns:
        Seconds, of all its threads; None if there is no such process, or no /proc.

    Example:
        >>> cpu_seconds(os.getpid()) is not None or not Path("/proc").is_dir()
        True
    """
    try:
        # The name of the program stands in brackets and may hold anything.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
