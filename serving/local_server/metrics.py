"""What happened so far, as TF Serving's Prometheus page tells it."""

from __future__ import annotations

import bisect
import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Iterator

from serving.local_server.status import StatusError

_PREFIX = ":tensorflow:serving:"
# In microseconds: 10, 18, 32, … as TF Serving has them; sizes of batches in powers of two.
_TIMES = [10 * 1.8**i for i in range(33)]
_SIZES = [float(2**i) for i in range(11)]
_HISTOGRAMS = {
    "batching_session:input_batch_size": _SIZES,
    "batching_session:padding_size": _SIZES,
    "batching_session:processed_batch_size": _SIZES,
    "batching_session:queuing_latency": _TIMES,
    "model_warmup_latency": _TIMES,
    "request_example_counts": _SIZES,
    "request_latency": _TIMES,
    "runtime_latency": _TIMES,
}
_COUNTERS = (
    "batching_session:wrapped_run_count",
    "model_warmup_records_read",
    "request_count",
    "request_example_count_total",
)
_LOADING = (
    ":tensorflow:cc:saved_model:load_attempt_count",
    ":tensorflow:cc:saved_model:load_latency",
)

_Labels = tuple[tuple[str, str], ...]


class _Histogram:
    def __init__(self, bounds: list[float]) -> None:
        self.buckets = [0] * (len(bounds) + 1)
        self.sum = 0.0


class Metrics:
    """Counters and histograms, safe to use from any thread.

    Example:
        >>> metrics = Metrics()
        >>> metrics.count("request_count", model_name="digits", status="OK")
        >>> ':tensorflow:serving:request_count{model_name="digits",status="OK"} 1' in metrics.page()
        True
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[str, dict[_Labels, float]] = defaultdict(lambda: defaultdict(float))
        self._histograms: dict[str, dict[_Labels, _Histogram]] = defaultdict(dict)

    def count(self, name: str, by: float = 1, **labels: str) -> None:
        """Add to a counter.

        Args:
            name: behind ":tensorflow:serving:".
            by: how much. Default 1.
            **labels: values by label.
        """
        self._add(_PREFIX + name, by, labels)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add a value to a histogram.

        Args:
            name: behind ":tensorflow:serving:", of a known histogram.
            value: microseconds, or a size.
            **labels: values by label.
        """
        bounds = _HISTOGRAMS[name]
        with self._lock:
            histogram = self._histograms[name].setdefault(tuple(labels.items()), _Histogram(bounds))
            histogram.buckets[bisect.bisect_left(bounds, value)] += 1
            histogram.sum += value

    @contextlib.contextmanager
    def request(self, model: str, api: str, entrypoint: str) -> Iterator[None]:
        """Count the request that is answered inside, and its time if it succeeds.

        Args:
            model: its name.
            api: "Predict" and the like.
            entrypoint: "GRPC" or "REST".
        """
        start = time.monotonic()
        try:
            yield
        except StatusError as error:
            self.count("request_count", model_name=model, status=error.code.name)
            raise
        self.count("request_count", model_name=model, status="OK")
        labels = {"model_name": model, "API": api, "entrypoint": entrypoint}
        self.observe("request_latency", (time.monotonic() - start) * 1e6, **labels)

    @contextlib.contextmanager
    def run(self, model: str, api: str) -> Iterator[None]:
        """Observe the time of a model's run, if it succeeds.

        Args:
            model: its name.
            api: "Predict" and the like.
        """
        start = time.monotonic()
        yield
        elapsed = (time.monotonic() - start) * 1e6
        self.observe("runtime_latency", elapsed, model_name=model, API=api, runtime="TF1")

    def loaded(self, path: str, seconds: float, success: bool) -> None:
        """Count an attempt to load a version.

        Args:
            path: of the version.
            seconds: that it took.
            success: whether it went into service.
        """
        attempts, latency = _LOADING
        self._add(attempts, 1, {"model_path": path, "status": "success" if success else "fail"})
        self._add(latency, round(seconds * 1e6), {"model_path": path})

    def page(self) -> str:
        """All of it in Prometheus' text format, sorted by name."""
        with self._lock:
            blocks = dict.fromkeys((_PREFIX + name for name in _COUNTERS), "")
            for name in [*blocks, *_LOADING]:
                lines = [f"# TYPE {name} counter\n"]
                for labels, value in sorted(self._counters[name].items()):
                    lines.append(f"{name}{_braces(labels)} {value:.12g}\n")
                blocks[name] = "".join(lines)
            for short, bounds in _HISTOGRAMS.items():
                name = _PREFIX + short
                lines = [f"# TYPE {name} histogram\n"]
                for labels, histogram in sorted(self._histograms[short].items()):
                    lines += _histogram_lines(name, labels, histogram, bounds)
                blocks[name] = "".join(lines)
        return "".join(blocks[name] for name in sorted(blocks))

    def _add(self, name: str, by: float, labels: dict[str, str]) -> None:
        with self._lock:
            self._counters[name][tuple(labels.items())] += by


def _histogram_lines(
    name: str, labels: _Labels, histogram: _Histogram, bounds: list[float]
) -> list[str]:
    lines, total = [], 0
    for bound, count in zip([*bounds, None], histogram.buckets, strict=True):
        total += count
        le = "+Inf" if bound is None else f"{bound:g}"
        lines.append(f"{name}_bucket{_braces((*labels, ('le', le)))} {total}\n")
    lines.append(f"{name}_sum{_braces(labels)} {histogram.sum:.12g}\n")
    lines.append(f"{name}_count{_braces(labels)} {total}\n")
    return lines


def _braces(labels: _Labels) -> str:
    """Labels as Prometheus writes them, quotes and line ends escaped."""
    quoted = (
        (key, value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n"))
        for key, value in labels
    )
    return "{" + ",".join(f'{key}="{value}"' for key, value in quoted) + "}"
