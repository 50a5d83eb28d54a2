"""Requests of many callers in one run: sizes, padding, splitting, faults, limits."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from serving.configuration.batching import BatchingParameters
from serving.local_server.batching import BatchScheduler
from serving.local_server.metrics import Metrics
from serving.local_server.status import StatusError, invalid


class Model:
    """Doubles its input and remembers the batches; -1 is an error; may be held up."""

    def __init__(self):
        self.batches = []
        self.running = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, feeds, fetches, timeout):
        self.running.set()
        self.go_on.wait(10)
        x = feeds["x"]
        self.batches.append(x[:, 0].tolist())
        if (x == -1).any():
            raise invalid("minus one")
        return dict.fromkeys(fetches, 2 * x)


@pytest.fixture
def schedule():
    started = []

    def start(**parameters):
        model, metrics = Model(), Metrics()
        scheduler = BatchScheduler(BatchingParameters(**parameters), model, metrics)
        started.append((scheduler, model))
        return scheduler, model, metrics

    yield start
    for scheduler, model in started:
        model.go_on.set()
        scheduler.stop()


def rows(*values):
    return {"x": np.array(values, np.float32)[:, None]}


def together(scheduler, requests, timeout=10.0):
    """All at once; answers or errors in order."""

    def ask(feeds):
        try:
            return scheduler.run(feeds, ["y"], timeout)["y"][:, 0].tolist()
        except StatusError as error:
            return error

    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(ask, requests))


def test_everyone_gets_his_own_rows(schedule):
    scheduler, model, metrics = schedule(
        max_batch_size=8, batch_timeout_micros=200_000, num_batch_threads=1
    )
    requests = [rows(*range(i, i + 1 + i % 3)) for i in range(1, 21)]
    answers = together(scheduler, requests)
    assert answers == [(2 * request["x"][:, 0]).tolist() for request in requests]
    assert max(map(len, model.batches)) <= 8
    assert len(model.batches) < len(requests)
    assert f"processed_batch_size_count{{}} {len(model.batches)}" in metrics.page()


def test_a_batch_is_filled_up_to_an_allowed_size(schedule):
    scheduler, model, _ = schedule(max_batch_size=8, allowed_batch_sizes=(2, 8))
    assert together(scheduler, [rows(1, 2, 3)]) == [[2, 4, 6]]
    assert model.batches == [[1, 2, 3, 1, 1, 1, 1, 1]]  # with the first row of the last request


def test_one_bad_request_fails_its_batch_and_no_other(schedule):
    scheduler, _, _ = schedule(max_batch_size=2, batch_timeout_micros=500_000, num_batch_threads=1)
    first, second = together(scheduler, [rows(-1), rows(1)])
    assert first.message == second.message == "minus one"
    assert together(scheduler, [rows(3, 4)]) == [[6, 8]]


def test_a_large_request_is_split_if_that_is_allowed(schedule):
    scheduler, model, _ = schedule(
        max_batch_size=20, enable_large_batch_splitting=True, max_execution_batch_size=4
    )
    assert together(scheduler, [rows(*range(10))]) == [[2.0 * i for i in range(10)]]
    assert sorted(map(len, model.batches)) == [2, 4, 4]
    refusing, _, _ = schedule(max_batch_size=4)
    (error,) = together(refusing, [rows(*range(5))])
    assert error.message == "Task size 5 is larger than maximum input batch size 4"


def test_a_full_queue_refuses(schedule):
    scheduler, model, _ = schedule(max_batch_size=1, num_batch_threads=1, max_enqueued_batches=2)
    model.go_on.clear()
    with ThreadPoolExecutor(5) as pool:
        calls = [pool.submit(together, scheduler, [rows(0)])]
        assert model.running.wait(10)
        calls += [pool.submit(together, scheduler, [rows(i)]) for i in range(1, 5)]
        time.sleep(0.5)
        model.go_on.set()
        answers = [call.result()[0] for call in calls]
    refused = [answer for answer in answers if isinstance(answer, StatusError)]
    assert len(refused) == 2  # one runs, two wait
    assert {error.code for error in refused} == {grpc.StatusCode.UNAVAILABLE}
    assert "is full" in refused[0].message


def test_who_has_waited_too_long_is_told(schedule):
    scheduler, model, _ = schedule(max_batch_size=1, num_batch_threads=1)
    model.go_on.clear()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(together, scheduler, [rows(1)])
        assert model.running.wait(10)
        second = pool.submit(together, scheduler, [rows(2)], 0.2)
        time.sleep(0.5)
        model.go_on.set()
        assert first.result() == [[2.0]]
        (error,) = second.result()
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "timeout exceeded while waiting" in error.message


def test_shapes_that_do_not_fit_together(schedule):
    wide = {"x": np.ones((1, 3), np.float32)}
    options = {"max_batch_size": 2, "batch_timeout_micros": 300_000, "num_batch_threads": 1}
    scheduler, _, _ = schedule(**options)
    for error in together(scheduler, [rows(1), wide]):
        assert error.code is grpc.StatusCode.FAILED_PRECONDITION
        assert "padding is turned off" in error.message
    padding, _, _ = schedule(**options, pad_variable_length_inputs=True)
    assert sorted(together(padding, [rows(1), wide])) == [[2.0], [2.0]]


def test_other_outputs_have_a_queue_of_their_own(schedule):
    scheduler, model, _ = schedule(max_batch_size=2, batch_timeout_micros=300_000)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(scheduler.run, rows(i), [name], 5) for i, name in ((1, "y"), (2, "z"))]
        assert [list(call.result()) for call in calls] == [["y"], ["z"]]
    assert sorted(model.batches) == [[1], [2]]


def test_what_waits_is_answered_before_the_end(schedule):
    scheduler, _, _ = schedule(max_batch_size=100, batch_timeout_micros=60_000_000)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(together, scheduler, [rows(1, 2)])
        time.sleep(0.2)
        scheduler.stop()
        assert call.result() == [[2, 4]]


def test_an_output_without_the_batch_is_refused():
    def broken(feeds, fetches, timeout):
        return {"y": np.zeros(3), "z": np.float32(0)}

    scheduler = BatchScheduler(BatchingParameters(max_batch_size=2), broken, Metrics())
    with pytest.raises(StatusError, match="0th dimension does not equal"):
        scheduler.run(rows(1), ["y"], None)
    scheduler.stop()
