"""What all files of a deployment agree on: names, ports, paths and the server's flags."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

from serving.configuration.batching import BatchingParameters
from serving.configuration.models import ModelConfig, write_models
from serving.configuration.monitoring import MonitoringConfig
from serving.startup import PACK_WEIGHTS
from serving.threads import session_threads, version_paths

BINARY = "/usr/bin/tensorflow_model_server"
GRPC_PORT = 8500
REST_PORT = 8501
METRICS_PATH = "/monitoring/prometheus/metrics"
MODELS_DIRECTORY = "/models"  # inside the container
CONFIGURATION_DIRECTORY = "/config"  # inside the container
USER = 65534  # "nobody" of every image; the server writes no files but temporary ones
IMAGE = "tensorflow/serving:2.20.0"
# Seconds between two looks at models.config; a changed file takes effect without a restart.
CONFIGURATION_POLL_SECONDS = 30
# Kubernetes cuts names at 63 characters, and `-headless` or a pod's suffix has to fit in.
_LONGEST_RESOURCE_NAME = 45
_GIB = 1024  # MiB


@dataclasses.dataclass(frozen=True)
class Deployment:
    """One model and the resources that its servers get.

    Args:
        base: the model's directory on this machine, with one sub-directory per version.
        name: what clients call the model; letters, digits, `.`, `_` and `-`.
        image: container image that has `/usr/bin/tensorflow_model_server`.
        replicas: servers that always run, at least 1. Default 2.
        max_replicas: servers at most, not below `replicas`. Default 8.
        in_flight: requests that a server is busy with on average, above which the autoscaler adds
            one. Default 8.
        gpu: whether a server has a GPU. Default False.
        cpus: cores of a server, above 0. Default 4.
        memory: of a server in GiB, above 0; loading a new version needs room for two. Default 4.
        pack_weights: whether a server keeps packed copies of the weights, one for each of the six
            signatures: faster in bfloat16 on processors with AMX. Default False.
        connection_age: seconds after which the server has a client connect anew, and so find new
            servers. Default 30.
        drain: seconds that a server goes on answering after it was taken out of the services;
            longer than `connection_age`, so that clients have left by then. Default 60.

    Raises:
        ValueError: for a value out of its range.

    Example:
        >>> Deployment(Path("served/digits"), "Digits_v2").resource_name
        'digits-v2'
    """

    base: Path
    name: str
    image: str = IMAGE
    replicas: int = 2
    max_replicas: int = 8
    in_flight: int = 8
    gpu: bool = False
    cpus: float = 4.0
    memory: float = 4.0
    pack_weights: bool = False
    connection_age: int = 30
    drain: int = 60

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ValueError(
                f"the model's name is {self.name!r}; a name that fits into URLs and file names has "
                "only letters, digits, '.', '_' and '-', and begins with a letter or a digit. "
                "Give one with --name"
            )
        if not self.image or any(character.isspace() for character in self.image):
            raise ValueError(f"image is {self.image!r}; expected one such as {IMAGE}")
        if self.replicas < 1:
            raise ValueError(f"replicas is {self.replicas}; it must be at least 1")
        if self.max_replicas < self.replicas:
            raise ValueError(
                f"max_replicas is {self.max_replicas}; it must not be below replicas, "
                f"{self.replicas}"
            )
        for field in ("in_flight", "connection_age"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}; it must be at least 1")
        for field in ("cpus", "memory"):
            value = getattr(self, field)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{field} is {value}; it must be above 0")
        if self.drain <= self.connection_age:
            raise ValueError(
                f"drain is {self.drain} s, connection_age {self.connection_age} s: clients that "
                "have not been told to connect anew would lose their requests. Make drain longer"
            )

    @property
    def resource_name(self) -> str:
        """The name of everything in the cluster: the model's, as Kubernetes allows it."""
        name = re.sub(r"[^a-z0-9]+", "-", self.name.lower())
        # A service's name begins with a letter.
        name = name if name[0].isalpha() else f"model-{name}"
        return name[:_LONGEST_RESOURCE_NAME].strip("-")

    @property
    def environment(self) -> dict[str, str]:
        """Variables of the server's process."""
        # Off by default on processors without AVX-512, which it makes much faster too.
        variables = {"TF_ENABLE_ONEDNN_OPTS": "1"}
        if self.pack_weights:
            variables[PACK_WEIGHTS] = "1"
        return variables | ({"CUDA_CACHE_PATH": "/tmp/cuda"} if self.gpu else {})

    @property
    def mebibytes(self) -> int:
        """The memory of a server in MiB, the finest unit that Compose and Kubernetes share."""
        return math.ceil(self.memory * _GIB)

    @property
    def millicores(self) -> int:
        """The cores of a server in thousandths, as fine as Kubernetes takes them."""
        return math.ceil(self.cpus * 1000)

    @property
    def status_path(self) -> str:
        """Where REST answers GetModelStatus.

        The ports open only when every configured model has a version that answers, so a 200 means
        that the server is ready.
        """
        return f"/v1/models/{self.name}"

    def server_arguments(self) -> list[str]:
        """The flags of `tensorflow_model_server`.

        Returns:
            One string per flag, each `--name=value`.

        Example:
            >>> Deployment(Path("served/digits"), "digits").server_arguments()[0]
            '--port=8500'
        """
        within, between = session_threads(version_paths(self.base), math.ceil(self.cpus))
        flags: dict[str, object] = {
            "port": GRPC_PORT,
            "rest_api_port": REST_PORT,
            "model_config_file": f"{CONFIGURATION_DIRECTORY}/models.config",
            "model_config_file_poll_wait_seconds": CONFIGURATION_POLL_SECONDS,
            "enable_batching": "true",
            "batching_parameters_file": f"{CONFIGURATION_DIRECTORY}/batching.pbtxt",
            "enable_per_model_batching_parameters": "true",
            "monitoring_config_file": f"{CONFIGURATION_DIRECTORY}/monitoring.config",
            "enable_grpc_healthcheck_service": "true",
            # Left to itself the server counts the cores of the machine, not those it may use.
            "tensorflow_intra_op_parallelism": within,
            "tensorflow_inter_op_parallelism": between,
            # A thread is held by each request, also while it waits for others to form a batch.
            "grpc_max_threads": max(64, 4 * self.in_flight),
            "grpc_channel_arguments": f"grpc.max_connection_age_ms={1000 * self.connection_age}",
        }
        return [f"--{name}={value}" for name, value in flags.items()]

    def configuration_files(self) -> dict[str, str]:
        """The texts of the files that the flags name.

        Returns:
            Text by file name; the files lie in `CONFIGURATION_DIRECTORY`.

        Example:
            >>> sorted(Deployment(Path("served/digits"), "digits").configuration_files())
            ['batching.pbtxt', 'models.config', 'monitoring.config']
        """
        models = [ModelConfig(self.name, f"{MODELS_DIRECTORY}/{self.name}")]
        return {
            "models.config": write_models(models),
            # With parameters per model only the thread pool is read from here: one batch is decoded
            # while another is in the network. Sizes and waiting are in the version's own file.
            "batching.pbtxt": BatchingParameters(num_batch_threads=2).to_text(),
            "monitoring.config": MonitoringConfig(path=METRICS_PATH).to_text(),
        }
