"""`compose.yaml`: one server on one machine."""

from __future__ import annotations

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

COMMENT = """\
One TF Serving server.  Start: docker compose up --detach --wait

- The ports are open to this machine only: whoever reaches them can ask, and can unload models.
- init: the server has no handler for SIGTERM, and Linux keeps an unhandled signal from process 1.
  With an init in that place `docker compose stop` takes effect at once, not after the grace period.
- The health check is GetModelStatus over REST; the image has neither curl nor wget.
"""


def compose_file(deployment: Deployment) -> dict[str, Any]:
    """The content of `compose.yaml`.

    Args:
        deployment: the model and its resources.

    Returns:
        What the file says, ready for `to_yaml`.

    Example:
        >>> from pathlib import Path
        >>> list(compose_file(Deployment(Path("served/digits"), "digits"))["services"])
        ['digits']
    """
    limits: dict[str, Any] = {
        "cpus": f"{deployment.millicores / 1000:g}",
        "memory": f"{deployment.mebibytes}m",
    }
    resources: dict[str, Any] = {"limits": limits}
    if deployment.gpu:
        device = {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
        resources["reservations"] = {"devices": [device]}
    service = {
        "image": deployment.image,
        "entrypoint": [BINARY],
        "command": deployment.server_arguments(),
        "init": True,
        "user": f"{USER}:{USER}",
        "read_only": True,
        "tmpfs": ["/tmp"],
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "ports": [f"127.0.0.1:{port}:{port}" for port in (GRPC_PORT, REST_PORT)],
        "volumes": [
            _bind(_escaped(str(deployment.base)), f"{MODELS_DIRECTORY}/{deployment.name}"),
            _bind("./config", CONFIGURATION_DIRECTORY),
        ],
        "healthcheck": {
            "test": ["CMD", "/bin/bash", "-c", _health_check(deployment)],
            "interval": "10s",
            "timeout": "5s",
            "retries": 3,
            "start_period": "300s",
            "start_interval": "1s",
        },
        "stop_signal": "SIGTERM",
        "stop_grace_period": "10s",
        "restart": "unless-stopped",
        "deploy": {"resources": resources},
        "environment": deployment.environment,
    }
    return {"name": deployment.resource_name, "services": {deployment.resource_name: service}}


def _bind(source: str, target: str) -> dict[str, Any]:
    return {
        "type": "bind",
        "source": source,
        "target": target,
        "read_only": True,
        # A mistyped path is an error, not a new directory of root's.
        "bind": {"create_host_path": False},
    }


def _health_check(deployment: Deployment) -> str:
    """A request for GetModelStatus, with nothing but what every image with bash has."""
    request = f"GET {deployment.status_path} HTTP/1.0\\r\\n\\r\\n"
    return (
        f"exec 3<>/dev/tcp/127.0.0.1/{REST_PORT} && printf '{request}' >&3 "
        "&& head -n 1 <&3 | grep -q ' 200 '"
    )


def _escaped(text: str) -> str:
    """Compose puts variables in place of `$NAME`."""
    return text.replace("$", "$$")
