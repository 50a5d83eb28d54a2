"""Which devices train together."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, get_args

import keras
import tensorflow as tf

from training.config import StrategyName
from training.data.pipeline import Share

_DISTRIBUTED = (
    tf.distribute.MirroredStrategy,
    tf.distribute.MultiWorkerMirroredStrategy,
    tf.distribute.TPUStrategy,
)


def make_strategy(
    name: StrategyName = "auto", num_replicas: int | None = None
) -> tf.distribute.Strategy:
    """The `tf.distribute` strategy for this machine.

    Args:
        name: "auto" takes "multiworker" when TF_CONFIG names several workers, "tpu" when TPU_NAME
            is set, "mirrored" for several GPUs, several logical CPU devices, or `num_replicas`
            above 1, else "none".
        num_replicas: how many devices "mirrored" uses. On a machine without GPUs the CPU is split
            into this many logical devices. Default None: every GPU, or every logical CPU device.

    Returns:
        The strategy; the default one (a single device) for "none".

    Raises:
        ValueError: if the devices that were asked for are not there.

    Example:
        >>> make_strategy("none").num_replicas_in_sync
        1
    """
    _refuse_what_does_not_work(name)
    if num_replicas is not None and num_replicas < 1:
        raise ValueError(f"num_replicas must be at least 1, not {num_replicas}.")
    gpus = tf.config.list_physical_devices("GPU")
    if name == "auto":
        name = _choose(num_replicas or len(gpus) or _logical_cpus())
    if num_replicas is not None and name != "mirrored":
        raise ValueError(
            f"--num-replicas {num_replicas} goes with the strategy mirrored, not with {name}."
        )
    if name == "none":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        return tf.distribute.MirroredStrategy(_mirrored_devices(len(gpus), num_replicas))
    if name == "multiworker":
        return _multiworker_strategy()
    return _tpu_strategy()


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes files.

    Args:
        strategy: the strategy in use.

    Returns:
        True everywhere but on the workers of "multiworker" that are not the chief, which TF_CONFIG
        may name, else the first.

    Example:
        >>> is_chief(tf.distribute.get_strategy())
        True
    """
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    # A cluster may name its chief; then the first of the others is not one too.
    chief = "chief" if "chief" in resolver.cluster_spec().jobs else "worker"
    return resolver.task_type == chief and resolver.task_id == 0


def distribute(
    strategy: tf.distribute.Strategy, make_batches: Callable[[Share], tf.data.Dataset]
) -> tf.data.Dataset | tf.distribute.DistributedDataset:
    """Batches for `fit` and `evaluate`: each process loads its share, each replica gets a part.

    Args:
        strategy: in use.
        make_batches: makes the batches of one share, a tuple of tensors each, all of one size.

    Returns:
        The data set, distributed unless the strategy is the default one. It has no end: blank
        batches follow, so `fit` and `evaluate` must be told their steps. (Else several workers
        would ask each other before each step whether all have data left.)

    Example:
        >>> numbers = lambda share: tf.data.Dataset.range(8).batch(4, drop_remainder=True)
        >>> batches = distribute(tf.distribute.get_strategy(), lambda s: tf.data.Dataset.zip(
        ...     (numbers(s),)))
        >>> [part.numpy().tolist() for (part,) in batches.take(3)]
        [[0, 1, 2, 3], [4, 5, 6, 7], [0, 0, 0, 0]]
    """
    if not isinstance(strategy, _DISTRIBUTED):
        return _endless(make_batches(Share()))

    def one_process(context: tf.distribute.InputContext) -> tf.data.Dataset:
        share = Share(context.input_pipeline_id, context.num_input_pipelines)
        replicas = context.num_replicas_in_sync // context.num_input_pipelines

        def parts(*batch: tf.Tensor) -> tuple[tf.Tensor, ...]:
            return tuple(
                tf.reshape(part, [replicas, part.shape[0] // replicas, *part.shape[1:]])
                for part in batch
            )

        # Each element is one replica's part, in turn.
        return _endless(make_batches(share).map(parts).unbatch()).prefetch(2 * replicas)

    return strategy.distribute_datasets_from_function(one_process)


def check_workers_agree(strategy: tf.distribute.Strategy, step: int) -> None:
    """Refuse to train when the workers restored different checkpoints.

    Args:
        strategy: in use.
        step: that this worker goes on from.

    Raises:
        ValueError: on every worker, if another one goes on from another step.

    Example:
        >>> check_workers_agree(tf.distribute.get_strategy(), 7)
    """
    if not is_multiworker(strategy):
        return

    def total() -> tf.Tensor:
        value = tf.constant([step, step * step], tf.float64)
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)

    per_replica = strategy.run(tf.function(total, autograph=False))
    sums = strategy.experimental_local_results(per_replica)[0].numpy()
    count = strategy.num_replicas_in_sync
    if sums[0] != count * step or sums[1] != count * step**2:
        raise ValueError(
            f"This worker goes on from step {step}, another one from another step: all workers "
            f"must see the same --workdir, on a disk that they share."
        )


def _endless(batches: tf.data.Dataset) -> tf.data.Dataset:
    blank = tf.nest.map_structure(
        lambda spec: tf.zeros(spec.shape, spec.dtype), batches.element_spec
    )
    return batches.concatenate(tf.data.Dataset.from_tensors(blank).repeat())


def is_multiworker(strategy: tf.distribute.Strategy) -> bool:
    """Whether several processes train together."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def _choose(num_devices: int) -> StrategyName:
    if _worker_count() > 1:
        return "multiworker"
    if os.environ.get("TPU_NAME"):
        return "tpu"
    return "mirrored" if num_devices > 1 else "none"


def _logical_cpus() -> int:
    """Devices that the CPU was split into, without starting TensorFlow."""
    (cpu,) = tf.config.list_physical_devices("CPU")
    return len(tf.config.get_logical_device_configuration(cpu) or [None])


def _worker_count() -> int:
    cluster = _tf_config().get("cluster", {})
    count = len(cluster.get("worker", [])) + len(cluster.get("chief", []))
    # A step of srun; the batch script around it has tasks too, but no number among them.
    return count or (int(os.environ.get("SLURM_STEP_NUM_TASKS", 0)) if _slurm() else 0)


def _tf_config() -> dict[str, Any]:
    try:
        return json.loads(os.environ.get("TF_CONFIG") or "{}")
    except json.JSONDecodeError as error:
        raise ValueError(f"TF_CONFIG is not valid JSON: {error}") from error


def _slurm() -> bool:
    return "SLURM_STEP_ID" in os.environ and "TF_CONFIG" not in os.environ


def _multiworker_strategy() -> tf.distribute.Strategy:
    if _worker_count() < 2:
        raise ValueError(
            "The strategy multiworker needs several processes: keras-vit train … --num-workers 2 "
            "starts them on this machine, srun starts them on several, or set TF_CONFIG to "
            '{"cluster": {"worker": ["host0:port", "host1:port"]}, '
            '"task": {"type": "worker", "index": 0}} on the first host, index 1 on the second.'
        )
    if _slurm():
        # Without GPUs the resolver would ask nvidia-smi how many: it is told one for each task, and
        # to give none of them out.
        no_gpus = {"gpus_per_node": _worker_count(), "gpus_per_task": 1, "auto_set_gpu": False}
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            **({} if tf.config.list_physical_devices("GPU") else no_gpus)
        )
        return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    return tf.distribute.MultiWorkerMirroredStrategy()


def _refuse_what_does_not_work(name: str) -> None:
    if name not in get_args(StrategyName):
        raise ValueError(
            f"The strategy must be one of {', '.join(get_args(StrategyName))}, not {name!r}. "
            f"Parameter servers have no support in Keras 3: use multiworker."
        )
    if "ps" in _tf_config().get("cluster", {}):
        raise ValueError(
            "TF_CONFIG names parameter servers (ps), which Keras 3 does not support: give all "
            "hosts as workers, and all of them train in step."
        )
    if keras.distribution.distribution() is not None:
        raise ValueError(
            "keras.distribution is set, but with TensorFlow it trains on one device without saying "
            "so: remove keras.distribution.set_distribution(…) and use --strategy."
        )


def _mirrored_devices(num_gpus: int, num_replicas: int | None) -> list[str]:
    if num_gpus:
        wanted = num_replicas or num_gpus
        if wanted > num_gpus:
            raise ValueError(f"{wanted} replicas were asked for, but there are {num_gpus} GPUs.")
        return [f"GPU:{index}" for index in range(wanted)]
    wanted = num_replicas or _logical_cpus()
    (cpu,) = tf.config.list_physical_devices("CPU")
    try:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * wanted
        )
    except RuntimeError as error:  # TensorFlow has started: the split of then is final
        present = len(tf.config.list_logical_devices("CPU"))
        if present < wanted:
            raise ValueError(
                f"{wanted} replicas were asked for, but TensorFlow has started with {present} "
                f"logical CPU devices: call make_strategy before anything else."
            ) from error
    return [f"CPU:{index}" for index in range(wanted)]


def _tpu_strategy() -> tf.distribute.Strategy:
    """Not run on hardware here: TensorFlow 2.21 has no TPU wheel yet."""
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver()
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.NotFoundError) as error:
        raise ValueError(
            f"No TPU was found ({str(error).splitlines()[0]}). On a TPU VM install tensorflow-tpu "
            f"and set TPU_NAME=local; elsewhere choose another --strategy."
        ) from error
    return tf.distribute.TPUStrategy(resolver)
