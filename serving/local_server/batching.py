"""Requests of many callers in one run of the model, by the rules of TF Serving's batching."""

from __future__ import annotations

import collections
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import grpc
import numpy as np

from serving.configuration.batching import BatchingParameters
from serving.local_server.metrics import Metrics
from serving.local_server.status import StatusError, invalid

Arrays = dict[str, np.ndarray]
Run = Callable[[Mapping[str, np.ndarray], Sequence[str], float | None], Arrays]


class _Call:
    """One request: its answer comes in one part, or in several if it was split."""

    def __init__(self, deadline: float | None) -> None:
        self.deadline = deadline
        self.parts: dict[int, Arrays] = {}  # by the first row of each
        self.error: StatusError | None = None
        self.missing = 0
        self.done = threading.Event()
        self._lock = threading.Lock()  # its parts may end in several threads at once

    def finish(self, start: int, answer: Arrays | StatusError) -> None:
        """Take the answer for the rows from `start` on."""
        with self._lock:
            if isinstance(answer, StatusError):
                self.error = answer
            else:
                self.parts[start] = answer
            self.missing -= 1
            if self.missing == 0:
                self.done.set()


@dataclasses.dataclass
class _Task:
    """Rows of one request that are run together."""

    call: _Call
    start: int
    rows: int
    feeds: Arrays
    since: float


@dataclasses.dataclass
class _Batch:
    """Tasks that are run together; open for more until it is full or its time is up."""

    tasks: list[_Task] = dataclasses.field(default_factory=list)
    rows: int = 0


class _Queue:
    """The batches of one set of inputs and outputs."""

    def __init__(self, fetches: Sequence[str]) -> None:
        self.fetches = fetches
        self.batches: collections.deque[_Batch] = collections.deque()


class BatchScheduler:
    """Gathers the requests to one servable and runs them together.

    As on TF Serving one bad request fails the batch that it is in, a batch waits for
    `batch_timeout_micros` unless it is full, and every set of outputs has a queue of its own.

    Args:
        parameters: sizes and times.
        run: runs the model: feeds, fetches, timeout -> outputs.
        metrics: where sizes and times are counted.

    Example:
        `BatchScheduler(BatchingParameters(max_batch_size=8), servable.run, Metrics())`
    """

    def __init__(self, parameters: BatchingParameters, run: Run, metrics: Metrics) -> None:
        self._parameters = parameters
        self._run = run
        self._metrics = metrics
        self._capacity = parameters.max_execution_batch_size or parameters.max_batch_size
        self._timeout = parameters.batch_timeout_micros / 1e6
        self._queues: dict[tuple[tuple[str, ...], ...], _Queue] = {}
        self._changed = threading.Condition()  # guards the queues
        self._stopping = False
        count = parameters.num_batch_threads or os.cpu_count() or 1
        self._threads = [
            threading.Thread(target=self._work, name=f"batch-{i}", daemon=True)
            for i in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finish what waits, then end the threads."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def run(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], timeout: float | None
    ) -> Arrays:
        """Compute tensors, together with what others ask for at this moment.

        Args:
            feeds: arrays by tensor name, all with the batch as their first dimension.
            fetches: tensor names.
            timeout: seconds; None for no limit.

        Returns:
            Arrays by tensor name.

        Raises:
            StatusError: as TF Serving fails.
        """
        rows = self._check(feeds)
        deadline = None if timeout is None else time.monotonic() + timeout
        if rows == 0:
            # There it waits for a batch that never fills, until its caller has given up: a second
            # longer, since a caller that is late itself would still take the answer.
            if timeout is not None:
                time.sleep(timeout + 1)
            return self._run(feeds, fetches, None)
        call = _Call(deadline)
        names = tuple(dict.fromkeys(fetches))
        with self._changed:
            queue = self._queues.setdefault((tuple(sorted(feeds)), names), _Queue(names))
            self._enqueue(queue, call, feeds, rows)
            self._changed.notify()
        call.done.wait()
        if call.error is not None:
            raise call.error
        parts = [part for _, part in sorted(call.parts.items())]
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in names}

    # === Into the queue ===

    def _check(self, feeds: Mapping[str, np.ndarray]) -> int:
        """The rows of a request that can be batched."""
        sizes = set()
        for array in feeds.values():
            if array.ndim == 0:
                raise invalid("Batching Run() input tensors must have at least one dimension")
            sizes.add(len(array))
        if len(sizes) != 1:
            raise invalid("Batching Run() input tensors must have equal 0th-dimension size")
        (rows,) = sizes
        if rows > self._parameters.max_batch_size or (
            rows > self._capacity and not self._parameters.enable_large_batch_splitting
        ):
            raise invalid(
                f"Task size {rows} is larger than maximum input batch size "
                f"{self._parameters.max_batch_size}"
            )
        return rows

    def _enqueue(
        self, queue: _Queue, call: _Call, feeds: Mapping[str, np.ndarray], rows: int
    ) -> None:
        room = self._capacity - queue.batches[-1].rows if queue.batches else 0
        splits = self._parameters.enable_large_batch_splitting
        first = min(rows, room) if splits or rows <= room else 0
        sizes = [first] if first else []
        while sum(sizes) < rows:
            sizes.append(min(self._capacity, rows - sum(sizes)))
        new_batches = len(sizes) - (1 if first else 0)
        if len(queue.batches) + new_batches > self._parameters.max_enqueued_batches:
            raise StatusError(
                grpc.StatusCode.UNAVAILABLE,
                "The batch scheduling queue to which this task was submitted is full",
            )
        call.missing = len(sizes)
        start, now = 0, time.monotonic()
        for index, size in enumerate(sizes):
            if index or not first:
                queue.batches.append(_Batch())
            part = {name: array[start : start + size] for name, array in feeds.items()}
            batch = queue.batches[-1]
            batch.tasks.append(_Task(call, start, size, part, now))
            batch.rows += size
            start += size

    # === Out of the queue ===

    def _work(self) -> None:
        while True:
            with self._changed:
                taken = self._take()
            if taken is None:
                return
            self._process(*taken)

    def _take(self) -> tuple[_Batch, Sequence[str]] | None:
        """Wait for a batch that is full or has waited long enough; None at the end."""
        while True:
            now, soonest, oldest = time.monotonic(), None, None
            for queue in self._queues.values():
                if not queue.batches:
                    continue
                batch = queue.batches[0]
                due = batch.tasks[0].since + self._timeout
                full = batch.rows >= self._capacity or len(queue.batches) > 1
                if full or due <= now or self._stopping:
                    if oldest is None or due < oldest[0]:
                        oldest = (due, queue)
                else:
                    soonest = due if soonest is None else min(soonest, due)
            if oldest is not None:
                queue = oldest[1]
                return queue.batches.popleft(), queue.fetches
            if self._stopping:
                return None
            self._changed.wait(None if soonest is None else soonest - now)

    def _process(self, batch: _Batch, fetches: Sequence[str]) -> None:
        """Run a batch and hand out its rows, or its error to every task."""
        now = time.monotonic()
        tasks = []
        for task in batch.tasks:
            self._metrics.observe("batching_session:queuing_latency", (now - task.since) * 1e6)
            if task.call.deadline is not None and task.call.deadline <= now:
                late = "Run() timeout exceeded while waiting in batching queue"
                error = StatusError(grpc.StatusCode.RESOURCE_EXHAUSTED, late)
                task.call.finish(task.start, error)
            else:
                tasks.append(task)
        if not tasks:
            return
        try:
            answers: Sequence[Arrays | StatusError] = self._compute(tasks, fetches)
        except StatusError as error:
            answers = [error] * len(tasks)
        except Exception as error:  # noqa: BLE001 - a caller waits: it gets whatever went wrong
            answers = [StatusError(grpc.StatusCode.INTERNAL, str(error))] * len(tasks)
        for task, answer in zip(tasks, answers, strict=True):
            task.call.finish(task.start, answer)

    def _compute(self, tasks: Sequence[_Task], fetches: Sequence[str]) -> list[Arrays]:
        rows = sum(task.rows for task in tasks)
        size = self._padded_size(rows)
        feeds = {name: self._merge(name, tasks, size - rows) for name in tasks[0].feeds}
        # The one who can wait longest decides; without a limit of one there is none for all.
        deadlines = [task.call.deadline for task in tasks]
        timeout = None
        if None not in deadlines:
            timeout = max(d for d in deadlines if d is not None) - time.monotonic()
        for task in tasks:
            self._metrics.observe("batching_session:input_batch_size", task.rows)
        self._metrics.observe("batching_session:processed_batch_size", size)
        self._metrics.observe(
            "batching_session:padding_size", size - rows, execution_batch_size=str(size)
        )
        self._metrics.count("batching_session:wrapped_run_count")
        values = self._run(feeds, fetches, timeout)
        for value in values.values():
            if value.ndim == 0:
                raise StatusError(
                    grpc.StatusCode.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions"
                )
            if len(value) != size:
                raise StatusError(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    "Batched output tensor's 0th dimension does not equal the sum of the 0th "
                    "dimension sizes of the input tensors",
                )
        answers, start = [], 0
        for task in tasks:
            part = {name: value[start : start + task.rows] for name, value in values.items()}
            answers.append(part)
            start += task.rows
        return answers

    def _padded_size(self, rows: int) -> int:
        """The smallest allowed batch size that holds the rows."""
        fitting = [size for size in self._parameters.allowed_batch_sizes if size >= rows]
        return fitting[0] if fitting else rows

    def _merge(self, name: str, tasks: Sequence[_Task], padding: int) -> np.ndarray:
        """One input of all tasks; what is missing to the size is the last task's first row."""
        arrays = [task.feeds[name] for task in tasks]
        if len({array.dtype for array in arrays}) > 1:
            raise invalid(f"Tensors with name '{name}' from different tasks have different types.")
        if len({array.shape[1:] for array in arrays}) > 1:
            if (
                not self._parameters.pad_variable_length_inputs
                or len({array.ndim for array in arrays}) > 1
            ):
                raise StatusError(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    f"Tensors with name '{name}' from different tasks have different shapes and "
                    "padding is turned off. Set pad_variable_length_inputs to true, or ensure "
                    "that all tensors with the same name have equal dimensions starting with the "
                    "first dim.",
                )
            largest = np.max([array.shape[1:] for array in arrays], axis=0)
            arrays = [_pad(array, largest) for array in arrays]
        if padding:
            arrays.append(np.repeat(arrays[-1][:1], padding, axis=0))
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _pad(array: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Make every dimension but the first as large as it is to be, with the first element."""
    missing = [(0, 0), *((0, int(s) - n) for s, n in zip(sizes, array.shape[1:], strict=True))]
    return np.pad(array, missing, constant_values=array.flat[0] if array.size else 0)
