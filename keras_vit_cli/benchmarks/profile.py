"""Which kernels the time of an export goes into."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
import tensorflow as tf

from keras_vit_cli.benchmarks.ours import export_session
from keras_vit_cli.benchmarks.runner import Task

_PRODUCTS = ("MatMul", "Conv2D")
_CALLS = ("PartitionedCall", "StatefulPartitionedCall", "While", "StatelessWhile")


def profile_export(task: Task, steps: int = 5) -> dict[str, Any]:
    """Run an export under TensorFlow's tracer.

    Args:
        task: of kind "inference".
        steps: traced, after two that are not.

    Returns:
        Milliseconds of a step, the share of matrix products (with what is fused into them), and
        each kind of kernel with its count, milliseconds and share.
    """
    session, signatures, _ = export_session(task)
    (given,) = signatures["images"].inputs.values()
    shape = (task.batch_size, task.image_size, task.image_size, 3)
    feed = {given.name: np.random.default_rng(1).integers(0, 256, shape, np.uint8)}
    fetch = signatures["images"].outputs["scores"].name
    trace = tf.compat.v1.RunOptions.FULL_TRACE
    options = tf.compat.v1.RunOptions(trace_level=trace)
    times: collections.Counter[str] = collections.Counter()
    counts: collections.Counter[str] = collections.Counter()
    for number in range(-2, steps):
        seen = tf.compat.v1.RunMetadata()
        session.run(fetch, feed, options=options, run_metadata=seen)
        if number < 0:
            continue
        for device in seen.step_stats.dev_stats:
            for node in device.node_stats:
                # "name = Kernel(inputs)"; a call contains what its function does.
                kind = node.timeline_label.partition(" = ")[2].partition("(")[0]
                if not kind or kind in _CALLS:
                    continue
                times[kind] += node.op_end_rel_micros - node.op_start_rel_micros
                counts[kind] += 1
    total = sum(times.values())
    products = sum(time for kind, time in times.items() if any(p in kind for p in _PRODUCTS))
    return {
        "milliseconds": round(total / steps / 1e3, 3),
        "matrix_products": round(products / total, 4),
        "kernels": [
            {
                "kernel": kind,
                "count": round(counts[kind] / steps),
                "milliseconds": round(time / steps / 1e3, 3),
                "share": round(time / total, 4),
            }
            for kind, time in times.most_common()
        ],
    }


def print_kernels(profile: dict[str, Any]) -> None:
    """Show what `profile_export` gives.

    Args:
        profile: of an export.
    """
    print(
        f"kernels: {profile['milliseconds']:,.1f} ms in all, "
        f"{100 * profile['matrix_products']:.1f} % in matrix products"
    )
    for row in profile["kernels"][:12]:
        print(
            f"  {row['kernel']:<28} {row['count']:>5} x {row['milliseconds']:>10,.2f} ms "
            f"{100 * row['share']:>6.1f} %"
        )
