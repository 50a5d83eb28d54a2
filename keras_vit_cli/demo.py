"""`keras-vit demo`: the whole way, on real images, in a few minutes."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_vit_cli.arguments import call

if TYPE_CHECKING:
    from keras_vit import VisionTransformer

# A served score and the Keras model's may differ by rounding, no more.
_TOLERANCE = 1e-4


def demo(workdir: Path = Path("runs/demo"), epochs: int | None = None) -> None:
    """Train on handwritten digits, export, serve, and check every served answer.

    Trains a Vision Transformer on scikit-learn's real digits, writes it as a SavedModel, serves it
    on a free port, sends every test image as PNG bytes through the client and compares each answer
    with the Keras model's.

    Args:
        workdir: gets the run, served/digits/1, predictions.png and curves.png.
        epochs: fewer than the recipe's for a quick look.
    """
    from rich.console import Console
    from rich.table import Table

    from serving.export import export_model
    from training.data import load_source
    from training.recipes import RECIPES
    from training.train import train

    console = Console()
    recipe = RECIPES["digits"]
    if epochs is not None:
        recipe = dataclasses.replace(
            recipe,
            epochs=epochs,
            schedule=dataclasses.replace(
                recipe.schedule, warmup_epochs=min(recipe.schedule.warmup_epochs, epochs / 4)
            ),
        )
    console.rule("train")
    model = train(recipe, workdir).model

    console.rule("export")
    base = workdir / "served" / "digits"
    export = export_model(model, base)
    print(f"{export.path}  {export.megabytes:.1f} MB")

    console.rule("serve and query")
    images, labels = _test_images(load_source(recipe.data))
    expected = _keras_answers(model, images)
    with _server(base) as address:
        answers, latencies, images_per_second = _ask(address, base.name, images)
    best = np.array([answer.labels[0] if answer.valid else "" for answer in answers])
    same = best == np.array(model.labels)[expected.argmax(-1)]
    ranked = -np.sort(-expected, axis=-1)[:, : len(answers[0].scores)]
    difference = float(np.abs(np.array([answer.scores for answer in answers]) - ranked).max())
    accuracy = float((best == labels).mean())

    table = Table(box=None, show_header=False)
    p50, p99 = np.percentile(latencies, [50, 99]) * 1e3
    for name, value in [
        ("test accuracy, served", f"{accuracy:.4f}"),
        ("top-1 equal to the Keras model", f"{same.sum()} of {len(same)}"),
        ("largest difference of a score", f"{difference:.1e}"),
        ("throughput, 32 images a request", f"{images_per_second:,.0f} images/s"),
        ("latency, 1 image a request", f"p50 {p50:.2f} ms, p99 {p99:.2f} ms"),
    ]:
        table.add_row(name, value)
    console.print(table)
    _draw(workdir / "predictions.png", images, labels, answers)
    print(f"{workdir / 'predictions.png'}\n{workdir / 'curves.png'}")
    if not same.all() or difference > _TOLERANCE:
        raise RuntimeError("The server's answers are not the Keras model's; see the table above.")


def _test_images(source: Any) -> tuple[list[bytes], np.ndarray]:
    """The test images as encoded bytes, and their labels by name, [N]."""
    examples = list(source.examples("test").as_numpy_iterator())
    labels = np.array([source.labels[example["label"]] for example in examples])
    return [example["image_bytes"] for example in examples], labels


def _keras_answers(model: VisionTransformer, images: list[bytes]) -> np.ndarray:
    """Probabilities of the Keras model, float32 [N, num_classes]."""
    import keras
    import tensorflow as tf

    pixels = tf.stack([model.preprocessing(data) for data in images])
    return np.asarray(keras.ops.softmax(tf.cast(model(pixels, training=False), tf.float32)))


@contextlib.contextmanager
def _server(base: Path) -> Iterator[str]:
    """A server of its own process on a free port; gives its address."""
    command = [sys.executable, "-m", "keras_vit_cli", "serve", str(base), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        lines = []
        for line in process.stdout or []:
            lines.append(line)
            if found := re.search(r"Serving .* at (\S+:\d+)", line):
                print(line.strip())
                yield found[1]
                return
        raise RuntimeError(f"The server did not start: {' '.join(lines).strip() or 'no output'}")
    finally:
        process.terminate()
        process.wait(60)


def _ask(address: str, name: str, images: list[bytes]) -> tuple[list[Any], list[float], float]:
    """Every image by itself, then all in batches: answers, seconds of each, images per second."""
    from serving import Client

    answers, latencies = [], []
    with Client(address, name) as client:
        client.predict(images[:32])  # the first call of each shape builds the executor
        client.predict(images[:1])
        for data in images:
            start = time.perf_counter()
            answers += client.predict(data, top_k=10)
            latencies.append(time.perf_counter() - start)
        start = time.perf_counter()
        client.predict(images)
        seconds = time.perf_counter() - start
    return answers, latencies, len(images) / seconds


def _draw(path: Path, images: list[bytes], labels: np.ndarray, answers: list[Any]) -> None:
    """A grid of test images with what was served; mistakes first, in red."""
    import io

    from matplotlib.figure import Figure
    from PIL import Image

    wrong = [answer.labels[0] != label for answer, label in zip(answers, labels, strict=True)]
    order = np.argsort(~np.array(wrong), kind="stable")[:40]
    figure = Figure(figsize=(10, 5.4), layout="constrained")
    axes = figure.subplots(4, 10)
    for axis, index in zip(axes.flat, order, strict=False):
        axis.imshow(Image.open(io.BytesIO(images[index])), cmap="gray")
        axis.set_axis_off()
        label, score = answers[index].labels[0], answers[index].scores[0]
        text = f"{label}  {score:.2f}" + (f"\ntrue {labels[index]}" if wrong[index] else "")
        axis.set_title(text, fontsize=10, color="#c0392b" if wrong[index] else "#222222")
    figure.suptitle(
        f"{len(labels)} test images answered over gRPC, {sum(wrong)} wrong (shown first, in red)"
    )
    figure.savefig(path, dpi=120)


def run(arguments: list[str]) -> None:
    """Run the command."""
    call(demo, "demo", arguments)
