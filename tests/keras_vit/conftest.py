"""What the tests of downloads share."""

import threading

import pytest
from download_server import Server

from keras_vit.weights import transfer
from keras_vit.weights.addresses import fetch


@pytest.fixture
def download_environment(monkeypatch):
    """No settings but the tests' own, and no waiting before another try."""
    for name in ("KERAS_VIT_OFFLINE", "HF_HUB_OFFLINE", "KERAS_VIT_CACHE", "KERAS_VIT_GS_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HF_ENDPOINT", "HF_HUB_CACHE", "HF_HOME", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    # What it read of the environment when a test before these imported it.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(transfer, "_FIRST_DELAY", 0.001)


@pytest.fixture
def server():
    """A `Server` that runs."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def get(tmp_path, server):
    """A function that fetches a path of the server into a cache of the test's own."""

    def fetch_path(path="/model.npz", **options):
        return fetch(server.url + path, cache_dir=tmp_path / "cache", **options)

    return fetch_path
