"""Kubernetes: servers that come and go while requests are answered."""

from __future__ import annotations

import hashlib
from typing import Any

from serving.deployment.settings import (
    BINARY,
    CONFIGURATION_DIRECTORY,
    GRPC_PORT,
    MODELS_DIRECTORY,
    REST_PORT,
    USER,
    Deployment,
)

# The server ends at once when it gets SIGTERM; this is slack after the drain, for a slow machine.
_AFTER_DRAIN_SECONDS = 15
_CHECK_SECONDS = 5
_LONGEST_START_SECONDS = 600


def workload(deployment: Deployment) -> dict[str, Any]:
    """The Deployment: the servers themselves.

    Args:
        deployment: the model and its resources.

    Returns:
        The manifest.

    Example:
        >>> from pathlib import Path
        >>> workload(Deployment(Path("served/digits"), "digits"))["kind"]
        'Deployment'
    """
    pod = {
        # The container's process is not process 1 then, see the comment in the file.
        "shareProcessNamespace": True,
        "terminationGracePeriodSeconds": deployment.drain + _AFTER_DRAIN_SECONDS,
        "automountServiceAccountToken": False,
        "securityContext": _pod_security(),
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": selector(deployment)},
            }
        ],
        "containers": [_container(deployment)],
        "volumes": [
            {
                "name": "models",
                "persistentVolumeClaim": {
                    "claimName": f"{deployment.resource_name}-models",
                    "readOnly": True,
                },
            },
            {"name": "config", "configMap": {"name": f"{deployment.resource_name}-config"}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    if deployment.gpu:
        pod["tolerations"] = [
            {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
        ]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(deployment),
        "spec": {
            # No `replicas`: the autoscaler sets them, and an apply must not undo that.
            "selector": {"matchLabels": selector(deployment)},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
            },
            "progressDeadlineSeconds": _LONGEST_START_SECONDS + 300,
            "template": {
                "metadata": {
                    "labels": selector(deployment),
                    "annotations": {"keras-vit/configuration": _read_once_digest(deployment)},
                },
                "spec": pod,
            },
        },
    }


def services(deployment: Deployment) -> list[dict[str, Any]]:
    """Two Services: headless for gRPC, with one address for REST and metrics.

    Args:
        deployment: the model and its resources.

    Returns:
        The manifests.

    Example:
        >>> from pathlib import Path
        >>> both = services(Deployment(Path("served/digits"), "digits"))
        >>> [service["metadata"]["name"] for service in both]
        ['digits-headless', 'digits']
    """
    grpc = {"name": "grpc", "port": GRPC_PORT, "targetPort": "grpc", "protocol": "TCP"}
    http = {"name": "http", "port": REST_PORT, "targetPort": "http", "protocol": "TCP"}
    headless = {"clusterIP": "None", "selector": selector(deployment), "ports": [grpc]}
    rest = {"type": "ClusterIP", "selector": selector(deployment), "ports": [http]}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata(deployment, "-headless"),
            "spec": headless,
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata(deployment),
            "spec": rest,
        },
    ]


def disruption_budget(deployment: Deployment) -> dict[str, Any]:
    """The PodDisruptionBudget: nodes are emptied one server at a time.

    Args:
        deployment: the model and its resources.

    Returns:
        The manifest.

    Example:
        >>> from pathlib import Path
        >>> disruption_budget(Deployment(Path("served/digits"), "digits"))["spec"]["maxUnavailable"]
        1
    """
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(deployment),
        # Not minAvailable: with one replica that would keep its node from ever being emptied.
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector(deployment)}},
    }


def config_map(deployment: Deployment) -> dict[str, Any]:
    """The ConfigMap with the files that the server's flags name.

    Args:
        deployment: the model and its resources.

    Returns:
        The manifest.

    Example:
        >>> from pathlib import Path
        >>> len(config_map(Deployment(Path("served/digits"), "digits"))["data"])
        3
    """
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(deployment, "-config"),
        "data": deployment.configuration_files(),
    }


def storage(deployment: Deployment) -> dict[str, Any]:
    """The claim for the volume that holds the models; every server mounts it.

    Args:
        deployment: the model and its resources.

    Returns:
        The manifest.

    Example:
        >>> from pathlib import Path
        >>> storage(Deployment(Path("served/digits"), "digits"))["metadata"]["name"]
        'digits-models'
    """
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata(deployment, "-models"),
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "10Gi"}},
        },
    }


def upload_pod(deployment: Deployment) -> dict[str, Any]:
    """A Pod that does nothing but mount the volume, so that versions can be copied into it.

    Args:
        deployment: the model and its resources.

    Returns:
        The manifest.

    Example:
        >>> from pathlib import Path
        >>> upload_pod(Deployment(Path("served/digits"), "digits"))["metadata"]["name"]
        'digits-upload'
    """
    # Not the servers' labels: the services would send requests here.
    labels = {"app.kubernetes.io/name": "keras-vit-upload"}
    directory = f"{MODELS_DIRECTORY}/{deployment.name}"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{deployment.resource_name}-upload", "labels": labels},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            # The volume's root is often root's; the group makes it writable.
            "securityContext": {**_pod_security(), "fsGroup": USER},
            "containers": [
                {
                    "name": "upload",
                    "image": "busybox:1.37",
                    "command": ["sh", "-c", f"mkdir -p {directory} && exec sleep 3600"],
                    "workingDir": MODELS_DIRECTORY,
                    "resources": _resources("100m", "128Mi"),
                    "securityContext": _container_security(),
                    "volumeMounts": [{"name": "models", "mountPath": MODELS_DIRECTORY}],
                }
            ],
            "volumes": [
                {
                    "name": "models",
                    "persistentVolumeClaim": {"claimName": f"{deployment.resource_name}-models"},
                }
            ],
        },
    }


def selector(deployment: Deployment) -> dict[str, str]:
    """The labels by which Services, the autoscaler's peers and Prometheus find the servers.

    Args:
        deployment: the model and its resources.

    Returns:
        Value by label.

    Example:
        >>> from pathlib import Path
        >>> selector(Deployment(Path("served/digits"), "digits"))["app.kubernetes.io/instance"]
        'digits'
    """
    return {
        "app.kubernetes.io/name": "tensorflow-serving",
        "app.kubernetes.io/instance": deployment.resource_name,
    }


def metadata(deployment: Deployment, suffix: str = "") -> dict[str, Any]:
    """The name and labels of an object.

    Args:
        deployment: the model and its resources.
        suffix: what follows the deployment's name. Default nothing.

    Returns:
        What stands under `metadata`.

    Example:
        >>> from pathlib import Path
        >>> metadata(Deployment(Path("served/digits"), "digits"), "-models")["name"]
        'digits-models'
    """
    return {"name": f"{deployment.resource_name}{suffix}", "labels": selector(deployment)}


def _container(deployment: Deployment) -> dict[str, Any]:
    resources = _resources(f"{deployment.millicores}m", f"{deployment.mebibytes}Mi")
    if deployment.gpu:
        resources["limits"]["nvidia.com/gpu"] = "1"
    status = {"httpGet": {"path": deployment.status_path, "port": "http"}}
    return {
        "name": "server",
        "image": deployment.image,
        # Not the image's entry point: a shell would stand between the signal and the server.
        "command": [BINARY],
        "args": deployment.server_arguments(),
        "env": [{"name": name, "value": value} for name, value in deployment.environment.items()],
        "ports": [
            {"name": "grpc", "containerPort": GRPC_PORT},
            {"name": "http", "containerPort": REST_PORT},
        ],
        "startupProbe": {
            **status,
            "periodSeconds": _CHECK_SECONDS,
            "timeoutSeconds": _CHECK_SECONDS,
            "failureThreshold": _LONGEST_START_SECONDS // _CHECK_SECONDS,
        },
        "readinessProbe": {
            **status,
            "periodSeconds": _CHECK_SECONDS,
            "timeoutSeconds": _CHECK_SECONDS,
            "failureThreshold": 3,
        },
        "lifecycle": {"preStop": {"sleep": {"seconds": deployment.drain}}},
        "resources": resources,
        "securityContext": _container_security(),
        "volumeMounts": [
            {"name": "models", "mountPath": MODELS_DIRECTORY, "readOnly": True},
            {"name": "config", "mountPath": CONFIGURATION_DIRECTORY, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }


def _pod_security() -> dict[str, Any]:
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _container_security() -> dict[str, Any]:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def _resources(cpu: str, memory: str) -> dict[str, dict[str, Any]]:
    """Requests equal to limits: such servers are the last to be evicted."""
    return {
        "requests": {"cpu": cpu, "memory": memory},
        "limits": {"cpu": cpu, "memory": memory},
    }


def _read_once_digest(deployment: Deployment) -> str:
    """Changes with the files that a server reads only when it starts, so that it is replaced.

    models.config is read again and again and needs no restart.
    """
    files = deployment.configuration_files()
    text = "".join(files[name] for name in ("batching.pbtxt", "monitoring.config"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
