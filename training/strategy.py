"""Which devices train together."""

from __future__ import annotations

import json
import os

import tensorflow as tf

from training.recipes import StrategyName


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
        if _worker_count() < 2:
            raise ValueError(
                "The strategy multiworker needs TF_CONFIG with at least two workers: set it to "
                '{"cluster": {"worker": ["host0:port", "host1:port"]}, '
                '"task": {"type": "worker", "index": 0}} on the first host, index 1 on the second.'
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    return _tpu_strategy()


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes files.

    Args:
        strategy: the strategy in use.

    Returns:
        True everywhere but on the second and further workers of "multiworker".

    Example:
        >>> is_chief(tf.distribute.get_strategy())
        True
    """
    resolver = strategy.cluster_resolver
    return resolver is None or not resolver.task_type or resolver.task_id == 0


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
    try:
        cluster = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {})
    except json.JSONDecodeError as error:
        raise ValueError(f"TF_CONFIG is not valid JSON: {error}") from error
    return len(cluster.get("worker", [])) + len(cluster.get("chief", []))


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
