"""The page over HTTP, on the local server's REST port and on a port of its own."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from colour_model import png

from serving.client import AttentionMap, Client, Prediction, SignatureNotFoundError
from serving.label_history import LABELS_FILE
from serving.local_server.server import LocalServer
from serving.page import backend, site
from serving.page.backend import Backend, NotServedError, PageModel, page_models
from serving.page.server import page_server
from serving.page.site import Site


@pytest.fixture(params=["mounted", "alone"])
def port(request, local, configs):
    """The page's port in both set-ups: what it answers is the same."""
    if request.param == "mounted":
        yield local.rest_port
        return
    alone = Site(Backend(local.address, lambda: page_models(configs)))
    with page_server(alone, "127.0.0.1", 0) as taken:
        yield taken


@pytest.fixture
def image(encode, photo):
    return encode(photo(60, 80))


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/", "text/html"), ("/page/page.css", "text/css"), ("/page/page.js", "text/javascript")],
)
def test_files(ask, port, path, kind):
    answer, content = ask(port, "GET", path)
    assert answer.status == 200
    assert answer.getheader("Content-Type") == f"{kind}; charset=utf-8"
    policy = answer.getheader("Content-Security-Policy")
    assert policy.startswith("default-src 'self'; img-src 'self' blob: data:;")
    assert "unsafe" not in policy
    assert answer.getheader("X-Content-Type-Options") == "nosniff"
    assert len(content) > 1000


def test_nothing_inline_and_nothing_from_outside(ask, port):
    text = ask(port, "GET", "/")[1].decode()
    assert re.findall(r"<script(?! src=\"page/)", text) == []
    assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:", text) == []
    for path in ("/", "/page/page.css", "/page/page.js"):
        assert not re.search(r"https?://|//\w+\.\w+/", ask(port, "GET", path)[1].decode())


@pytest.mark.parametrize(
    "path",
    [
        "/page/../site.py",
        "/page/%2e%2e/site.py",
        "/page/page.html",
        "/page/static/page.css",
        "/page//etc/passwd",
        "/page/page.css/",
        "/page/http://example.org/",
    ],
)
def test_no_path_leads_out(ask, port, path):
    answer, content = ask(port, "GET", path)
    assert answer.status == 404
    assert "nothing at" in content["error"]


def test_rest_goes_on_beside_the_page(ask, local, configs):
    assert ask(local.rest_port, "GET", "/v1/models/plain")[0].status == 200
    assert ask(local.rest_port, "GET", "/nothing")[0].status == 404
    with LocalServer(configs[1:], port=0, rest_port=0) as without:
        assert ask(without.rest_port, "GET", "/")[0].status == 404
        assert ask(without.rest_port, "GET", "/page/state")[0].status == 404


def test_the_state(ask, port):
    state = ask(port, "GET", "/page/state")[1]
    assert state == {
        "models": ["colours", "plain"],
        "model": "colours",
        "versions": [2, 1],
        "labels": {"stable": 1},
        "max_megabytes": 32,
    }
    state = ask(port, "GET", "/page/state?model=plain")[1]
    assert (state["model"], state["versions"], state["labels"]) == ("plain", [1], {})


def test_only_labels_that_the_server_has(local, configs):
    file = Path(configs[0].base_path) / LABELS_FILE
    file.write_text('{"stable": [2, 1], "canary": [2]}')
    asked = Backend(local.address, lambda: [PageModel("colours", configs[0].base_path)])
    try:
        assert asked.state()["labels"] == {"stable": 1}
        file.write_text("damaged")
        assert asked.state()["labels"] == {}
    finally:
        file.unlink()


@pytest.mark.parametrize(("query", "version"), [("", 2), ("version=1", 1), ("label=stable", 1)])
def test_an_answer_is_the_clients(ask, port, local, image, query, version):
    answer, body = ask(port, "POST", f"/page/answer?{query}", image)
    assert answer.status == 200
    with Client(local.address, "colours", version=version) as client:
        (prediction,), (attention,) = client.predict(image), client.attention(image)
    assert body["model"] == "colours"
    assert (body["version"], body["valid"]) == (version, True)
    assert [row["label"] for row in body["labels"]] == list(prediction.labels)
    np.testing.assert_allclose([row["score"] for row in body["labels"]], prediction.scores, 1e-6)
    values = np.reshape(body["attention"]["values"], (2, 3))
    np.testing.assert_allclose(values, attention.attention, rtol=1e-3)
    assert (body["attention"]["rows"], body["attention"]["columns"]) == (2, 3)
    # 60 x 80 becomes 35 x 46, of which 32 x 32 are kept.
    expected = {"left": 7 / 46, "top": 2 / 35, "width": 32 / 46, "height": 32 / 35}
    assert body["seen"] == body["patches"] == pytest.approx(expected)
    assert body["turned"] is False
    assert 0 < body["milliseconds"] < 60_000


def test_a_model_without_a_card_has_attention_without_a_place(ask, port):
    body = ask(port, "POST", "/page/answer?model=plain", png((255, 0, 0)))[1]
    assert body["labels"][0]["label"] == "red"
    assert body["attention"]["columns"] == 3
    assert body["seen"] is body["patches"] is None


def test_what_is_no_image_is_said_to_be_none(ask, port):
    answer, body = ask(port, "POST", "/page/answer", b"no image at all")
    assert answer.status == 200
    assert body["valid"] is False
    assert body["labels"] == []
    assert body["attention"] is None


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "words"),
    [
        ("POST", "/page/answer", b"", {}, 400, "no image"),
        ("POST", "/page/answer?version=two", b"x", {}, 400, "whole number"),
        ("POST", "/page/answer?version=-1", b"x", {}, 400, "whole number"),
        ("POST", "/page/answer?version=1&label=a", b"x", {}, 400, "not both"),
        ("POST", "/page/answer?version=1&version=2", b"x", {}, 400, "given once"),
        ("POST", "/page/answer?model=", b"x", {}, 400, "not empty"),
        ("POST", "/page/answer?address=example.org:80", b"x", {}, 400, "unknown in the query"),
        ("POST", "/page/answer?" + "a=1&" * 20, b"x", {}, 400, "too many fields"),
        ("POST", "/page/answer?model=cats", b"x", {}, 404, "no model 'cats'"),
        ("POST", "/page/answer?version=9", b"x", {}, 404, "does not serve"),
        ("POST", "/page/answer?label=gone", b"x", {}, 400, "Unrecognized"),
        ("POST", "/page/answer", b"x", {"Sec-Fetch-Site": "cross-site"}, 403, "only the page"),
        ("POST", "/page/answer", iter([b"x"]), {}, 411, "Content-Length"),
        ("POST", "/page/answer", b"x", {"Content-Length": "-1"}, 411, "Content-Length"),
        ("GET", "/page/answer", None, {}, 405, "takes POST"),
        ("PUT", "/page/answer", b"x", {}, 405, "takes POST"),
        ("DELETE", "/page/state", None, {}, 405, "takes GET"),
        ("POST", "/", b"x", {}, 405, "takes GET"),
        ("GET", "/page/state?model=cats", None, {}, 404, "no model 'cats'"),
    ],
)
def test_refusals(ask, port, method, path, body, headers, status, words):
    answer, content = ask(port, method, path, body, headers)
    assert answer.status == status
    assert words in content["error"]


def test_a_file_that_is_too_large(ask, port, monkeypatch):
    monkeypatch.setattr(site, "MAX_BYTES", 1024 * 1024)
    answer, content = ask(port, "POST", "/page/answer", bytes(3 * 1024 * 1024))
    assert answer.status == 413
    assert "3 MB" in content["error"]


def test_a_body_that_ends_early(port):
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"POST /page/answer HTTP/1.0\r\nContent-Length: 100\r\n\r\nabc")
        connection.shutdown(socket.SHUT_WR)
        answer = connection.makefile("rb").read()
    assert b" 400 " in answer.splitlines()[0]
    assert b"ended after 3 of 100 bytes" in answer


def test_a_server_that_is_not_there(ask, image):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nowhere = f"127.0.0.1:{probe.getsockname()[1]}"
    away = Site(Backend(nowhere, lambda: [PageModel("colours")]))
    with page_server(away, "127.0.0.1", 0) as port:
        assert ask(port, "GET", "/")[0].status == 200
        for method, path in (("GET", "/page/state"), ("POST", "/page/answer")):
            answer, content = ask(port, method, path, image if method == "POST" else None)
            assert answer.status == 503
            assert "no server answers" in content["error"]


class FakeClient:
    """Answers from lists; what is left in them tells how often it was asked."""

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def predict(self, *_, **__):
        return [Prediction("", True, ("a", "b"), (float("nan"), 0.5), self.versions.pop(0))]

    def attention(self, *_, **__):
        return [AttentionMap("", True, np.full((2, 2), np.nan), 2)]

    def refuse(self, *_, **__):
        raise SignatureNotFoundError("no such signature")


def test_both_answers_are_of_one_version(monkeypatch):
    """And numbers that JSON does not have are none."""
    monkeypatch.setattr(backend, "Client", FakeClient)
    monkeypatch.setattr(FakeClient, "versions", [1, 2], raising=False)
    body = Backend("localhost:1", lambda: [PageModel("m")]).answer(b"x", backend.Choice())
    assert FakeClient.versions == []
    assert body["version"] == 2
    assert [row["score"] for row in body["labels"]] == [None, 0.5]
    assert body["attention"] is None


def test_models_without_labels_or_without_attention(monkeypatch):
    monkeypatch.setattr(backend, "Client", FakeClient)
    asked = Backend("localhost:1", lambda: [PageModel("m")])
    monkeypatch.setattr(FakeClient, "versions", [7], raising=False)
    monkeypatch.setattr(FakeClient, "attention", FakeClient.refuse)
    body = asked.answer(b"x", backend.Choice())
    assert (body["version"], body["attention"]) == (7, None)
    monkeypatch.undo()
    monkeypatch.setattr(FakeClient, "predict", FakeClient.refuse)
    body = asked.answer(b"x", backend.Choice())
    assert (body["version"], body["valid"], body["labels"]) == (2, True, None)
    monkeypatch.setattr(FakeClient, "attention", FakeClient.refuse)
    with pytest.raises(NotServedError, match="neither"):
        asked.answer(b"x", backend.Choice())


def test_the_page_needs_no_tensorflow():
    script = (
        "import sys, serving.page.server, serving.page.backend\n"
        "heavy = {'tensorflow', 'keras', 'keras_vit', 'tensorflow_serving'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
