"""More servers under load: the autoscaler, and the way its metric takes through Prometheus.

The metric is the number of requests in flight: the time that requests took, summed over all of
them, grows by that many seconds every second (Little's law). It needs no knowledge of how fast the
model is, and goes on growing when a server cannot keep up, which a rate of requests does not.
"""

from __future__ import annotations

from typing import Any

from serving.deployment.kubernetes import metadata, selector
from serving.deployment.settings import METRICS_PATH, Deployment

# As the server exports it: microseconds, of the requests that succeeded.
SERVER_METRIC = ":tensorflow:serving:request_latency_sum"
# As the autoscaler asks for it.
SCALING_METRIC = "tf_serving_requests_in_flight"


def autoscaler(deployment: Deployment) -> dict[str, Any]:
    """The HorizontalPodAutoscaler.

    Args:
        deployment: the model and its resources.

    Returns:
        The manifest.

    Example:
        >>> from pathlib import Path
        >>> autoscaler(Deployment(Path("served/digits"), "digits"))["spec"]["maxReplicas"]
        8
    """
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata(deployment),
        "spec": {
            "scaleTargetRef": {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "name": deployment.resource_name,
            },
            "minReplicas": deployment.replicas,
            "maxReplicas": deployment.max_replicas,
            "metrics": [
                {
                    "type": "Pods",
                    "pods": {
                        "metric": {"name": SCALING_METRIC},
                        "target": {
                            "type": "AverageValue",
                            "averageValue": str(deployment.in_flight),
                        },
                    },
                }
            ],
            # A server that goes takes its drain's time and one that comes loads the model first.
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 300}},
        },
    }


def service_monitor(deployment: Deployment) -> dict[str, Any]:
    """The ServiceMonitor that has the Prometheus operator read the servers' metrics.

    Args:
        deployment: the model and its resources.

    Returns:
        The manifest.

    Example:
        >>> from pathlib import Path
        >>> monitor = service_monitor(Deployment(Path("served/digits"), "digits"))
        >>> monitor["spec"]["endpoints"][0]["port"]
        'http'
    """
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": metadata(deployment),
        "spec": {
            # Both Services have these labels, but only one has a port of this name.
            "selector": {"matchLabels": selector(deployment)},
            "endpoints": [{"port": "http", "path": METRICS_PATH, "interval": "15s"}],
        },
    }


def adapter_values() -> dict[str, Any]:
    """Values for prometheus-adapter's Helm chart: a rule that makes the autoscaler's metric.

    Returns:
        What the file says; it is the same for all models of a cluster.

    Example:
        >>> adapter_values()["rules"]["custom"][0]["name"]["as"]
        'tf_serving_requests_in_flight'
    """
    # Requests without an API are those for a status: the probes.
    rule = {
        "seriesQuery": f'{SERVER_METRIC}{{API!="",namespace!="",pod!=""}}',
        "resources": {
            "overrides": {"namespace": {"resource": "namespace"}, "pod": {"resource": "pod"}}
        },
        "name": {"as": SCALING_METRIC},
        "metricsQuery": (
            'sum(rate(<<.Series>>{<<.LabelMatchers>>,API!=""}[2m])) by (<<.GroupBy>>) / 1e6'
        ),
    }
    return {"rules": {"custom": [rule]}}
