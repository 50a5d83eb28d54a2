"""What a load test found, in numbers."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from serving.bench.load import Outcome

Mode = Literal["closed", "open"]
PERCENTILES = (50, 90, 99)


@dataclasses.dataclass(frozen=True)
class Batches:
    """How a server put requests together, during a measurement.

    Args:
        mean_size: images of a batch, without padding; None if none was processed.
        by_size: number of batches by the size that was executed, with padding.
        mean_queuing_ms: how long a request waited for its batch; None if none did.
    """

    mean_size: float | None
    by_size: dict[int, int]
    mean_queuing_ms: float | None


@dataclasses.dataclass(frozen=True)
class Level:
    """One level of load.

    Args:
        mode: "closed" or "open".
        load: number of clients, or requests per second that were due.
        seconds: of the measurement.
        requests: how many were measured.
        ok: how many of them were answered.
        errors: the others by name of their gRPC status.
        requests_per_second: answered ones.
        images_per_second: in answered ones.
        mean_ms: latency of the answered ones, milliseconds; None, as the following, without any.
        p50_ms: median.
        p90_ms: nine of ten are faster.
        p99_ms: 99 of 100 are faster.
        max_ms: the slowest.
        client_cpu: cores that this program used; near 1 it is the limit, and not the server.
        server_cpu: cores that the server used; None unless it runs on this machine.
        batches: of the server; None if it was not asked or has no batching.
    """

    mode: Mode
    load: float
    seconds: float
    requests: int
    ok: int
    errors: dict[str, int]
    requests_per_second: float
    images_per_second: float
    mean_ms: float | None
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    client_cpu: float
    server_cpu: float | None = None
    batches: Batches | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """A load test.

    Args:
        address: HOST:PORT of the server.
        model: its name there.
        signature: that was asked.
        batch_size: images of each request.
        warmup: seconds before each measurement.
        duration: seconds of each measurement.
        levels: in the order in which they were measured.
    """

    address: str
    model: str
    signature: str
    batch_size: int
    warmup: float
    duration: float
    levels: tuple[Level, ...]

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        return dataclasses.asdict(self)


def summarize(
    mode: Mode,
    load: float,
    outcomes: Sequence[Outcome],
    seconds: float,
    batch_size: int,
    client_cpu: float = 0.0,
    server_cpu: float | None = None,
    batches: Batches | None = None,
) -> Level:
    """Make the numbers of a level.

    Args:
        mode: "closed" or "open".
        load: number of clients, or rate.
        outcomes: of its requests.
        seconds: of the measurement, above 0.
        batch_size: images of each request.
        client_cpu: cores that this program used. Default 0.
        server_cpu: cores that the server used. Default None: unknown.
        batches: of the server. Default None: unknown.

    Returns:
        A `Level`.

    Example:
        >>> outcomes = [Outcome(0, 0.1, "OK"), Outcome(0, 0.3, "OK"), Outcome(0, 9, "UNAVAILABLE")]
        >>> level = summarize("open", 3, outcomes, 1, batch_size=1)
        >>> level.p50_ms, level.errors
        (200.0, {'UNAVAILABLE': 1})
    """
    latencies = np.array([o.latency for o in outcomes if o.code == "OK"]) * 1000  # [ok]
    codes = collections.Counter(o.code for o in outcomes if o.code != "OK")

    def rounded(value: float) -> float | None:
        return None if math.isnan(value) else round(float(value), 3)

    percentiles = np.percentile(latencies, PERCENTILES) if latencies.size else [math.nan] * 3
    p50, p90, p99 = map(rounded, percentiles)
    return Level(
        mode=mode,
        load=load,
        seconds=seconds,
        requests=len(outcomes),
        ok=len(latencies),
        errors=dict(sorted(codes.items())),
        requests_per_second=round(len(latencies) / seconds, 3),
        images_per_second=round(len(latencies) * batch_size / seconds, 3),
        mean_ms=rounded(latencies.mean()) if latencies.size else None,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        max_ms=rounded(latencies.max()) if latencies.size else None,
        client_cpu=round(client_cpu, 3),
        server_cpu=None if server_cpu is None else round(server_cpu, 3),
        batches=batches,
    )
