"""The local server's REST API, beyond what the transcripts replay."""

import base64
import gzip
import json
from http.client import HTTPConnection

import numpy as np
import pytest
from colour_model import png

from serving import Client
from serving.configuration.models import ModelConfig
from serving.local_server.server import LocalServer
from serving.startup import ServeError, check_port

RED = png((255, 0, 0))


def post(address, verb, body, **headers):
    connection = HTTPConnection(address, timeout=30)
    connection.request("POST", f"/v1/models/colours:{verb}", body, headers)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


@pytest.fixture
def rest(base):
    with LocalServer([ModelConfig("colours", str(base))], port=0, rest_port=0) as server:
        yield f"127.0.0.1:{server.rest_port}"


def test_rest_answers_about_images(rest):
    encoded = {"b64": base64.b64encode(RED).decode()}
    rows = json.dumps({"instances": [{"image_bytes": encoded}, {"b64": "bm8="}]}).encode()
    status, answer = post(rest, "predict", rows)
    assert status == 400, "rows are all named or all plain"
    rows = json.dumps({"instances": [encoded, {"b64": "bm8="}]}).encode()
    status, answer = post(rest, "predict", gzip.compress(rows), **{"Content-Encoding": "gzip"})
    assert status == 200
    assert answer["predictions"][0]["classes"][0] == "red"
    assert [row["valid"] for row in answer["predictions"]] == [True, False]
    pixels = np.full((1, 2, 2, 3), (0, 0, 255), np.uint8).tolist()
    status, answer = post(
        rest, "predict", json.dumps({"signature_name": "images", "inputs": pixels})
    )
    assert answer["outputs"]["classes"][0][0] == "blue"
    examples = [{"image/encoded": encoded}]
    status, answer = post(
        rest, "classify", json.dumps({"signature_name": "classify", "examples": examples})
    )
    assert answer["results"][0][0][0] == "red"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"signature_name": 3, "instances": [1]}, "must be a string"),
        ({"instances": {"a": 1}}, "No values in 'instances' array"),
        ({"signature_name": "images", "inputs": [300]}, "does not fit into uint8"),
        ({"signature_name": "images", "inputs": [True]}, "Type: Boolean"),
        ({"signature_name": "images", "inputs": {"other": []}}, "Missing named input: images"),
        ({"signature_name": "images", "inputs": [[1], [1, 2]]}, "Expecting tensor size"),
    ],
)
def test_rest_refuses_what_is_not_a_tensor(rest, body, words):
    status, answer = post(rest, "predict", json.dumps(body))
    assert status == 400
    assert words in answer["error"]


def test_an_ipv6_address(base):
    models = [ModelConfig("colours", str(base))]
    try:
        check_port("::1", 0)
    except ServeError:
        pytest.skip("this machine has no IPv6")
    with (
        LocalServer(models, host="::1", port=0, rest_port=0) as server,
        Client(server.address, "colours") as client,
    ):
        assert server.address.startswith("[::1]:")
        assert client.predict(RED)[0].valid
        assert post(f"[::1]:{server.rest_port}", "predict", "{}")[0] == 400
