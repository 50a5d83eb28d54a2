"""Fewer bits for the weights: size, speed and accuracy of one model in float32, bfloat16 and int8.

int8 is not something that `export` offers: this is where one sees why. Each kernel is kept as int8
with a factor for each output ("weight-only", symmetric), and becomes a float again in each step,
since TensorFlow's products on a processor take no int8 weights with float tokens.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_vit import VisionTransformer
from keras_vit.explain.pictures import display_images
from keras_vit_cli.benchmarks.merging import answers_on, compared, median_seconds
from keras_vit_cli.benchmarks.ours import open_session
from serving.export import export_model
from training.data import DataSource
from training.evaluation.accuracy import check_split, model_outputs

PRECISIONS = ("float32", "bfloat16", "int8")
Call = Callable[[np.ndarray], np.ndarray]


def table(
    model: VisionTransformer,
    source: DataSource,
    split: str,
    *,
    batch_size: int,
    threads: int,
    rounds: int,
) -> list[dict[str, Any]]:
    """Measure a model in each of `PRECISIONS`.

    Args:
        model: with a head.
        source: the data.
        split: which part of it, with labels.
        batch_size: images of a step.
        threads: of the operations of the exports.
        rounds: how many steps of each are timed, in turns.

    Returns:
        A row for each: `precision`, `megabytes` of its weights, `images_per_second`, `speedup`,
        `top1`, `agreement` with float32, and `images`.

    Raises:
        ValueError: if the data do not go with the model.
    """
    check_split(source, split, batch_size)
    names = np.array(model.labels or [str(index) for index in range(model.num_classes)])
    output_of = model_outputs(model, source.labels, source.spec)
    opened = _open_all(model, batch_size, threads)
    calls = [opened[precision][0] for precision in PRECISIONS]
    seconds = median_seconds(calls, batch_size, model.preprocessing.output_shape, rounds)

    def answer(images: tf.Tensor) -> list[np.ndarray]:
        pixels = np.rint(255 * display_images(model, images)).astype(np.uint8)
        return [call(pixels)[:, 0].astype(str) for call in calls]

    truth, answers = answers_on(source, split, model.preprocessing, batch_size, answer)
    rows = compared(names[output_of[truth]], answers, seconds, batch_size)
    return [
        {"precision": precision, "megabytes": round(opened[precision][1], 3), **row}
        for precision, row in zip(PRECISIONS, rows, strict=True)
    ]


def _open_all(
    model: VisionTransformer, batch_size: int, threads: int
) -> dict[str, tuple[Call, float]]:
    """By precision the signature `images` of an export, and the megabytes of its weights."""
    # Without a crop pixels of the model's own size go in as they are.
    transform = model.preprocessing
    model.preprocessing = transform.replace(crop_fraction=1.0)
    try:
        return _exports(model, batch_size, threads)
    finally:
        model.preprocessing = transform


def _exports(
    model: VisionTransformer, batch_size: int, threads: int
) -> dict[str, tuple[Call, float]]:
    found = {}
    for dtype in ("float32", "bfloat16"):
        with tempfile.TemporaryDirectory() as base:
            path = export_model(model, base, dtype=dtype, batch_sizes=(batch_size,)).path
            session, signatures = open_session(path, threads)
            size = (path / "variables" / "variables.data-00000-of-00001").stat().st_size
        (given,) = signatures["images"].inputs.values()
        names = signatures["images"].outputs["classes"].name, [given.name]
        found[dtype] = session.make_callable(*names), size / 1e6
        if dtype == "float32":
            small, saved = with_int8_kernels(session)
            found["int8"] = small.make_callable(*names), (size - saved) / 1e6
    return found


def with_int8_kernels(
    session: tf.compat.v1.Session,
) -> tuple[tf.compat.v1.Session, int]:
    """An export whose kernels are int8.

    Args:
        session: that holds the export, in float32.

    Returns:
        A session with the same names, in which what the matrix products take is an int8 variable
        times a factor for each output; and how many bytes that saves.
    """
    kernels: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # by variable: int8 and factors
    reads: dict[str, list[str]] = {}  # by variable: what reads it
    for read in session.graph.get_operations():
        products = [use for use in read.outputs[:1] for use in use.consumers()]
        products = [use for use in products if use.type == "MatMul"]
        if read.type != "ReadVariableOp" or not products:
            continue
        name = read.inputs[0].op.name
        if name not in kernels:
            kernels[name] = int8_and_factors(session.run(read.outputs[0]))
        reads.setdefault(name, []).append(read.outputs[0].name)
    with session.graph.as_default():
        others = [v for v in tf.compat.v1.global_variables() if v.op.name not in kernels]
        values = dict(zip([v.op.name for v in others], session.run(others), strict=True))
    with tf.Graph().as_default() as graph:
        floats: dict[str, tf.Tensor] = {}
        for name, (rounded, factors) in kernels.items():
            # A variable: a constant would be turned back into floats once and for all.
            variable = tf.compat.v1.get_variable(
                f"int8/{name}", initializer=rounded, use_resource=True
            )
            value = tf.cast(variable, tf.float32) * tf.constant(factors)
            floats |= dict.fromkeys(reads[name], value)
        fresh = tf.compat.v1.global_variables_initializer()
        tf.import_graph_def(session.graph.as_graph_def(), floats, name="")
        small = tf.compat.v1.Session(graph=graph, config=session._config)
        small.run(fresh)
        for name, value in values.items():
            assign = graph.get_operation_by_name(f"{name}/Assign")
            small.run(assign, {assign.inputs[1]: value})
    saved = sum(3 * rounded.nbytes - factors.nbytes for rounded, factors in kernels.values())
    return small, saved


def int8_and_factors(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round a kernel, with a factor for each output.

    Args:
        kernel: float32 [inputs, outputs].

    Returns:
        int8 [inputs, outputs] and float32 factors [1, outputs], whose product is the kernel up to
        half a step.

    Example:
        >>> rounded, factors = int8_and_factors(np.array([[1.0], [0.5]]))
        >>> rounded.tolist(), factors.shape
        ([[127], [64]], (1, 1))
    """
    factors = np.abs(kernel).max(axis=0, keepdims=True) / 127
    factors = np.maximum(factors, np.finfo(np.float32).tiny)
    return np.rint(kernel / factors).astype(np.int8), factors.astype(np.float32)


def print_precision(rows: Sequence[dict[str, Any]], title: str) -> None:
    """Show what `table` gives.

    Args:
        rows: its rows.
        title: what was measured.
    """
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=title)
    for name in ("weights", "MB", "images/s", "faster", "top1", "same as float32"):
        shown.add_column(name, justify="right")
    for row in rows:
        shown.add_row(
            row["precision"],
            f"{row['megabytes']:,.1f}",
            f"{row['images_per_second']:,.1f}",
            f"{row['speedup']:.2f}",
            f"{row['top1']:.4f}",
            f"{row['agreement']:.2%}",
        )
    Console(highlight=False).print(shown)
