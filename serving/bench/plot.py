"""The picture of a load test."""

from __future__ import annotations

from pathlib import Path

from serving.bench.results import Report


def plot_report(report: Report, path: Path) -> None:
    """Draw throughput and latency over the load.

    Args:
        report: of the test.
        path: of the PNG file.

    Raises:
        ValueError: if matplotlib is not installed, or the file is not called *.png.

    Example:
        `plot_report(report, Path("load.png"))`
    """
    figure_class = check_plot(path)
    figure = figure_class(figsize=(10, 4), layout="constrained")
    throughput, latency = figure.subplots(1, 2)
    loads = [level.load for level in report.levels]
    is_open = report.levels[0].mode == "open"
    throughput.plot(loads, [level.requests_per_second for level in report.levels], "o-")
    if is_open:
        throughput.plot(loads, loads, ":", color="#9a9a9a", label="due")
        throughput.legend(frameon=False)
    throughput.set_ylim(bottom=0)
    throughput.set_ylabel("answers per second")
    for name in ("p50", "p90", "p99", "max"):
        values = [getattr(level, f"{name}_ms") for level in report.levels]
        known = [(load, value) for load, value in zip(loads, values, strict=True) if value]
        if known:
            latency.plot(*zip(*known, strict=True), "o-", label=name)
    if latency.lines:
        latency.set_yscale("log")
        latency.legend(frameon=False)
    latency.set_ylabel("latency, ms")
    for axis in (throughput, latency):
        axis.set_xlabel("requests per second that are due" if is_open else "clients")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
    figure.suptitle(f"{report.model} at {report.address}, images in a request: {report.batch_size}")
    figure.savefig(path, dpi=120)


def check_plot(path: Path) -> type:
    """Find out before the test that its picture can be drawn.

    Args:
        path: of the PNG file.

    Returns:
        Matplotlib's `Figure`.

    Raises:
        ValueError: if matplotlib is not installed, or the file is not called *.png.
    """
    if path.suffix != ".png":
        raise ValueError(f"--plot {path} is no PNG file: give a name that ends in .png.")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError(
            "A plot needs matplotlib: pip install matplotlib, or leave --plot out."
        ) from error
    return Figure
