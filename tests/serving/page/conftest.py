"""Models on the page, and what asks for it."""

import http.client
import json
import shutil

import pytest

from serving.configuration.models import ModelConfig


@pytest.fixture(scope="session")
def configs(exported, renamed, tmp_path_factory):
    """Colours with two versions, a label and model cards, and plain ones, which have no card."""
    from keras_vit import Preprocessing
    from serving.card_file import CARD_FILE

    folder = tmp_path_factory.mktemp("page")
    shutil.copytree(exported, folder / "plain" / "1")
    card = {"architecture": {}, "preprocessing": Preprocessing(32).get_config()}
    for number, version in enumerate((exported, renamed), start=1):
        copy = shutil.copytree(version, folder / "colours" / str(number))
        (copy / CARD_FILE).parent.mkdir()
        (copy / CARD_FILE).write_text(json.dumps(card))
    return [
        ModelConfig("colours", str(folder / "colours"), latest=None, labels={"stable": 1}),
        ModelConfig("plain", str(folder / "plain")),
    ]


@pytest.fixture(scope="session")
def local(configs):
    """A local server with the page on its REST port."""
    from serving.local_server.server import LocalServer

    with LocalServer(configs, port=0, rest_port=0, page=True) as server:
        yield server


@pytest.fixture
def ask():
    """A function that sends a request: port, method, path, body -> answer, JSON or bytes."""

    def request(port, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        is_json = answer.getheader("Content-Type") == "application/json"
        return answer, json.loads(content) if is_json else content

    return request
