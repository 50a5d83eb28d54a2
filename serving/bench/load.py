"""Closed and open load: when requests are sent, and what is measured of them.

Closed load is a number of clients that each send when they have their answer: when the server is
slow they send less. Open load is requests at fixed moments, whatever the server does, as from many
independent users; the time of an answer counts from the moment at which its request was due, so
that a server which stalls cannot make its own load, and with it its measured times, smaller.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable

# Sends one request; gives the name of its gRPC status, such as "OK".
Send = Callable[[], Awaitable[str]]


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """One request.

    Args:
        due: when it had to be sent, in seconds since the load began; of closed load, when it was.
        end: when it was answered.
        code: name of its gRPC status.
    """

    due: float
    end: float
    code: str

    @property
    def latency(self) -> float:
        """Seconds from when it was due to its answer."""
        return self.end - self.due


async def closed_load(
    send: Send, concurrency: int, warmup: float, duration: float
) -> list[Outcome]:
    """Let clients send one request after the other.

    Args:
        send: sends a request.
        concurrency: number of clients, at least 1.
        warmup: seconds before the measurement.
        duration: seconds of the measurement.

    Returns:
        The requests that were answered within the measurement.

    Example:
        `await closed_load(send, concurrency=8, warmup=1, duration=10)`
    """
    clock = asyncio.get_running_loop().time
    begin = clock()
    end = warmup + duration
    outcomes: list[Outcome] = []

    async def client() -> None:
        while (sent := clock() - begin) < end:
            code = await send()
            outcomes.append(Outcome(sent, clock() - begin, code))

    await asyncio.gather(*(client() for _ in range(concurrency)))
    return [outcome for outcome in outcomes if warmup <= outcome.end < end]


async def open_load(send: Send, rate: float, warmup: float, duration: float) -> list[Outcome]:
    """Send requests at fixed moments, all that are due, however many are on their way.

    Args:
        send: sends a request.
        rate: requests per second, above 0.
        warmup: seconds before the measurement.
        duration: seconds of the measurement.

    Returns:
        The requests that were due within the measurement, whenever they were answered.

    Example:
        `await open_load(send, rate=100, warmup=1, duration=10)`
    """
    clock = asyncio.get_running_loop().time
    begin = clock()

    async def request(due: float) -> Outcome:
        code = await send()
        return Outcome(due, clock() - begin, code)

    tasks = []
    for due in due_times(rate, warmup + duration):
        # Late or not, the next one is due when it is due: nothing is left out, nothing put off.
        await asyncio.sleep(max(0.0, begin + due - clock()))
        tasks.append(asyncio.create_task(request(due)))
    outcomes = await asyncio.gather(*tasks)
    return [outcome for outcome in outcomes if outcome.due >= warmup]


def due_times(rate: float, seconds: float) -> list[float]:
    """When the requests of open load are due.

    Args:
        rate: requests per second, above 0.
        seconds: how long.

    Returns:
        Seconds since the beginning, ascending.

    Example:
        >>> due_times(4, 1)
        [0.0, 0.25, 0.5, 0.75]
    """
    return [number / rate for number in range(round(rate * seconds))]
