"""The local server's REST API, beyond what the transcripts replay."""

import base64
import gzip
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
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


IMAGES = {"signature_name": "images"}
ROW = [[[1, 2, 3]]]  # of one pixel


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            {"signature_name": 3, "instances": [1]},
            'JSON Value: {\n    "signature_name": 3,\n    "instances": [1]\n} not formatted '
            "correctly. 'signature_name' key must be a string value.",
        ),
        ({"instances": {"a": 1}}, "Excepting 'instances' to be an list/array"),
        (
            {**IMAGES, "inputs": [True]},
            "JSON Value: true Type: True is not of expected type: uint8",
        ),
        ({**IMAGES, "inputs": [2**31]}, "Type: Number is not of expected type: uint8"),
        ({**IMAGES, "inputs": [None]}, "JSON Value: null Type: Null"),
        ({**IMAGES, "inputs": {"other": []}}, "Missing named input: images in 'inputs' object."),
        (
            {**IMAGES, "inputs": [[1], [1, 2]]},
            "Encountered list at unexpected size: 2 at level: 1 expected size: 1",
        ),
        ({**IMAGES, "inputs": [1, [1]]}, "Encountered list at unexpected level: 1 expected < 1"),
        (
            {**IMAGES, "inputs": [[1], 1]},
            "JSON Value: 1 found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
        ),
        (
            {**IMAGES, "instances": [ROW, [[[1], [2], [3]]]]},
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
            "Expecting shape [1,1,3] but got: [1,3,1]",
        ),
        (
            {**IMAGES, "instances": [{"images": ROW}, {"images": [[[1]]]}]},
            "Failed to process element: 1 key: images of 'instances' list. Error: "
            "INVALID_ARGUMENT: Expecting tensor size: 3 but got: 1",
        ),
        (
            {**IMAGES, "instances": [{"pixels": ROW}]},
            "Failed to process element: 0 key: pixels of 'instances' list. Error: "
            "INVALID_ARGUMENT: JSON object: does not have named input: pixels",
        ),
        ({**IMAGES, "instances": [{}]}, "keys must be equal to: images"),
        (
            {**IMAGES, "instances": [{"images": ROW}, ROW]},
            "Expecting object but got list at item 1",
        ),
        ({**IMAGES, "instances": [ROW, {"images": ROW}]}, "Expecting value/list but got object at"),
        ({"instances": [{"image_bytes": {"b64": "é"}}]}, "Unable to base64 decode"),
        ({"instances": [{"image_bytes": {"b64": "YQ="}}]}, "Unable to base64 decode"),
        ({"inputs": [{"b64": 1}]}, "not formatted correctly for base64 data"),
        (
            {"signature_name": "slow", "inputs": [2**53]},
            "Cannot convert JSON value: 9007199254740992 to double without loss of precision.",
        ),
        ({"instances": ["\ud800"]}, "JSON Parse error"),
    ],
)
def test_rest_refuses_what_is_not_a_tensor_in_the_words_of_the_real_server(rest, body, words):
    status, answer = post(rest, "predict", json.dumps(body))
    assert status == 400
    assert words in answer["error"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "When method is classify, key 'examples' is expected and was not found"),
        ({"examples": {}}, "Expecting 'examples' value to be an list/array"),
        ({"examples": [[1]]}, "Example must be JSON object but got JSON Array"),
        ({"examples": [{"a": [None]}]}, "Feature: a has element with unexpected JSON type: Null"),
        (
            {"examples": [{"a": [1, 1.5]}]},
            "Unexpected element type in feature: a expecting type: i",
        ),
        ({"examples": [{"a": 1e39}]}, "Cannot convert JSON value: 1e+39 to float without loss"),
        ({"examples": [{"a": 2**63}]}, "Feature: a has uint64 element. Only int64 is supported."),
    ],
)
def test_rest_refuses_what_is_no_example(rest, body, words):
    status, answer = post(rest, "classify", json.dumps({"signature_name": "classify", **body}))
    assert status == 400
    assert words in answer["error"]


def test_numbers_as_the_real_server_takes_them(rest):
    # A whole number is cut to the tensor's type; base64 may lack its padding.
    status, answer = post(rest, "predict", json.dumps({**IMAGES, "inputs": [[[[511, 256, -256]]]]}))
    assert status == 200
    assert answer["outputs"]["classes"][0][0] == "red"
    text = base64.b64encode(RED).decode()
    lines = "\n".join(text[i : i + 60] for i in range(0, len(text), 60)).rstrip("=")
    status, answer = post(rest, "predict", json.dumps({"inputs": [{"b64": lines}]}))
    assert answer["outputs"]["valid"] == [True]


def test_paths(rest):
    connection = HTTPConnection(rest, timeout=30)
    for method, path, status, words in [
        ("GET", "/V1/Models/colours", 200, "AVAILABLE"),
        ("GET", "/v1/models/colour%73/versions/1/metadata", 200, "serving_default"),
        ("GET", "/v1/models", 400, "Missing model name in request."),
        ("GET", "/v1/models/", 400, "Malformed request: GET /v1/models/"),
        ("GET", "/v1/other", 400, "Malformed request: GET /v1/other"),
        ("GET", "/v1/models/colours?a=1", 404, "of model colours?a=1"),
        ("GET", f"/v1/models/colours/versions/{2**63}", 400, "to numeric"),
        ("POST", "/v1/models/colours:PREDICT", 400, "Malformed request"),
        ("OPTIONS", "/v1/models/colours", 400, "Malformed request: OPTIONS"),
        ("HEAD", "/v1/models/colours", 400, ""),
        ("GET", "/v2/models/colours", 404, "Not Found"),
    ]:
        connection.request(method, path, body="{}" if method == "POST" else None)
        answer = connection.getresponse()  # all on one connection
        text = answer.read().decode()
        assert (path, answer.status) == (path, status)
        assert words in text
    assert connection.sock is not None


# === HTTP ===


def raw(address, *parts, pause=0.0):
    """What comes back for bytes sent as they are, until the server closes the connection."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_requests_one_behind_the_other_on_one_connection(rest):
    one = b"GET /v1/models/colours HTTP/1.1\r\nHost: a\r\n\r\n"
    answer = raw(rest, one * 3)
    assert answer.count(b"HTTP/1.1 200 OK") == 3


def test_a_body_in_chunks(rest):
    body = json.dumps({"instances": [{"b64": base64.b64encode(RED).decode()}]}).encode()
    head = b"POST /v1/models/colours:predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = [b"%x;name=value\r\n%s\r\n" % (len(part), part) for part in (body[:7], body[7:])]
    end = b"0\r\nTrailer: value\r\n\r\n"
    answer = raw(rest, head, *chunks, end + head + b"nonsense\r\n", pause=0.05)
    first, second = answer.split(b"HTTP/1.1 ")[1:]
    assert b'"red"' in first
    assert second.startswith(b"400")
    assert b"is not the size of a chunk" in second


def test_bodies_that_promise_too_much(rest):
    def ask(*headers, body=b"{}"):
        lines = "\r\n".join(["POST /v1/models/colours:predict HTTP/1.1", *headers, "", ""])
        return raw(rest, lines.encode() + body)

    assert b"at most 536870912 are taken" in ask("Content-Length: 99999999999999999999")
    assert b"ended after 2 of 500000000 bytes" in ask("Content-Length: 500000000")
    assert b"must be a number" in ask("Content-Length: -1")
    bomb = gzip.compress(bytes(100_000_000))  # 100 kB
    for body in (bomb, b"not gzip"):
        answer = ask("Content-Encoding: gzip", f"Content-Length: {len(body)}", body=body)
        assert b"The document is empty" in answer
    for body in (
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"inputs":' + b"[" * 900 + b"]" * 900 + b"}",
    ):
        assert b" 400 " in ask(f"Content-Length: {len(body)}", body=body)


def test_a_refused_body_is_sent_to_its_end_and_answered(rest):
    head = b"POST /v1/models/colours:predict HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n"
    assert b"at most 536870912 are taken" in raw(rest, head, *[bytes(50_000)] * 200, pause=0.002)


def test_a_client_that_never_ends_its_request_does_not_keep_the_server(base):
    with LocalServer([ModelConfig("colours", str(base))], port=0, rest_port=0) as server:
        idle, slow = (socket.create_connection(("127.0.0.1", server.rest_port)) for _ in range(2))
        slow.sendall(b"POST /v1/models/colours:predict HTTP/1.1\r\nContent-Length: 9\r\n\r\n{")
        time.sleep(0.3)
        start = time.monotonic()
        server.stop(grace=1)
        assert time.monotonic() - start < 5
        idle.close()
        slow.close()


def test_what_runs_is_answered_before_the_server_ends(base):
    with LocalServer([ModelConfig("colours", str(base))], port=0, rest_port=0) as server:
        body = json.dumps({"signature_name": "slow", "inputs": [1.0]})
        address = f"127.0.0.1:{server.rest_port}"
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(post, address, "predict", body)
            time.sleep(0.3)
            server.stop(grace=10)
            assert running.result()[0] == 200


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
