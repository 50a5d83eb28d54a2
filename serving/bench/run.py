"""A load test of one served model: level after level."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import numpy as np

from serving.bench.load import Outcome, Send, closed_load, open_load
from serving.bench.results import Level, Mode, Report, summarize
from serving.bench.server_side import (
    PAGE,
    Metrics,
    batches_between,
    cpu_seconds,
    process_of,
    read_metrics,
)
from serving.client.calls import PREDICT, Target, predict_request, raw_call
from serving.client.images import Image, collect
from serving.client.settings import Settings

_LOCAL = ("localhost", "127.0.0.1", "[::1]")


@dataclasses.dataclass(frozen=True)
class Bench:
    """What to ask, and how often.

    Args:
        address: HOST:PORT of the server's gRPC.
        model: its name on the server.
        mode: "closed" (clients that wait for their answer) or "open" (a fixed rate).
        loads: numbers of clients, or requests per second; each is a level, above 0.
        images: files, bytes or arrays, which are sent in turn; a picture of noise if empty.
        signature: with the input `image_bytes`.
        batch_size: images of one request, at least 1.
        warmup: seconds before each measurement, at least 0.
        duration: seconds of each measurement, above 0.
        timeout: seconds that a request may take, above 0.
        rest_port: of the server, for its Prometheus page; None to do without.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> Bench("localhost:8500", "digits", loads=(1, 2)).mode
        'closed'
    """

    address: str
    model: str
    mode: Mode = "closed"
    loads: Sequence[float] = (1, 2, 4, 8, 16)
    images: Sequence[Any] = ()
    signature: str = "serving_default"
    batch_size: int = 1
    warmup: float = 1.0
    duration: float = 10.0
    timeout: float = 30.0
    rest_port: int | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("closed", "open"):
            raise ValueError(f"mode is {self.mode!r}; it must be closed or open.")
        finite = all(math.isfinite(load) and load > 0 for load in self.loads)
        whole = self.mode == "open" or all(load == int(load) for load in self.loads if finite)
        if not (self.loads and finite and whole):
            wanted = "numbers of clients" if self.mode == "closed" else "requests per second"
            raise ValueError(f"loads are {list(self.loads)}; they must be {wanted} above 0.")
        if not (self.duration > 0 and self.warmup >= 0):
            raise ValueError(
                f"duration is {self.duration} and warmup {self.warmup} seconds; they must be above "
                f"0, and at least 0."
            )
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; it must be at least 1.")

    def run(self, report: Callable[[Level], None] = lambda level: None) -> Report:
        """Measure all levels, one after the other.

        Args:
            report: called with each level when it is measured.

        Returns:
            A `Report`.

        Raises:
            ServingError: if the server does not answer the first request.
            ValueError: if it has no Prometheus page where one was asked for.
        """
        return asyncio.run(self._run(report))

    async def _run(self, report: Callable[[Level], None]) -> Report:
        target = Target(self.model)
        # A request that fails is to be counted, and not to be sent again.
        settings = Settings(
            self.address,
            target,
            self.timeout,
            max_batch_size=self.batch_size,
            options=[("grpc.enable_retries", 0)],
        )
        requests = await asyncio.to_thread(self._requests, target)
        await asyncio.to_thread(self._metrics)
        async with settings.open(grpc.aio) as channel:
            # Bytes as they are: work of this program would be taken for the server's.
            method = channel.unary_unary(PREDICT.path)
            with settings.errors(raw_call(target, self.signature, {}, ()), self.timeout):
                await method(requests[0], timeout=self.timeout, wait_for_ready=False)
            following = itertools.cycle(requests)

            async def send() -> str:
                try:
                    await method(next(following), timeout=self.timeout)
                except grpc.aio.AioRpcError as error:
                    return error.code().name
                return "OK"

            levels = []
            for load in self.loads:
                levels.append(await self._level(send, load))
                report(levels[-1])
        return Report(
            self.address,
            self.model,
            self.signature,
            self.batch_size,
            self.warmup,
            self.duration,
            tuple(levels),
        )

    async def _level(self, send: Send, load: float) -> Level:
        outcomes, usage = await asyncio.gather(self._load(send, load), self._usage())
        return summarize(self.mode, load, outcomes, self.duration, self.batch_size, **usage)

    async def _load(self, send: Send, load: float) -> list[Outcome]:
        if self.mode == "closed":
            return await closed_load(send, int(load), self.warmup, self.duration)
        return await open_load(send, load, self.warmup, self.duration)

    async def _usage(self) -> dict[str, Any]:
        """What client and server use between the end of the warm-up and that of the measurement."""
        host, _, port = self.address.rpartition(":")
        local = host in _LOCAL and port.isdigit()
        process = await asyncio.to_thread(process_of, int(port)) if local else None
        await asyncio.sleep(self.warmup)
        first = await asyncio.to_thread(self._reading, process)
        await asyncio.sleep(self.duration)
        last = await asyncio.to_thread(self._reading, process)
        seconds = last["time"] - first["time"]
        known = first["server"] is not None and last["server"] is not None
        return {
            "client_cpu": (last["client"] - first["client"]) / seconds,
            "server_cpu": (last["server"] - first["server"]) / seconds if known else None,
            "batches": batches_between(first["metrics"], last["metrics"]),
        }

    def _reading(self, process: int | None) -> dict[str, Any]:
        return {
            "metrics": self._metrics(),
            "time": time.perf_counter(),
            "client": time.process_time(),
            "server": None if process is None else cpu_seconds(process),
        }

    def _metrics(self) -> Metrics:
        if self.rest_port is None:
            return {}
        return read_metrics(f"http://{self.address.rpartition(':')[0]}:{self.rest_port}{PAGE}")

    def _requests(self, target: Target) -> list[bytes]:
        """The requests that are sent in turn, each image in as many as any other."""
        images = collect(list(self.images)) if len(self.images) else [_noise()]
        encoded = [image.encoded() for image in images]
        requests = []
        for first in range(len(encoded)):
            batch = np.empty(self.batch_size, object)  # [N]
            batch[:] = [encoded[(first + i) % len(encoded)] for i in range(self.batch_size)]
            request = predict_request(target, self.signature, {"image_bytes": batch})
            requests.append(request.SerializeToString())
        return requests


def _noise() -> Image:
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    return Image(0, "noise", pixels)
