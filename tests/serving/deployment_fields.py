"""Which fields Kubernetes, Compose and prometheus-adapter have, as far as deployments use them.

A type, a list of one kind of thing, a dict with the fields of an object, or TEXTS where names are
free. Written from the API references; a field that is not here is taken for misspelt.
"""

TEXTS = object()
LABELS = {"matchLabels": TEXTS}
META = {"name": str, "labels": TEXTS, "annotations": TEXTS}
PROBE = {
    "httpGet": {"path": str, "port": str},
    "periodSeconds": int,
    "timeoutSeconds": int,
    "failureThreshold": int,
}
SECURITY = {
    "runAsNonRoot": bool,
    "runAsUser": int,
    "runAsGroup": int,
    "fsGroup": int,
    "seccompProfile": {"type": str},
}
CONTAINER = {
    "name": str,
    "image": str,
    "command": [str],
    "args": [str],
    "workingDir": str,
    "env": [{"name": str, "value": str}],
    "ports": [{"name": str, "containerPort": int}],
    "startupProbe": PROBE,
    "readinessProbe": PROBE,
    "lifecycle": {"preStop": {"sleep": {"seconds": int}}},
    "resources": {"requests": TEXTS, "limits": TEXTS},
    "securityContext": {
        "allowPrivilegeEscalation": bool,
        "readOnlyRootFilesystem": bool,
        "capabilities": {"drop": [str]},
    },
    "volumeMounts": [{"name": str, "mountPath": str, "readOnly": bool}],
}
POD = {
    "restartPolicy": str,
    "shareProcessNamespace": bool,
    "terminationGracePeriodSeconds": int,
    "automountServiceAccountToken": bool,
    "securityContext": SECURITY,
    "topologySpreadConstraints": [
        {"maxSkew": int, "topologyKey": str, "whenUnsatisfiable": str, "labelSelector": LABELS}
    ],
    "tolerations": [{"key": str, "operator": str, "effect": str}],
    "containers": [CONTAINER],
    "volumes": [
        {
            "name": str,
            "persistentVolumeClaim": {"claimName": str, "readOnly": bool},
            "configMap": {"name": str},
            "emptyDir": {},
        }
    ],
}
KINDS = {
    ("apps/v1", "Deployment"): {
        "selector": LABELS,
        "strategy": {"type": str, "rollingUpdate": {"maxUnavailable": int, "maxSurge": int}},
        "progressDeadlineSeconds": int,
        "template": {"metadata": META, "spec": POD},
    },
    ("v1", "Service"): {
        "type": str,
        "clusterIP": str,
        "selector": TEXTS,
        "ports": [{"name": str, "port": int, "targetPort": str, "protocol": str}],
    },
    ("autoscaling/v2", "HorizontalPodAutoscaler"): {
        "scaleTargetRef": {"apiVersion": str, "kind": str, "name": str},
        "minReplicas": int,
        "maxReplicas": int,
        "metrics": [
            {
                "type": str,
                "pods": {
                    "metric": {"name": str},
                    "target": {"type": str, "averageValue": str},
                },
            }
        ],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": int}},
    },
    ("policy/v1", "PodDisruptionBudget"): {"maxUnavailable": int, "selector": LABELS},
    ("v1", "PersistentVolumeClaim"): {
        "accessModes": [str],
        "resources": {"requests": {"storage": str}},
    },
    ("v1", "Pod"): POD,
    ("monitoring.coreos.com/v1", "ServiceMonitor"): {
        "selector": LABELS,
        "endpoints": [{"port": str, "path": str, "interval": str}],
    },
}
COMPOSE_SERVICE = {
    "image": str,
    "entrypoint": [str],
    "command": [str],
    "init": bool,
    "user": str,
    "read_only": bool,
    "tmpfs": [str],
    "cap_drop": [str],
    "security_opt": [str],
    "ports": [str],
    "volumes": [
        {
            "type": str,
            "source": str,
            "target": str,
            "read_only": bool,
            "bind": {"create_host_path": bool},
        }
    ],
    "healthcheck": {
        "test": [str],
        "interval": str,
        "timeout": str,
        "retries": int,
        "start_period": str,
        "start_interval": str,
    },
    "stop_signal": str,
    "stop_grace_period": str,
    "restart": str,
    "environment": TEXTS,
    "deploy": {
        "resources": {
            "limits": {"cpus": str, "memory": str},
            "reservations": {"devices": [{"driver": str, "count": int, "capabilities": [str]}]},
        }
    },
}
ADAPTER = {
    "rules": {
        "custom": [
            {
                "seriesQuery": str,
                "resources": {
                    "overrides": {"namespace": {"resource": str}, "pod": {"resource": str}}
                },
                "name": {"as": str},
                "metricsQuery": str,
            }
        ]
    }
}
# Flags of tensorflow_model_server 2.20, those of use here.
FLAGS = {
    "port", "rest_api_port", "rest_api_num_threads", "rest_api_timeout_in_ms", "model_config_file",
    "model_config_file_poll_wait_seconds", "enable_batching", "batching_parameters_file",
    "enable_per_model_batching_parameters", "monitoring_config_file",
    "enable_grpc_healthcheck_service", "tensorflow_intra_op_parallelism",
    "tensorflow_inter_op_parallelism", "grpc_max_threads", "grpc_channel_arguments",
    "file_system_poll_wait_seconds", "ssl_config_file",
}  # fmt: skip


def unknown(value, known, path=""):
    """The paths of fields that the table lacks, and of values of another type."""
    if known is TEXTS:
        bad = not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values())
        return [path] if bad else []
    if isinstance(known, type):
        return [] if type(value) is known else [path]
    if isinstance(known, list):
        if not isinstance(value, list):
            return [path]
        return [
            bad for i, item in enumerate(value) for bad in unknown(item, known[0], f"{path}[{i}]")
        ]
    if not isinstance(value, dict):
        return [path]
    found = [f"{path}.{key}" for key in value if key not in known]
    for key in value.keys() & known.keys():
        found += unknown(value[key], known[key], f"{path}.{key}")
    return found


def unknown_in_file(name, document):
    """The same for a document of a file."""
    if name == "compose.yaml":
        services = document.get("services", {})
        extra = [key for key in document if key not in ("name", "services")]
        return extra + [bad for s in services.values() for bad in unknown(s, COMPOSE_SERVICE)]
    if name.endswith("values.yaml"):
        return unknown(document, ADAPTER)
    identity = (document.get("apiVersion"), document.get("kind"))
    if identity == ("v1", "ConfigMap"):
        return unknown(document, {"apiVersion": str, "kind": str, "metadata": META, "data": TEXTS})
    if identity not in KINDS:
        return [f"kind {identity}"]
    body = {"apiVersion": str, "kind": str, "metadata": META, "spec": KINDS[identity]}
    return unknown(document, body)


def every_place(value):
    """Each dict inside a document."""
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from every_place(item)
    elif isinstance(value, list):
        for item in value:
            yield from every_place(item)
