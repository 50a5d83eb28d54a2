"""Labels move from version to version, on a running server, and back."""

import shutil
import threading

import pytest
from certificates import make_certificate
from colour_model import png

from keras_vit_cli import main
from serving import Client
from serving.client import TLS
from serving.configuration.models import ModelConfig, parse_models, write_models
from serving.configuration.tls import TlsConfig
from serving.promotion import Target, promote, read_history, rollback

RED = png((255, 0, 0))


@pytest.fixture
def running(base, renamed):
    from serving.local_server.server import LocalServer

    shutil.copytree(renamed, base / "2")
    model = ModelConfig("colours", str(base), specific=frozenset({1}))
    with LocalServer([model], port=0, poll_seconds=60) as server:
        yield server


def test_a_label_moves_without_a_lost_request(base, running, tmp_path):
    file = tmp_path / "models.config"
    target = Target(base, address=running.address, model_config_file=file)
    steps = []
    promote(target, 1, "stable", report=steps.append)
    seen, failed, stop = set(), [], threading.Event()

    def ask():
        with Client(running.address, "colours", version_label="stable") as client:
            while not stop.is_set():
                try:
                    seen.add(client.predict(RED, top_k=1)[0].labels[0])
                except Exception as error:  # noqa: BLE001 - whatever it is, it is a lost request
                    failed.append(error)

    caller = threading.Thread(target=ask)
    caller.start()
    promote(target, 2, "stable", report=steps.append)
    while "rouge" not in seen and not failed:
        pass
    stop.set()
    caller.join()
    assert not failed
    assert "stable is version 2 of colours" in steps
    (model,) = parse_models(file.read_text())
    assert model == ModelConfig(
        "colours", str(base.resolve()), specific=frozenset({2}), labels={"stable": 2}
    )
    with Client(running.address, "colours") as client:
        assert {entry.version: entry.state for entry in client.status()} == {
            2: "AVAILABLE",
            1: "END",
        }
        assert rollback(target, "stable", report=steps.append) == 1
    with Client(running.address, "colours", version_label="stable") as client:
        assert client.predict(RED, top_k=1)[0].labels == ("red",)
    assert read_history(base) == {"stable": [1]}
    with pytest.raises(ValueError, match="no version to go back to"):
        rollback(target, "stable")


def test_labels_of_a_server_with_tls(base, renamed, tmp_path, capsys):
    from serving.local_server.server import LocalServer

    shutil.copytree(renamed, base / "2")
    key, certificate = make_certificate(tmp_path)
    given = TlsConfig.from_files(key, certificate, certificate, client_verify=True)
    model = ModelConfig("colours", str(base), specific=frozenset({1}))
    with LocalServer([model], host="localhost", port=0, tls=given) as server:
        files = ["--ca", str(certificate), "--certificate", str(certificate), "--key", str(key)]
        command = [str(base), "--address", server.address, *files]
        ours = TLS(certificate, certificate, key)

        def answer():
            with Client(server.address, "colours", version_label="stable", tls=ours) as client:
                return client.predict(RED, top_k=1)[0].labels

        main(["promote", command[0], "1", *command[1:]])
        main(["promote", command[0], "2", *command[1:]])
        assert answer() == ("rouge",)
        main(["versions", *command])
        assert "AVAILABLE" in capsys.readouterr().out
        main(["rollback", *command])
        assert answer() == ("red",)


def test_stable_and_canary_side_by_side(base, running):
    target = Target(base, address=running.address)
    promote(target, 1, "stable")
    promote(target, 2, "canary")
    for label, word in (("stable", "red"), ("canary", "rouge")):
        with Client(running.address, "colours", version_label=label) as client:
            assert client.predict(RED, top_k=1)[0].labels == (word,)


def test_a_version_that_cannot_be_loaded_moves_nothing(base, running):
    (base / "3").mkdir()
    target = Target(base, address=running.address)
    promote(target, 1, "stable")
    with pytest.raises(ValueError, match=r"refused the configuration|could not be loaded"):
        promote(target, 3, "stable", timeout=5)
    assert read_history(base) == {"stable": [1]}
    with Client(running.address, "colours", version_label="stable") as client:
        assert client.predict(RED, top_k=1)[0].labels == ("red",)


def test_other_models_of_the_file_stay(base, tmp_path):
    file = tmp_path / "models.config"
    other = ModelConfig("other", "/models/other", latest=2, labels={"stable": 7})
    file.write_text(write_models([other, ModelConfig("colours", str(base))]))
    steps = []
    promote(Target(base, model_config_file=file), 1, "stable", report=steps.append)
    assert other in parse_models(file.read_text())
    assert "no server was told" in steps[-1]


def test_what_cannot_be_promoted(base, tmp_path):
    with pytest.raises(ValueError, match=r"has no version 9; it has \[1\]"):
        promote(Target(base), 9, "stable")
    with pytest.raises(ValueError, match="it has none"):
        promote(Target(tmp_path / "nowhere"), 1, "stable")
    with pytest.raises(ValueError, match="'/' or ':'"):
        promote(Target(base), 1, "a/b")
    (base / "labels.json").write_text('["stable"]')
    with pytest.raises(ValueError, match="is damaged"):
        promote(Target(base), 1, "stable")
