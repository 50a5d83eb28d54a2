"""What `keras-vit deploy` writes: known fields, and files that agree with one another."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from deployment_fields import FLAGS, every_place, unknown_in_file
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from keras_vit_cli import main
from serving.configuration.models import ModelConfig
from serving.deployment.autoscaling import SCALING_METRIC, SERVER_METRIC
from serving.deployment.settings import CONFIGURATION_DIRECTORY, Deployment
from serving.deployment.write import deployment_files, write_deployment
from serving.local_server.server import LocalServer

RECORDED = Path(__file__).parent / "fixtures" / "tf_serving_transcripts"


class Written:
    """The files of a deployment, read back."""

    def __init__(self, deployment):
        self.deployment = deployment
        self.texts = deployment_files(deployment)
        self.documents = {
            name: list(yaml.safe_load_all(text))
            for name, text in self.texts.items()
            if name.endswith(".yaml")
        }
        self.compose = next(iter(self.documents["compose.yaml"][0]["services"].values()))
        self.pod = self.one("Deployment")["spec"]["template"]["spec"]
        (self.container,) = self.pod["containers"]

    def all(self, kind):
        documents = (one for many in self.documents.values() for one in many)
        return [document for document in documents if document.get("kind") == kind]

    def one(self, kind):
        (document,) = self.all(kind)
        return document


@pytest.fixture(params=[False, True], ids=["cpu", "gpu"])
def written(request):
    return Written(
        Deployment(Path("/srv/my models/$digits"), "Digits_v2.1", gpu=request.param, in_flight=5)
    )


def test_every_field_is_known(written):
    for name, documents in written.documents.items():
        for document in documents:
            assert unknown_in_file(name, document) == [], name


def test_a_misspelt_field_is_found(written):
    """The check above finds every single field if its name is wrong, but for the free ones."""
    free = ("app.kubernetes.io/", "keras-vit/", "nvidia.com/", "CUDA_", "TF_")
    free_names = {"cpu", "memory", *written.deployment.configuration_files()}
    tried = 0
    for name, documents in written.documents.items():
        for document in documents:
            for place in every_place(document):
                for key in [*place]:
                    if key.startswith(free) or key in free_names:
                        continue
                    if name == "compose.yaml" and key == written.deployment.resource_name:
                        continue
                    before = dict(place)
                    place[f"{key}X"] = place.pop(key)
                    assert unknown_in_file(name, document), (name, key)
                    place.clear()
                    place.update(before)
                    tried += 1
    assert tried > 150


def test_selectors_match_the_servers_and_only_them(written):
    labels = written.one("Deployment")["spec"]["template"]["metadata"]["labels"]
    selectors = [
        written.one("Deployment")["spec"]["selector"]["matchLabels"],
        written.one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        written.pod["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
        *(service["spec"]["selector"] for service in written.all("Service")),
    ]
    upload = written.one("Pod")["metadata"]["labels"]
    for selector in selectors:
        assert selector
        assert selector.items() <= labels.items()
        assert not selector.items() <= upload.items()


def test_ports_have_one_name_everywhere(written):
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in written.container["args"])
    ports = {port["name"]: port["containerPort"] for port in written.container["ports"]}
    assert ports == {"grpc": int(flags["port"]), "http": int(flags["rest_api_port"])}
    headless, rest = sorted(written.all("Service"), key=lambda s: "type" in s["spec"])
    assert headless["spec"]["clusterIP"] == "None"
    assert [port["targetPort"] for port in headless["spec"]["ports"]] == ["grpc"]
    assert [port["targetPort"] for port in rest["spec"]["ports"]] == ["http"]
    for service in (headless, rest):
        for port in service["spec"]["ports"]:
            assert port["port"] == ports[port["targetPort"]]
    published = {int(port.rsplit(":", 1)[1]) for port in written.compose["ports"]}
    assert published == set(ports.values())
    assert all(port.startswith("127.0.0.1:") for port in written.compose["ports"])
    for probe in ("startupProbe", "readinessProbe"):
        assert written.container[probe]["httpGet"]["port"] == "http"


def test_the_server_runs_without_a_shell_and_takes_its_flags(written):
    assert written.container["command"] == ["/usr/bin/tensorflow_model_server"]
    assert written.compose["entrypoint"] == written.container["command"]
    assert written.compose["command"] == written.container["args"]
    names = [re.fullmatch(r"--(\w+)=\S+", flag)[1] for flag in written.container["args"]]
    assert len(names) == len(set(names))
    assert set(names) <= FLAGS
    for flag in (
        "--enable_batching=true",
        "--enable_per_model_batching_parameters=true",
        "--enable_grpc_healthcheck_service=true",
        "--grpc_channel_arguments=grpc.max_connection_age_ms=30000",
    ):
        assert flag in written.container["args"]


def test_flags_name_files_that_are_mounted(written):
    named = {
        Path(flag.split("=", 1)[1])
        for flag in written.container["args"]
        if flag.split("=")[0].endswith("_file")
    }
    assert {path.parent for path in named} == {Path(CONFIGURATION_DIRECTORY)}
    config = written.one("ConfigMap")
    assert set(config["data"]) == {path.name for path in named}
    beside_compose = {n for n in written.texts if n.startswith("config/")}
    assert beside_compose == {f"config/{path.name}" for path in named}
    for path in named:
        assert written.texts[f"config/{path.name}"] == config["data"][path.name]
    (volume,) = [v for v in written.pod["volumes"] if "configMap" in v]
    assert volume["configMap"]["name"] == config["metadata"]["name"]
    mounts = {mount["name"]: mount["mountPath"] for mount in written.container["volumeMounts"]}
    assert mounts[volume["name"]] == CONFIGURATION_DIRECTORY
    assert "./config" in [v["source"] for v in written.compose["volumes"]]


def test_every_volume_is_mounted_and_every_mount_is_a_volume(written):
    for pod in (written.pod, written.one("Pod")["spec"]):
        (container,) = pod["containers"]
        mounted = sorted(mount["name"] for mount in container["volumeMounts"])
        assert mounted == sorted(volume["name"] for volume in pod["volumes"])
        claims = [
            v["persistentVolumeClaim"] for v in pod["volumes"] if "persistentVolumeClaim" in v
        ]
        claim = written.one("PersistentVolumeClaim")["metadata"]["name"]
        assert [entry["claimName"] for entry in claims] == [claim]


def test_the_model_is_where_the_server_looks(written):
    text = written.texts["config/models.config"]
    parsed = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (model,) = parsed.model_config_list.config
    assert (model.name, model.model_platform) == ("Digits_v2.1", "tensorflow")
    targets = {volume["target"]: volume for volume in written.compose["volumes"]}
    assert targets[model.base_path]["read_only"] is True
    # What Compose makes of it: `$$` is a dollar sign, a single one would begin a variable.
    source = targets[model.base_path]["source"]
    assert not re.search(r"(?<!\$)(\$\$)*\$(?!\$)", source)
    assert source.replace("$$", "$") == str(written.deployment.base)
    (mount,) = [m for m in written.container["volumeMounts"] if m["name"] == "models"]
    assert Path(model.base_path).parent == Path(mount["mountPath"])
    assert (
        f"mkdir -p {model.base_path} " in written.one("Pod")["spec"]["containers"][0]["command"][2]
    )


def test_a_server_answers_until_clients_have_found_others(written):
    drain = written.container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert written.pod["terminationGracePeriodSeconds"] > drain
    # gRPC spreads the age by a tenth, so that not all clients come at once.
    assert drain > 1.1 * written.deployment.connection_age
    update = written.one("Deployment")["spec"]["strategy"]["rollingUpdate"]
    assert update == {"maxUnavailable": 0, "maxSurge": 1}
    assert written.one("PodDisruptionBudget")["spec"] == {
        "maxUnavailable": 1,
        "selector": written.one("Deployment")["spec"]["selector"],
    }


def test_sigterm_reaches_the_server(written):
    """Process 1 is spared by signals that it does not handle, and the server handles none."""
    assert written.pod["shareProcessNamespace"] is True
    assert written.compose["init"] is True
    assert written.compose["stop_signal"] == "SIGTERM"
    assert written.compose["stop_grace_period"] == "10s"


def test_the_rollout_waits_for_slow_models(written):
    startup = written.container["startupProbe"]
    longest = startup["periodSeconds"] * startup["failureThreshold"]
    assert longest == 600
    assert written.one("Deployment")["spec"]["progressDeadlineSeconds"] > longest


def test_servers_have_few_rights(written):
    for pod in (written.pod, written.one("Pod")["spec"]):
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["automountServiceAccountToken"] is False
        rights = container["securityContext"]
        assert rights["readOnlyRootFilesystem"] is True
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["capabilities"] == {"drop": ["ALL"]}
    assert written.compose["user"] == "65534:65534"
    assert written.compose["read_only"] is True
    assert written.compose["cap_drop"] == ["ALL"]


def test_resources_are_the_same_in_both():
    written = Written(Deployment(Path("/srv/m"), "m", cpus=1.5, memory=2.5, gpu=True))
    resources = written.container["resources"]
    assert resources["requests"] == {"cpu": "1500m", "memory": "2560Mi"}
    assert resources["limits"] == {**resources["requests"], "nvidia.com/gpu": "1"}
    assert "--tensorflow_intra_op_parallelism=2" in written.container["args"]
    compose = written.compose["deploy"]["resources"]
    assert compose["limits"] == {"cpus": "1.5", "memory": "2560m"}
    assert compose["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert written.pod["tolerations"][0]["key"] == "nvidia.com/gpu"


def test_without_a_gpu_nothing_asks_for_one():
    texts = deployment_files(Deployment(Path("/srv/m"), "m"))
    assert not [name for name, text in texts.items() if re.search("nvidia|cuda|gpu", text, re.I)]


@pytest.mark.parametrize("recording", ["plain", "batching"])
def test_the_autoscaler_asks_for_what_the_server_exports(written, recording):
    page = (RECORDED / f"{recording}.prometheus.txt").read_text()
    (rule,) = written.documents["kubernetes/monitoring/prometheus_adapter_values.yaml"][0]["rules"][
        "custom"
    ]
    series, labels = re.fullmatch(r"([:\w]+)\{(.*)\}", rule["seriesQuery"]).groups()
    exported = [line for line in page.splitlines() if line.startswith(f"{series}{{")]
    assert exported
    wanted = re.findall(r'(\w+)!=""', labels)
    # namespace and pod are put there by Prometheus.
    own = [label for label in wanted if label not in ("namespace", "pod")]
    assert own == ["API"]
    assert set(wanted) - {"API"} == set(rule["resources"]["overrides"])
    predictions = [line for line in exported if 'API="Predict"' in line]
    probes = [line for line in exported if 'API=""' in line]
    assert predictions
    assert probes, "requests for a status have no API, which is how they are left out"
    assert 'API!=""' in rule["metricsQuery"]
    assert "<<.Series>>" in rule["metricsQuery"]
    assert rule["metricsQuery"].endswith("/ 1e6")
    (metric,) = written.one("HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"] == SCALING_METRIC
    assert series == SERVER_METRIC
    assert metric["pods"]["target"] == {"type": "AverageValue", "averageValue": "5"}


def test_the_autoscaler_owns_the_number_of_servers(written):
    spec = written.one("HorizontalPodAutoscaler")["spec"]
    deployment = written.one("Deployment")
    target = {key: deployment[key] for key in ("apiVersion", "kind")}
    assert spec["scaleTargetRef"] == {**target, "name": deployment["metadata"]["name"]}
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 8)
    assert "replicas" not in deployment["spec"]


def test_prometheus_finds_one_port_of_one_service(written):
    spec = written.one("ServiceMonitor")["spec"]
    (endpoint,) = spec["endpoints"]
    found = [
        port
        for service in written.all("Service")
        if spec["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        for port in service["spec"]["ports"]
        if port["name"] == endpoint["port"]
    ]
    assert len(found) == 1
    monitoring = written.texts["config/monitoring.config"]
    assert f'path: "{endpoint["path"]}"' in monitoring
    # The same statement as in the file that the recorded server was started with.
    recorded = (RECORDED / "monitoring.config").read_text()
    assert "".join(monitoring.split()) == "".join(recorded.split())


def test_changed_batching_replaces_servers_and_changed_models_do_not(written, monkeypatch):
    def digest(name):
        files = {**written.deployment.configuration_files()}
        files[name] += "# changed\n"
        monkeypatch.setattr(Deployment, "configuration_files", lambda self: files)
        template = Written(written.deployment).one("Deployment")["spec"]["template"]
        monkeypatch.undo()
        return template["metadata"]["annotations"]

    same = written.one("Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert digest("models.config") == same
    assert digest("batching.pbtxt") != same
    assert digest("monitoring.config") != same


@pytest.mark.parametrize(
    ("name", "resource"),
    [
        ("digits", "digits"),
        ("Digits_v2.1", "digits-v2-1"),
        ("16x16", "model-16x16"),
        ("a" * 80, "a" * 45),
        ("a" * 44 + "--b", "a" * 44),
        ("x..", "x"),
    ],
)
def test_names_are_what_kubernetes_allows(name, resource):
    written = Written(Deployment(Path("/srv/m"), name))
    assert written.deployment.resource_name == resource
    for documents in written.documents.values():
        for document in documents:
            own = document.get("metadata", {}).get("name", resource)
            assert re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", own)
            assert own.startswith(resource)
    assert written.container["readinessProbe"]["httpGet"]["path"] == f"/v1/models/{name}"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": ""}, "--name"),
        ({"name": "a/b"}, "letters, digits"),
        ({"name": "a b"}, "letters, digits"),
        ({"name": "a'b"}, "letters, digits"),
        ({"name": "-a"}, "begins with"),
        ({"name": "größe"}, "letters, digits"),
        ({"name": "a\n"}, "letters, digits"),
        ({"image": ""}, "expected one such as"),
        ({"replicas": 0}, "at least 1"),
        ({"replicas": 3, "max_replicas": 2}, "must not be below replicas, 3"),
        ({"in_flight": 0}, "at least 1"),
        ({"cpus": 0.0}, "above 0"),
        ({"cpus": float("nan")}, "above 0"),
        ({"memory": float("inf")}, "above 0"),
        ({"connection_age": 60}, "Make drain longer"),
    ],
)
def test_what_cannot_be_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        Deployment(**{"base": Path("/srv/m"), "name": "m", **change})


# --- The commands --------------------------------------------------------------------------------


def test_the_health_check_tells_a_server_that_has_the_model(base):
    check = Written(Deployment(base, "colours")).compose["healthcheck"]["test"]
    absent = Written(Deployment(base, "shapes")).compose["healthcheck"]["test"]

    def healthy(test, port):
        assert test[0] == "CMD"
        command = [part.replace("/8501", f"/{port}") for part in test[1:]]
        return subprocess.run(command, timeout=20, capture_output=True).returncode == 0

    with LocalServer([ModelConfig("colours", str(base))], port=0, rest_port=0) as server:
        assert healthy(check, server.rest_port)
        assert not healthy(absent, server.rest_port)
        port = server.rest_port
    assert not healthy(check, port)


def test_the_readme_names_what_is_there(written):
    readme = written.texts["README.md"]
    for path in re.findall(r"(?:--filename|--values) (\S+)", readme):
        files = [name for name in written.texts if name.startswith(path.rstrip("/;`"))]
        assert files, path
    blocks = re.findall(r"```sh\n(.*?)```", readme, re.S)
    assert len(blocks) == 5
    for block in blocks:
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)
    assert shlex.quote(str(written.deployment.base)) in readme
    # `kubectl apply` of the directory must not trip over what is no manifest, or needs an operator.
    applied = [name for name in written.texts if re.fullmatch(r"kubernetes/[^/]+", name)]
    kinds = {one["kind"] for name in applied for one in written.documents[name]}
    assert kinds == {
        "Deployment",
        "Service",
        "HorizontalPodAutoscaler",
        "PodDisruptionBudget",
        "ConfigMap",
        "PersistentVolumeClaim",
    }
    headless = written.all("Service")[0]["metadata"]["name"]
    assert f"dns:///{headless}." in readme


def test_files_are_replaced_only_on_demand(tmp_path):
    first = Deployment(Path("/srv/m"), "m")
    paths = write_deployment(first, tmp_path / "out")
    assert sorted(paths) == sorted(p for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert write_deployment(first, tmp_path / "out") == paths, "the same once more is fine"
    (tmp_path / "out" / "mine.txt").write_text("mine")
    second = Deployment(Path("/srv/m"), "m", replicas=3)
    with pytest.raises(ValueError, match=r"kubernetes/autoscaler\.yaml.*--overwrite"):
        write_deployment(second, tmp_path / "out")
    assert "minReplicas: 2" in (tmp_path / "out/kubernetes/autoscaler.yaml").read_text()
    write_deployment(second, tmp_path / "out", overwrite=True)
    assert "minReplicas: 3" in (tmp_path / "out/kubernetes/autoscaler.yaml").read_text()
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_the_command(tmp_path, capsys, monkeypatch):
    (tmp_path / "photos" / "3").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    main(["deploy", "out", "--base", "photos", "--gpu", "--replicas", "3"])
    output = capsys.readouterr().out
    assert "out/kubernetes/deployment.yaml" in output
    assert "will not be batched" in output
    compose = yaml.safe_load((tmp_path / "out/compose.yaml").read_text())["services"]["photos"]
    assert compose["image"] == "tensorflow/serving:2.20.0-gpu"
    assert compose["volumes"][0]["source"] == str(tmp_path / "photos"), "relative to no directory"
    (tmp_path / "photos" / "3" / "batching_params.pbtxt").touch()
    main(["deploy", "out", "--base", "photos", "--image", "mirror/serving:1", "--overwrite"])
    assert "batched" not in capsys.readouterr().out
    compose = yaml.safe_load((tmp_path / "out/compose.yaml").read_text())["services"]["photos"]
    assert compose["image"] == "mirror/serving:1"


def test_weights_are_packed_where_that_is_wanted():
    for wanted in (True, False):
        written = Written(Deployment(Path("/srv/m"), "m", pack_weights=wanted))
        environments = (
            written.compose["environment"],
            {entry["name"]: entry["value"] for entry in written.container["env"]},
        )
        for environment in environments:
            assert environment.get("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS") == ("1" if wanted else None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--base", "nowhere"], "is not a directory"),
        (["--base", "empty"], "holds no version"),
        (["--base", "a b"], "Give one with --name"),
        (["--base", "a b", "--name", "a", "--drain", "5"], "Make drain longer"),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path, capsys, monkeypatch, arguments, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a b" / "1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["deploy", "out", *arguments])
    assert stop.value.code == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_writing_needs_no_tensorflow():
    script = (
        "import sys\n"
        "import serving.deployment.write\n"
        "heavy = {'tensorflow', 'keras', 'keras_vit', 'grpc'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
