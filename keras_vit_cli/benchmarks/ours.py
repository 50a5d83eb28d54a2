"""This project as a contender, and the limit that matrix products set."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import tempfile
import timeit
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import keras_vit
from keras_vit_cli.benchmarks.runner import Task
from serving.card_file import load_card
from serving.fused.streams import stream_lengths
from serving.processor import compute_dtype_for
from serving.startup import PACK_WEIGHTS
from serving.threads import session_threads

Step = Callable[[], Any]


def build(task: Task) -> tuple[Step, dict[str, Any]]:
    """Set this project up.

    Args:
        task: of any kind but "limit".

    Returns:
        The step, and what there is to say about it.
    """
    tf.config.threading.set_intra_op_parallelism_threads(task.threads)
    # As TensorFlow has it by itself; sessions have their own, and the process no other cores.
    tf.config.threading.set_inter_op_parallelism_threads(task.threads)
    kinds = {"inference": _inference, "images": _images, "training": _training, "input": _input}
    return kinds[task.kind](task)


def open_session(path: Path, threads: int) -> tuple[tf.compat.v1.Session, Any]:
    """Load an export as TF Serving does.

    Args:
        path: of a version, `BASE/N`.
        threads: that compute.

    Returns:
        A session and the signatures by name.
    """
    within, between = session_threads([path], threads)
    config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=within,
        inter_op_parallelism_threads=between if within == 1 else 1,
    )
    session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
    with session.graph.as_default():
        meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], str(path))
    return session, meta_graph.signature_def


def example_model(task: Task) -> keras_vit.VisionTransformer:
    """The model of a task with random weights.

    Args:
        task: names it.

    Returns:
        A model whose preprocessing takes the whole image.
    """
    overrides = {"depth": task.options["depth"]} if "depth" in task.options else {}
    model = keras_vit.create_model(task.model, image_size=task.image_size, **overrides)
    model.preprocessing = model.preprocessing.replace(crop_fraction=1.0)
    # Ones and zeros, where training starts, would be optimised away.
    random = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign_add(random.normal(0, 0.02, variable.shape))
    return model


def export_session(task: Task) -> tuple[tf.compat.v1.Session, Any, dict[str, Any]]:
    """Export the model of a task and load it.

    Args:
        task: of kind "inference" or "images".

    Returns:
        A session, the signatures by name, and what there is to say about the export.
    """
    with tempfile.TemporaryDirectory() as base:
        # In a process of its own, as where it is served: the memory of this one is the server's.
        context = multiprocessing.get_context("spawn")
        exporting = context.Process(target=_export, args=(task, base))
        exporting.start()
        exporting.join()
        if exporting.exitcode:
            raise RuntimeError("The model could not be exported: see what is printed above.")
        # Not before: a Keras model that computes has one kernel for many weights.
        if task.options.get("pack_weights"):
            os.environ[PACK_WEIGHTS] = "1"
        version = Path(base) / "1"
        megabytes = sum(f.stat().st_size for f in version.rglob("*") if f.is_file()) / 1e6
        session, signatures = open_session(version, task.threads)
        about = {
            "tensorflow": tf.__version__,
            "megabytes": round(megabytes, 1),
            "compute_dtype": load_card(version)["compute_dtype"],
        }
    return session, signatures, about


def _export(task: Task, base: str) -> None:
    from serving.export import export_model

    sizes, streams = (task.batch_size,), task.options.get("streams")
    export_model(example_model(task), base, dtype=task.dtype, batch_sizes=sizes, streams=streams)


def _call(session: Any, signature: Any, value: Any, output: str) -> Step:
    (given,) = signature.inputs.values()
    call = session.make_callable(signature.outputs[output].name, [given.name])
    return lambda: call(value)


def _inference(task: Task) -> tuple[Step, dict[str, Any]]:
    session, signatures, about = export_session(task)
    shape = (task.batch_size, task.image_size, task.image_size, 3)
    pixels = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    return _call(session, signatures["images"], pixels, "scores"), about


def _images(task: Task) -> tuple[Step, dict[str, Any]]:
    session, signatures, about = export_session(task)
    data = [Path(file).read_bytes() for file in task.options["files"]]
    batch = np.array([data[i % len(data)] for i in range(task.batch_size)], object)
    return _call(session, signatures["serving_default"], batch, "classes"), about


def _training(task: Task) -> tuple[Step, dict[str, Any]]:
    import keras

    from training.optimization.synchronized import synchronized
    from training.streams import give_each_stream_a_thread, streams_of_batch
    from training.train_step import TrainedModel

    dtype = {"float32": "float32", "bfloat16": "mixed_bfloat16"}[task.dtype]
    compiled, streams = task.options["jit_compile"], streams_of_batch(task.dtype)
    if not compiled:  # as `keras-vit train` does
        give_each_stream_a_thread(streams)
    model = keras_vit.create_model(task.model, image_size=task.image_size, dtype=dtype)
    for block in model.blocks:
        block.remat = task.options["remat"]
    trained = TrainedModel(model, clip_norm=1.0, jit_compile=compiled, streams=streams)
    adamw = synchronized(keras.optimizers.AdamW)(1e-4, weight_decay=0.05)
    trained.compile(adamw, jit_compile=False)
    random = np.random.default_rng(1)
    shape = (task.batch_size, task.image_size, task.image_size, 3)
    batch = (
        random.normal(size=shape).astype(np.float32),
        tf.one_hot(random.integers(0, 1000, task.batch_size), 1000),
        np.ones(task.batch_size, np.float32),
    )
    steps = iter(tf.data.Dataset.from_tensors(batch).repeat())
    trained.make_train_function()
    return lambda: trained.train_function(steps), {"tensorflow": tf.__version__}


def _input(task: Task) -> tuple[Step, dict[str, Any]]:
    from keras_vit import Preprocessing
    from training.augmentation.config import Augmentation
    from training.data import load_source
    from training.data.pipeline import training_batches

    augmentation = Augmentation(
        crop="inception",
        flip=True,
        randaugment_layers=task.options["layers"],
        randaugment_magnitude=task.options["magnitude"],
    )
    batches = training_batches(
        load_source(task.options["data"]),
        Preprocessing(task.image_size),
        augmentation,
        batch_size=task.batch_size,
        seed=0,
        epochs=10**6,
    )
    steps = iter(batches)
    return lambda: next(steps), {"tensorflow": tf.__version__}


def _seconds(call: Step) -> float:
    """The shortest of five calls, after one that does not count."""
    return min(timeit.repeat(call, number=1, repeat=6)[1:])


def build_limit(task: Task) -> tuple[Step, dict[str, Any]]:
    """The matrix products of a model and nothing else: what no implementation can go below.

    The four products of each block, with operands of the model's own shapes and of the dtype that
    an export computes in here, one after the other in the form that is fastest: with the kernel as
    it is, a cache line wider, as `serving.fused` writes those that collide, or on its side; in as
    many streams. Those of attention are left out.

    Args:
        task: of kind "limit".

    Returns:
        The step, and the floating-point operations of it.
    """
    model = keras_vit.create_model(task.model, image_size=task.image_size)
    mlp = model.blocks[0].mlp
    tokens = task.batch_size * model._block_inputs[0].shape[1]
    width, hidden = model.hidden_dim, mlp.fc1.units
    shapes = [(width, 3 * width), (width, width), (width, hidden), (mlp.mlp_dim, width)]
    depth, dtype = len(model.blocks), tf.as_dtype(compute_dtype_for(task.dtype))
    streams = task.options["streams"] if task.options.get("streams") == task.threads else 1
    random = np.random.default_rng(0)
    with tf.Graph().as_default():
        config = tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=1 if streams > 1 else task.threads,
            inter_op_parallelism_threads=streams,
        )
        # It would leave out products that nobody asks for.
        config.graph_options.rewrite_options.disable_meta_optimizer = True
        session = tf.compat.v1.Session(config=config)

        def weights(*size: int) -> tf.Variable:
            values = session.run(tf.cast(random.normal(size=size).astype(np.float32), dtype))
            return tf.compat.v1.Variable(values, use_resource=True)

        chosen = []
        for inner, outer in shapes:
            parts = [weights(length, inner) for length in stream_lengths(tokens, streams)]
            forms = [
                (parts, weights(inner, outer), False),
                (parts, weights(outer, inner), True),
                (parts, weights(inner, outer + 16), False),
            ]
            session.run(tf.compat.v1.global_variables_initializer())
            # Fetched as operations: nothing is copied out.
            calls = [session.make_callable(tf.group(*_multiply(*form))) for form in forms]
            chosen.append(forms[min(range(len(forms)), key=lambda i: _seconds(calls[i]))])
        session.run(tf.compat.v1.global_variables_initializer())
        last: list[Any] = [[] for _ in range(streams)]
        for form in chosen * depth:
            last = [[product] for product in _multiply(*form, after=last)]
        step = session.make_callable(tf.group(*itertools.chain(*last)))
    operations = 2 * depth * tokens * sum(inner * outer for inner, outer in shapes)
    return step, {"operations": operations}


def _multiply(
    parts: Sequence[tf.Variable],
    kernel: tf.Variable,
    transposed: bool,
    after: Sequence[list[tf.Operation]] = (),
) -> list[tf.Operation]:
    """The product of each stream with a kernel, after what that stream has done before."""
    products = []
    for part, before in zip(parts, after or [[]] * len(parts), strict=True):
        with tf.control_dependencies(before):
            products.append(tf.matmul(part, kernel, transpose_b=transposed).op)
    return products
