"""`keras-vit bench serving`."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from keras_vit_cli.arguments import call

if TYPE_CHECKING:
    from serving.bench.results import Level, Report
    from serving.bench.run import Bench
    from serving.bench.tune import Trial

# A client that uses so much of a core has no time to spare for measuring.
_BUSY = 0.85
_WIDTH = 120  # of the table in a file


def bench_serving(
    files: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[FILE …]")],
    name: str,
    address: str = "localhost:8500",
    mode: Literal["closed", "open"] = "closed",
    concurrency: str = "1,2,4,8,16",
    rate: str | None = None,
    duration: float = 10.0,
    warmup: float = 1.0,
    signature: str = "serving_default",
    batch_size: int = 1,
    timeout: float = 30.0,
    rest_port: int | None = None,
    json_file: Annotated[Path | None, tyro.conf.arg(name="json", metavar="FILE")] = None,
    plot: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    tune: Annotated[Path | None, tyro.conf.arg(metavar="BASE")] = None,
    parameters: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("batching.pbtxt"),
) -> None:
    """Put load on a server and measure throughput, latency, errors and batches.

    Closed load is a number of clients that wait for their answers. Open load is a fixed rate,
    whatever the server does, as from independent users; latency then counts from the moment at
    which a request was due.

    Args:
        files: images to send in turn; without any, a picture of noise.
        name: the model's name on the server.
        address: HOST:PORT of the server's gRPC.
        mode: closed or open.
        concurrency: of closed load: numbers of clients, with commas between them.
        rate: of open load: requests per second, with commas between them.
        duration: seconds of each measurement.
        warmup: seconds before each measurement, which do not count.
        signature: with the input image_bytes.
        batch_size: images of one request.
        timeout: seconds that a request may take.
        rest_port: of the server, whose Prometheus page says how it made batches.
        json_file: write the results here.
        plot: draw throughput and latency, a PNG.
        tune: serve this export with one set of batching parameters after the other, under one load
            (--concurrency 16), and write the best; --address is not used.
        parameters: where to write the best batching parameters, for keras-vit serve
            --batching-parameters-file.
    """
    from serving.bench.plot import check_plot, plot_report
    from serving.bench.run import Bench

    if (mode == "open") != (rate is not None):
        raise ValueError("--rate goes with --mode open, and --mode open needs it: --rate 50,100.")
    if plot is not None:
        check_plot(plot)
    loads = _numbers("--concurrency", concurrency) if rate is None else _numbers("--rate", rate)
    bench = Bench(
        address,
        name,
        mode,
        loads,
        files,
        signature,
        batch_size,
        warmup,
        duration,
        timeout,
        rest_port,
    )
    if tune is not None:
        _tune(tune, bench, parameters, json_file)
        return
    # Said while it goes on; the table at the end is for standard output.
    report = bench.run(lambda level: print(_line(level), file=sys.stderr))
    _show(report)
    if json_file is not None:
        json_file.write_text(json.dumps(report.to_dict(), indent=1) + "\n")
    if plot is not None:
        plot_report(report, plot)


def _tune(base: Path, bench: Bench, output: Path, json_file: Path | None) -> None:
    from serving.bench.tune import candidates, tune

    def say(trial: Trial) -> None:
        level = trial.level
        print(
            f"{trial.name}: {level.images_per_second:.1f} images/s, p99 {_ms(level.p99_ms)} ms",
            file=sys.stderr,
        )

    trials = tune(base, bench, candidates(), say)
    plain = next(trial for trial in trials if trial.parameters is None)
    best = next(trial for trial in trials if trial.parameters is not None)
    output.write_text(best.parameters.to_text() if best.parameters else "")
    if json_file is not None:
        rows = [{"parameters": t.name, **dataclasses.asdict(t.level)} for t in trials]
        json_file.write_text(json.dumps(rows, indent=1) + "\n")
    gain = best.level.images_per_second / max(plain.level.images_per_second, 1e-9)
    print(f"best: {best.name}, {gain:.2f} x the images/s of no batching; written to {output}")
    if gain < 1:
        print("Batching does not pay for this model and load on this machine: leave it off.")


def run(arguments: list[str]) -> None:
    """Run the command."""
    call(bench_serving, "bench serving", arguments)


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ValueError(f"{option} {text} is not a list of numbers such as 1,2,4.") from error


def _line(level: Level) -> str:
    return f"{_load(level)}: {level.requests_per_second:.1f} answers/s, p99 {_ms(level.p99_ms)} ms"


def _show(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table

    title = "clients" if report.levels[0].mode == "closed" else "due/s"
    table = Table(title, "answers/s", "images/s", "p50", "p90", "p99", "max ms", box=None)
    for title in ("errors", "batch", "server CPU", "client CPU"):
        table.add_column(title)
    for column in table.columns:
        column.justify, column.no_wrap = "right", True
    for level in report.levels:
        errors = ", ".join(f"{code} {count}" for code, count in level.errors.items())
        mean = level.batches.mean_size if level.batches is not None else None
        table.add_row(
            f"{level.load:g}",
            f"{level.requests_per_second:,.1f}",
            f"{level.images_per_second:,.1f}",
            *(_ms(value) for value in (level.p50_ms, level.p90_ms, level.p99_ms, level.max_ms)),
            errors or "0",
            "" if mean is None else f"{mean:.2f}",
            "" if level.server_cpu is None else f"{level.server_cpu:.2f}",
            f"{level.client_cpu:.2f}",
        )
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH
    console.print(table)
    if any(level.client_cpu > _BUSY for level in report.levels):
        console.print(
            "This program used a whole core: at such loads it may be the limit, and not the "
            "server. Send more images per request, or start it more than once."
        )


def _load(level: Level) -> str:
    if level.mode == "open":
        return f"{level.load:g} requests/s"
    return f"{level.load:g} clients"


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"
