"""Load tests against sends and servers whose delays are known."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import numpy as np
import pytest

from serving.bench.load import Outcome, closed_load, due_times, open_load
from serving.bench.results import summarize
from serving.bench.run import Bench
from serving.bench.server_side import (
    PAGE,
    batches_between,
    cpu_seconds,
    parse_metrics,
    process_of,
)
from serving.client.errors import ModelNotFoundError, ServerUnavailableError
from serving.protos import serving_wire_pb2 as wire

# In the words of a running tensorflow_model_server 2.20.0 with --enable_batching.
METRICS = """\
# TYPE :tensorflow:serving:batching_session:padding_size histogram
:tensorflow:serving:batching_session:padding_size_bucket{execution_batch_size="1",le="+Inf"} 47
:tensorflow:serving:batching_session:padding_size_sum{execution_batch_size="1"} 0
:tensorflow:serving:batching_session:padding_size_count{execution_batch_size="1"} 47
:tensorflow:serving:batching_session:padding_size_bucket{execution_batch_size="4",le="+Inf"} 2
:tensorflow:serving:batching_session:padding_size_sum{execution_batch_size="4"} 1
:tensorflow:serving:batching_session:padding_size_count{execution_batch_size="4"} 2
# TYPE :tensorflow:serving:batching_session:processed_batch_size histogram
:tensorflow:serving:batching_session:processed_batch_size_bucket{le="+Inf"} 49
:tensorflow:serving:batching_session:processed_batch_size_sum{} 54
:tensorflow:serving:batching_session:processed_batch_size_count{} 49
:tensorflow:serving:batching_session:queuing_latency_sum{thread_pool_name=""} 4.21006e+06
:tensorflow:serving:batching_session:queuing_latency_count{thread_pool_name=""} 49
:tensorflow:serving:request_count{model_name="tiny",status="OK"} 50
"""


class FakeServer:
    """Answers Predict one after the other, each after a delay; every fourth fails if asked to."""

    def __init__(self, delay, fail_every=None):
        self.delay, self.fail_every, self.count, self.sizes = delay, fail_every, 0, set()
        self._server = grpc.server(ThreadPoolExecutor(1))
        handlers = {
            "Predict": grpc.unary_unary_rpc_method_handler(
                self._predict,
                request_deserializer=wire.PredictRequest.FromString,
                response_serializer=wire.PredictResponse.SerializeToString,
            )
        }
        service = "tensorflow.serving.PredictionService"
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, handlers),)
        )
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self.address = f"127.0.0.1:{self.port}"

    def _predict(self, request, context):
        self.count += 1
        self.sizes.add(request.inputs["image_bytes"].tensor_shape.dim[0].size)
        time.sleep(self.delay)
        if request.model_spec.name != "m":
            context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found for request: Latest(x)")
        if self.fail_every and self.count % self.fail_every == 0:
            code = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)[
                self.count // self.fail_every % 2
            ]
            context.abort(code, "full")
        return wire.PredictResponse()

    def __enter__(self):
        self._server.start()
        return self

    def __exit__(self, *_):
        self._server.stop(None).wait()


# === Arithmetic ===


def test_percentiles_are_those_of_numpy():
    rng = np.random.default_rng(0)
    due = np.sort(rng.uniform(0, 10, 1000))
    latency = rng.exponential(0.05, 1000)
    codes = rng.choice(["OK", "OK", "OK", "UNAVAILABLE", "DEADLINE_EXCEEDED"], 1000)
    outcomes = [
        Outcome(float(d), float(d + t), str(c)) for d, t, c in zip(due, latency, codes, strict=True)
    ]
    level = summarize("open", 100, outcomes, 10, batch_size=4)
    ok = latency[codes == "OK"] * 1000
    for name, expected in {
        "p50_ms": np.percentile(ok, 50),
        "p90_ms": np.percentile(ok, 90),
        "p99_ms": np.percentile(ok, 99),
        "max_ms": ok.max(),
        "mean_ms": ok.mean(),
        "requests_per_second": len(ok) / 10,
        "images_per_second": len(ok) * 4 / 10,
    }.items():
        assert getattr(level, name) == pytest.approx(expected, abs=1e-3), name
    assert level.requests == 1000
    assert level.errors == {
        code: int((codes == code).sum()) for code in ("DEADLINE_EXCEEDED", "UNAVAILABLE")
    }


def test_a_level_without_answers_has_no_latency():
    level = summarize("closed", 2, [Outcome(0, 1, "UNAVAILABLE")], 5, batch_size=1)
    assert level.ok == 0
    assert level.p50_ms is level.p99_ms is level.max_ms is level.mean_ms is None
    assert level.requests_per_second == 0


@pytest.mark.parametrize(("rate", "seconds"), [(10, 2), (0.5, 4), (333, 0.1), (3, 0.5)])
def test_due_times(rate, seconds):
    expected = np.arange(round(rate * seconds)) / rate
    np.testing.assert_allclose(due_times(rate, seconds), expected)


# === Load ===


def stalling(begin, end, delay=0.002):
    """A server that answers at once but stands still for a while."""
    started = None

    async def send():
        nonlocal started
        clock = asyncio.get_running_loop().time
        started = clock() if started is None else started
        await asyncio.sleep(delay)
        if begin < clock() - started < end:
            await asyncio.sleep(max(0.0, started + end - clock()))
        return "OK"

    return send


def test_open_load_counts_what_a_stall_costs_every_user():
    outcomes = asyncio.run(open_load(stalling(0.4, 0.8), rate=100, warmup=0.2, duration=1))
    assert [o.due for o in outcomes] == pytest.approx(due_times(100, 1.2)[20:])
    late = [o for o in outcomes if 0.41 < o.due < 0.75]
    for outcome in late:  # whoever came in the stall waited until its end
        assert outcome.latency == pytest.approx(0.8 - outcome.due, abs=0.08)
    level = summarize("open", 100, outcomes, 1, batch_size=1)
    assert level.p90_ms > 200
    # Closed load hides it: its one client waits once.
    closed = asyncio.run(closed_load(stalling(0.4, 0.8), 1, warmup=0.2, duration=1))
    assert summarize("closed", 1, closed, 1, batch_size=1).p90_ms < 100


def test_a_sender_that_is_late_does_not_make_latencies_smaller():
    async def send():
        time.sleep(0.01)  # holds up the whole loop: not half of the rate is possible
        return "OK"

    outcomes = asyncio.run(open_load(send, rate=250, warmup=0, duration=0.4))
    assert len(outcomes) == 100
    last = outcomes[-1]
    assert last.latency == pytest.approx(100 * 0.01 - last.due, abs=0.3)


def test_closed_load_keeps_so_many_on_their_way():
    running, most = 0, 0

    async def send():
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        return "OK"

    outcomes = asyncio.run(closed_load(send, 5, warmup=0.1, duration=0.4))
    assert most == 5
    assert all(0.1 <= o.end < 0.5 for o in outcomes)
    assert 50 < len(outcomes) <= 5 * 0.4 / 0.02 + 5


# === A server ===


def test_closed_load_on_a_server_of_known_speed():
    with FakeServer(0.02) as server:
        seen = []
        report = Bench(server.address, "m", loads=(1, 4), warmup=0.2, duration=1, batch_size=3).run(
            seen.append
        )
    assert seen == list(report.levels)
    assert server.sizes == {3}
    one, four = report.levels
    for level in (one, four):  # it answers one after the other
        assert 25 < level.requests_per_second <= 51
        assert level.images_per_second == pytest.approx(3 * level.requests_per_second, abs=0.01)
        assert level.errors == {}
    assert 20 <= one.p50_ms < 40
    assert 2.5 < four.p50_ms / one.p50_ms < 6
    assert one.server_cpu is not None or not os.path.isdir("/proc")  # noqa: PTH112
    assert one.batches is None


def test_open_load_beyond_what_a_server_can_do_shows_the_queue():
    with FakeServer(0.02) as server:
        (level,) = (
            Bench(server.address, "m", "open", (100,), warmup=0, duration=1, timeout=10)
            .run()
            .levels
        )
    # 100 in the queue at 50 a second: the last has waited for a second at least.
    assert level.requests == level.ok == 100
    assert 950 < level.max_ms < 2500
    latencies = [20 + 10 * number for number in range(100)]
    assert level.p50_ms >= np.percentile(latencies, 50) * 0.95


def test_errors_are_counted_by_code_and_not_tried_again():
    with FakeServer(0.001, fail_every=4) as server:
        (level,) = Bench(server.address, "m", "open", (100,), warmup=0, duration=0.8).run().levels
        assert server.count == 81  # with the first one
    assert set(level.errors) == {"RESOURCE_EXHAUSTED", "UNAVAILABLE"}
    assert sum(level.errors.values()) == 20 == level.requests - level.ok


def test_deadlines_are_errors_too():
    with FakeServer(0.3) as server:
        (level,) = (
            Bench(server.address, "m", loads=(4,), warmup=0, duration=1, timeout=0.45).run().levels
        )
    assert level.errors["DEADLINE_EXCEEDED"] > 0


def test_what_cannot_be_asked_is_said_at_once():
    with FakeServer(0) as server:
        with pytest.raises(ModelNotFoundError, match="does not serve model 'x'"):
            Bench(server.address, "x", duration=60).run()
        with pytest.raises(ValueError, match="gives no metrics"):
            Bench(server.address, "m", duration=60, rest_port=server.port).run()
    with pytest.raises(ServerUnavailableError):
        Bench("127.0.0.1:1", "m", duration=60).run()
    for arguments, message in [
        ({"loads": ()}, "loads are"),
        ({"loads": (0,)}, "numbers of clients above 0"),
        ({"loads": (1.5,)}, "numbers of clients"),
        ({"loads": (float("nan"),), "mode": "open"}, "requests per second above 0"),
        ({"mode": "ajar"}, "mode is 'ajar'"),
        ({"duration": 0}, "duration is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            Bench("localhost:8500", "m", **arguments)


# === What the server says ===


def test_batches_are_those_between_two_readings():
    batches = batches_between({}, parse_metrics(METRICS))
    assert batches.by_size == {1: 47, 4: 2}
    assert batches.mean_size == pytest.approx(54 / 49, abs=1e-3)
    assert batches.mean_queuing_ms == pytest.approx(4210.06 / 49, abs=1e-3)
    later = (
        METRICS.replace('count{execution_batch_size="4"} 2', 'count{execution_batch_size="4"} 12')
        .replace("sum{} 54", "sum{} 84")
        .replace("count{} 49", "count{} 59")
    )
    batches = batches_between(parse_metrics(METRICS), parse_metrics(later))
    assert batches.by_size == {4: 10}
    assert batches.mean_size == 3
    assert batches.mean_queuing_ms is None
    assert batches_between({}, parse_metrics('requests{a="b"} 1\nbroken{ 2\nx y')) is None


def test_the_page_is_read_before_and_after_each_measurement():
    class Page(BaseHTTPRequestHandler):
        readings = 0

        def do_GET(self):
            assert self.path == PAGE
            type(self).readings += 1
            text = f"{METRICS.partition('#')[0]}:tensorflow:serving:batching_session:"
            grown = 10 * type(self).readings
            text += f'padding_size_count{{execution_batch_size="8"}} {grown}\n'
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    page = HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=page.serve_forever, daemon=True).start()
    with FakeServer(0.001) as server:
        report = Bench(
            server.address, "m", loads=(1, 2), warmup=0, duration=0.2, rest_port=page.server_port
        ).run()
    page.shutdown()
    page.server_close()
    assert [level.batches.by_size for level in report.levels] == [{8: 10}, {8: 10}]
    assert Page.readings == 5  # the first one finds out whether there is a page


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")  # noqa: PTH112
def test_the_process_behind_a_port():
    code = (
        "import socket\ns = socket.create_server(('127.0.0.1', 0))\n"
        "print(s.getsockname()[1], flush=True)\nwhile True: pass"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        port = int(process.stdout.readline())
        assert process_of(port) == process.pid
        before = cpu_seconds(process.pid)
        time.sleep(0.5)
        assert cpu_seconds(process.pid) > before
    finally:
        process.kill()
        process.communicate()
    assert process_of(port) is None
    assert cpu_seconds(process.pid) is None


# === The report ===

LEVEL = {
    "mode": str, "load": float, "seconds": float, "requests": int, "ok": int, "errors": dict,
    "requests_per_second": float, "images_per_second": float, "mean_ms": float, "p50_ms": float,
    "p90_ms": float, "p99_ms": float, "max_ms": float, "client_cpu": float,
}  # fmt: skip


def test_the_command_writes_json_and_a_picture(tmp_path):
    from PIL import Image

    from keras_vit_cli import main

    files = [tmp_path / "a.bin", tmp_path / "b.bin"]
    for file in files:
        file.write_bytes(b"...")
    with FakeServer(0.002) as server:
        main(
            [
                *("bench", "serving", *map(str, files), "--name", "m", "--mode", "open"),
                *("--address", server.address, "--rate", "20,40", "--duration", "0.5"),
                *("--warmup", "0.1", "--json", str(tmp_path / "o.json")),
                *("--plot", str(tmp_path / "o.png")),
            ]
        )
    report = json.loads((tmp_path / "o.json").read_text())
    assert (report["model"], report["signature"], report["batch_size"]) == (
        "m", "serving_default", 1,
    )  # fmt: skip
    assert [level["load"] for level in report["levels"]] == [20, 40]
    for level in report["levels"]:
        assert {name: type(level[name]) for name in LEVEL} == LEVEL
        assert set(level) - set(LEVEL) == {"server_cpu", "batches"}
        assert level["p50_ms"] <= level["p90_ms"] <= level["p99_ms"] <= level["max_ms"]
    with Image.open(tmp_path / "o.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 500


def test_the_command_says_what_is_wrong(capsys):
    from keras_vit_cli import main

    for arguments, message in [
        (("nothing",), "There is no benchmark 'nothing'"),
        (("serving", "--name", "m", "--rate", "5"), "--rate goes with --mode open"),
        (("serving", "--name", "m", "--mode", "open"), "--rate goes with --mode open"),
        (("serving", "--name", "m", "--concurrency", "a"), "--concurrency a is not a list"),
        (("serving", "--name", "m", "--plot", "x.jpg"), "no PNG file"),
    ]:
        with pytest.raises(SystemExit) as stop:
            main(["bench", *arguments])
        assert stop.value.code == 1
        assert message in capsys.readouterr().err
    main(["bench", "--help"])
    assert "serving" in capsys.readouterr().out


def test_the_load_needs_no_tensorflow():
    code = "import sys, serving.bench.run; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
