"""Write the files of a deployment into a directory."""

from __future__ import annotations

from pathlib import Path

from serving.deployment import autoscaling, compose, kubernetes
from serving.deployment.readme import readme
from serving.deployment.settings import Deployment
from serving.deployment.yaml_text import to_yaml

_WORKLOAD_COMMENT = """\
The servers.

- command: the binary itself and not the image's entry point, a shell that passes no signals on.
- shareProcessNamespace: the server has no handler for SIGTERM, and Linux keeps an unhandled signal
  from process 1, so each stop would take the whole grace period. Like this it is not process 1.
- preStop: it ends without finishing its requests, so it goes on answering for a while after it was
  taken out of the Services. grpc.max_connection_age_ms makes clients look for others meanwhile.
- The ports open when the model answers: before that the probes fail, and afterwards they tell a
  server that no longer has the model. There is no livenessProbe: an overloaded server would be
  killed, and its load would kill the next one.
- There are no replicas: the autoscaler sets them.
"""
_SERVICES_COMMENT = """\
The headless Service gives clients the address of every server, for gRPC: a connection lives long,
and behind one address all requests of a client would go to one server. The other is for REST and
for Prometheus.
"""
_AUTOSCALER_COMMENT = """\
Scales on requests in flight per server. Needs the files in monitoring/; without the metric
minReplicas servers run.
"""
_BUDGET_COMMENT = "Nodes are emptied one server at a time.\n"
_CONFIG_COMMENT = """\
The files that the server's flags name. A changed models.config is read by running servers; the
others are read at the start.
"""
_STORAGE_COMMENT = """\
The volume with the models: NAME/1, NAME/2, … Servers on several nodes read it while a new version
is written, hence ReadWriteMany; name a storageClassName that has it if the default one does not.
"""
_UPLOAD_COMMENT = "To copy versions into the volume; see README.md. Delete it afterwards.\n"
_MONITOR_COMMENT = """\
Needs the Prometheus operator. It may want a label, such as release: prometheus, to see this.
"""
_ADAPTER_COMMENT = """\
Values for the Helm chart prometheus-community/prometheus-adapter; set prometheus.url besides.
request_latency_sum grows by the microseconds that each answered request took: its rate, in seconds,
is the number of requests in flight.
"""


def deployment_files(deployment: Deployment) -> dict[str, str]:
    """Everything that belongs to a deployment.

    Args:
        deployment: the model and its resources.

    Returns:
        Text by path, relative to the deployment's directory.

    Example:
        >>> files = deployment_files(Deployment(Path("/srv/digits"), "digits"))
        >>> next(iter(files))
        'compose.yaml'
    """
    configuration = deployment.configuration_files()
    return {
        "compose.yaml": to_yaml(compose.compose_file(deployment), comment=compose.COMMENT),
        **{f"config/{name}": text for name, text in configuration.items()},
        "kubernetes/storage.yaml": to_yaml(
            kubernetes.storage(deployment), comment=_STORAGE_COMMENT
        ),
        "kubernetes/config.yaml": to_yaml(
            kubernetes.config_map(deployment), comment=_CONFIG_COMMENT
        ),
        "kubernetes/deployment.yaml": to_yaml(
            kubernetes.workload(deployment), comment=_WORKLOAD_COMMENT
        ),
        "kubernetes/services.yaml": to_yaml(
            *kubernetes.services(deployment), comment=_SERVICES_COMMENT
        ),
        "kubernetes/autoscaler.yaml": to_yaml(
            autoscaling.autoscaler(deployment), comment=_AUTOSCALER_COMMENT
        ),
        "kubernetes/disruption_budget.yaml": to_yaml(
            kubernetes.disruption_budget(deployment), comment=_BUDGET_COMMENT
        ),
        # In directories of their own: `kubectl apply --filename kubernetes/` leaves them out.
        "kubernetes/upload/pod.yaml": to_yaml(
            kubernetes.upload_pod(deployment), comment=_UPLOAD_COMMENT
        ),
        "kubernetes/monitoring/service_monitor.yaml": to_yaml(
            autoscaling.service_monitor(deployment), comment=_MONITOR_COMMENT
        ),
        "kubernetes/monitoring/prometheus_adapter_values.yaml": to_yaml(
            autoscaling.adapter_values(), comment=_ADAPTER_COMMENT
        ),
        "README.md": readme(deployment),
    }


def write_deployment(
    deployment: Deployment, directory: str | Path, *, overwrite: bool = False
) -> list[Path]:
    """Write the files of a deployment; all of them or, if one is in the way, none.

    Args:
        deployment: the model and its resources.
        directory: where to; it is made if it does not exist, and other files in it stay.
        overwrite: replace files that are there and say something else. Default False.

    Returns:
        The paths of the files, those that were there already among them.

    Raises:
        ValueError: if files are in the way.
        OSError: if one cannot be written.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> written = write_deployment(Deployment(Path("/srv/digits"), "digits"), folder)
        >>> written[0].name
        'compose.yaml'
    """
    texts = {Path(directory) / name: text for name, text in deployment_files(deployment).items()}
    changed = [path for path, text in texts.items() if path.exists() and not _says(path, text)]
    if changed and not overwrite:
        names = ", ".join(str(path.relative_to(directory)) for path in changed)
        raise ValueError(
            f"{directory} holds files that would change: {names}. Give another directory, or "
            "replace them with --overwrite"
        )
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(texts)


def _says(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()
