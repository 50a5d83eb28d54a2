"""The README.md of a deployment: the commands, with its names filled in."""

from __future__ import annotations

import shlex

from serving.deployment.autoscaling import SCALING_METRIC
from serving.deployment.settings import GRPC_PORT, METRICS_PATH, REST_PORT, Deployment

_TEXT = """\
# {name} behind TF Serving

Written by `keras-vit deploy`. Image: `{image}`.

## One machine

```sh
docker compose up --detach --wait
keras-vit predict cat.jpg --address localhost:{grpc} --name {name}
curl http://localhost:{rest}/v1/models/{name}
curl http://localhost:{rest}{metrics}
docker compose down
```

`compose.yaml` mounts `{base}`, read-only. The server runs as a user of no rights: files must be
readable by all (`chmod -R a+rX {quoted_base}`). New versions are picked up while it runs.
{gpu}
## Kubernetes, 1.30 or newer

The servers read the model from a volume, in the directory `{name}`:

```sh
VERSION=1
kubectl apply --filename kubernetes/storage.yaml
kubectl apply --filename kubernetes/upload/
kubectl wait pod/{resource}-upload --for condition=Ready
kubectl cp {quoted_base}/$VERSION {resource}-upload:/models/{name}/.copy-$VERSION
kubectl exec {resource}-upload -- mv {name}/.copy-$VERSION {name}/$VERSION
kubectl delete --filename kubernetes/upload/
```

Every new version goes the same way. The rename matters: a server loads a directory whose name is a
number as soon as it sees it, complete or not. While it loads version 2 it still has version 1, so
memory must suffice for both.

```sh
kubectl apply --filename kubernetes/
kubectl rollout status deployment/{resource}
```

From inside the cluster (`NAMESPACE` is the one you applied the files to):

```sh
keras-vit predict cat.jpg --name {name} \\
  --address dns:///{resource}-headless.NAMESPACE.svc.cluster.local:{grpc}
```

`dns:///` and the headless Service have a client spread its requests over all servers. Each server
ends a connection after {connection_age} s; clients then ask for the addresses again, and find the
servers that came since.

### Autoscaling

The autoscaler keeps {replicas} to {max_replicas} servers, and adds one when they have more than
{in_flight} requests in flight each. It asks the cluster for the metric `{metric}`; Prometheus (by
its operator) and prometheus-adapter provide it:

```sh
kubectl apply --filename kubernetes/monitoring/service_monitor.yaml
helm upgrade --install prometheus-adapter prometheus-community/prometheus-adapter \\
  --namespace monitoring --set prometheus.url=http://prometheus-operated.monitoring.svc \\
  --values kubernetes/monitoring/prometheus_adapter_values.yaml
kubectl get --raw "/apis/custom.metrics.k8s.io/v1beta1/namespaces/NAMESPACE/pods/*/{metric}"
```

The metric exists once requests have been answered. Without it {replicas} run.

### Stopping

A server that is to go leaves the Services at once, answers for {drain} s more, and then ends. A
request that comes even later fails with UNAVAILABLE; `serving.Client` sends it again, to another.
Deleting everything: `kubectl delete --filename kubernetes/`; this deletes the volume, too.

## What is open

There is no password and no encryption: who reaches port {grpc} or {rest} can ask, and through port
{grpc} can unload models. Compose opens the ports to this machine only. In a cluster, restrict them
with a NetworkPolicy.
"""

_GPU = """
Docker needs the NVIDIA Container Toolkit, and a cluster NVIDIA's device plugin.
"""


def readme(deployment: Deployment) -> str:
    """The text of README.md.

    Args:
        deployment: the model and its resources.

    Returns:
        Markdown.

    Example:
        >>> from pathlib import Path
        >>> readme(Deployment(Path("/srv/digits"), "digits")).splitlines()[0]
        '# digits behind TF Serving'
    """
    return _TEXT.format(
        name=deployment.name,
        resource=deployment.resource_name,
        image=deployment.image,
        base=deployment.base,
        quoted_base=shlex.quote(str(deployment.base)),
        gpu=_GPU if deployment.gpu else "",
        grpc=GRPC_PORT,
        rest=REST_PORT,
        metrics=METRICS_PATH,
        metric=SCALING_METRIC,
        connection_age=deployment.connection_age,
        replicas=deployment.replicas,
        max_replicas=deployment.max_replicas,
        in_flight=deployment.in_flight,
        drain=deployment.drain,
    )
