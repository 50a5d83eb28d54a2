"""Which addresses are followed, and where to."""

import base64
import hashlib
import os

import pytest
from download_server import CONTENT, cut, status

from keras_vit.weights import transfer
from keras_vit.weights.addresses import fetch, is_address

pytestmark = pytest.mark.usefixtures("download_environment")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("hf://a/b", True),
        ("https://a/b", True),
        ("http://a/b", True),
        ("gs://a/b", True),
        ("HTTPS://a/b", True),
        ("hf:/a/b", False),
        ("/tmp/https://a", False),
        ("ftp://a/b", False),
        ("", False),
    ],
)
def test_what_is_an_address(source, expected):
    assert is_address(source) is expected


def test_google_cloud_storage(server, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_VIT_GS_ENDPOINT", server.url)
    md5 = base64.b64encode(hashlib.md5(CONTENT).digest()).decode()
    server.headers = {"x-goog-hash": f"crc32c=n03x6A==,md5={md5}"}
    path = fetch("gs://vit_models/augreg/B 16?.npz", cache_dir=tmp_path)
    assert path.read_bytes() == CONTENT
    assert path.name == "B_16_.npz"
    assert server.requests[0][1] == "/vit_models/augreg/B%2016%3F.npz"
    server.content = CONTENT[::-1]
    with pytest.raises(ValueError, match=r"gs://vit_models/b.npz: .*its md5 is not"):
        fetch("gs://vit_models/b.npz", cache_dir=tmp_path)
    with pytest.raises(ValueError, match="must be gs://bucket/path"):
        fetch("gs://vit_models", cache_dir=tmp_path)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "http://example.com/a", "ftp://a/b"])
def test_unsafe_redirects_are_refused(get, server, tmp_path, target):
    server.behaviours = [status(302, Location=target)]
    with pytest.raises(ValueError, match=r"model\.npz.*redirect"):
        get()
    assert len(server.requests) == 1
    assert not list(tmp_path.rglob("model.npz*"))


def test_redirects_in_a_circle_are_one_line(get, server):
    server.behaviours = [status(302, Location="/model.npz")] * 20
    with pytest.raises(ValueError, match="a redirect that is not followed") as error:
        get()
    assert "\n" not in str(error.value)


def test_redirects_are_followed(get, server):
    server.behaviours = [cut, status(302, Location="/elsewhere")]
    path = get()
    assert (path.name, path.read_bytes()) == ("model.npz", CONTENT)
    assert server.ranges[2] == server.ranges[1] != None  # noqa: E711


def test_a_remote_server_may_not_send_us_to_this_machine():
    request = transfer.urllib.request.Request("https://example.com/a.npz")
    with (
        open(os.devnull, "rb") as body,  # noqa: PTH123
        pytest.raises(ValueError, match="which is refused"),
    ):
        transfer._Redirects().redirect_request(request, body, 302, "", {}, "http://localhost/a")


@pytest.mark.parametrize(
    "address",
    [
        "http://example.com/a.npz",
        "http://localhost.example.com/a.npz",
        "https://",
        "https:///a.npz",
        "https://host:port/a.npz",
        "https://[::1/a.npz",
        "https://user:password@example.com/a.npz",
    ],
)
def test_addresses_that_are_refused(address, tmp_path):
    with pytest.raises(ValueError, match="is refused: "):
        fetch(address, cache_dir=tmp_path)


def test_a_path_is_not_an_address():
    with pytest.raises(ValueError, match=r"'a.npz' is not an address"):
        fetch("a.npz")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/..", "download"),
        ("/", "download"),
        ("", "download"),
        ("/a/..%2f..%2f..%2fetc%2fpasswd", "passwd"),
        ("/a/..%5c..%5cpasswd", "passwd"),
        ("/.bashrc", "bashrc"),
        ("/-rf", "rf"),
        ("/a%00b%0a.npz", "a_b_.npz"),
        ("/a.npz?token=../../x", "a.npz"),
        ("/model.npz/", "model.npz"),
        ("/" + "x" * 400 + ".npz", "x" * 146 + ".npz"),
        ("/.lock", "lock"),
    ],
)
def test_hostile_names_stay_in_the_cache(get, tmp_path, path, name):
    file = get(path)
    assert file.name == name
    assert file.parent.parent == tmp_path / "cache" / "downloads"
    assert file.read_bytes() == CONTENT
