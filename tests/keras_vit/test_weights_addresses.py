"""Fetching from addresses, against servers on this machine that behave well or badly."""

import base64
import hashlib
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from pathlib import Path

import pytest

from keras_vit.weights import addresses, transfer
from keras_vit.weights.addresses import choose_files, fetch, is_address

CONTENT = hashlib.shake_256(b"weights").digest(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`; `behaviours` are used up first, one a request, then it behaves well."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.etag = '"v1"'
        self.headers = {}
        self.requests = []  # (method, path, headers)
        self.behaviours = []
        self.routes = {}  # path -> (status, headers, body), instead of all of the above
        self.url = f"http://127.0.0.1:{self.server_port}"

    @property
    def ranges(self):
        return [headers.get("Range") for _, _, headers in self.requests]


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def answer(self, status, headers, body=b""):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        server = self.server
        server.requests.append((self.command, self.path, dict(self.headers)))
        if server.routes:
            path = urllib.parse.urlsplit(self.path).path
            status, headers, body = server.routes.get(path, (404, {}, b""))
            self.answer(status, {"Content-Length": len(body)} | headers, body)
        elif server.behaviours:
            server.behaviours.pop(0)(self)
        else:
            well_behaved(self)

    do_HEAD = do_GET  # noqa: N815


def well_behaved(handler, body_of=lambda body: body):
    """Answers ranges as RFC 9110 says; `body_of` may cut what is sent."""
    server = handler.server
    content, headers = server.content, {"ETag": server.etag} | server.headers
    asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    if asked and handler.headers.get("If-Range", server.etag) == server.etag:
        start, total = int(asked[1]), len(content)
        headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        body, status = content[start:], 206
    else:
        body, status = content, 200
    headers["Content-Length"] = len(body)
    handler.answer(status, headers, body_of(body))


def cut(handler):
    """Half of what it promised, then the connection is closed."""
    well_behaved(handler, lambda body: body[: len(body) // 2])


def no_ranges(handler):
    handler.answer(200, {"Content-Length": len(CONTENT), "ETag": '"v1"'}, CONTENT)


def status(code, **headers):
    return lambda handler: handler.answer(code, {"Content-Length": 0} | headers)


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
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


def leftovers(path):
    return sorted(p.name for p in path.parent.iterdir() if "part" in p.name)


def part_of(tmp_path):
    (folder,) = (tmp_path / "cache" / "downloads").iterdir()
    return folder / "model.npz.part"


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


def test_downloads_once(get, server, tmp_path):
    path = get()
    assert path.read_bytes() == CONTENT
    key = hashlib.sha256(f"{server.url}/model.npz".encode()).hexdigest()[:16]
    assert path == tmp_path / "cache" / "downloads" / key / "model.npz"
    assert leftovers(path) == []
    assert get() == path
    assert get(offline=True) == path
    assert get(f"/model.npz#sha256={SHA256.upper()}") == path, "it is verified by what it was"
    assert len(server.requests) == 1


def test_the_cache_comes_from_the_environment(server, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_VIT_CACHE", str(tmp_path / "mine"))
    assert fetch(f"{server.url}/a.npz").is_relative_to(tmp_path / "mine" / "downloads")


def test_a_damaged_copy_is_not_used(get, server):
    path = get()
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match="does not match"):
        get(offline=True)
    assert get().read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_resumes_after_a_dropped_connection(get, server):
    server.behaviours = [cut]
    assert get().read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={len(CONTENT) // 2}-"]
    assert server.requests[1][2]["If-Range"] == '"v1"'


def test_a_weak_etag_gives_way_to_the_date(get, server):
    server.etag = 'W/"v1"'
    server.headers = {"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
    server.behaviours = [cut]
    assert get().read_bytes() == CONTENT
    assert server.requests[1][2]["If-Range"] == "Wed, 21 Oct 2015 07:28:00 GMT"


def test_a_server_without_ranges_starts_over(get, server):
    server.behaviours = [cut, no_ranges]
    assert get().read_bytes() == CONTENT
    assert server.ranges[1] is not None


@pytest.mark.parametrize("honest", [True, False], ids=["If-Range heeded", "If-Range ignored"])
def test_a_file_that_changes_in_between_is_not_mixed(get, server, honest):
    new = CONTENT[::-1]

    def changed(handler):
        server.content, server.etag = new, '"v2"'
        if not honest:
            del handler.headers["If-Range"]
        well_behaved(handler)

    server.behaviours = [cut, changed]
    assert get().read_bytes() == new


def test_a_range_that_cannot_be_satisfied_starts_over(get, server):
    server.behaviours = [cut, status(416)]
    assert get().read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={len(CONTENT) // 2}-", None]


def test_a_range_that_was_not_asked_for_starts_over(get, server):
    def from_the_beginning(handler):
        span = f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}"
        handler.answer(206, {"Content-Range": span, "Content-Length": len(CONTENT)}, CONTENT)

    server.behaviours = [cut, from_the_beginning]
    assert get().read_bytes() == CONTENT


def test_a_chunked_answer_that_breaks_off(get, server):
    def chunked(handler):
        handler.protocol_version = "HTTP/1.1"
        handler.answer(200, {"Transfer-Encoding": "chunked"}, b"10\r\n0123456789abcdef\r\n")
        handler.close_connection = True

    server.behaviours = [chunked]
    assert get().read_bytes() == CONTENT
    assert server.ranges == [None, None], "without an ETag there is nothing to resume"


def test_a_body_that_stays_short_is_given_up_and_kept(get, server, tmp_path):
    server.behaviours = [lambda handler: well_behaved(handler, lambda body: body[:1000])] * 10
    with pytest.raises(ValueError, match=r"model\.npz: given up after 6 tries.*6000 of 300000"):
        get()
    assert part_of(tmp_path).read_bytes() == CONTENT[:6000]
    server.behaviours = []
    assert get().read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=6000-"


def test_sha256(get, server, tmp_path):
    with pytest.raises(ValueError, match=rf"model\.npz: .* its sha256 is {SHA256}, not 0000"):
        get("/model.npz#sha256=" + "0" * 64)
    assert not list(tmp_path.rglob("model.npz*"))
    assert get(f"/model.npz#sha256={SHA256}").read_bytes() == CONTENT
    with pytest.raises(ValueError, match="after # can only stand"):
        get("/model.npz#md5=00")
    with pytest.raises(ValueError, match="does not match"):
        get("/model.npz#sha256=" + "0" * 64, offline=True)


def test_a_new_sha256_brings_the_new_file(get, server):
    get()
    server.content = CONTENT[::-1]
    new = hashlib.sha256(server.content).hexdigest()
    assert get(f"/model.npz#sha256={new}").read_bytes() == server.content


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (404, r"model\.npz: HTTP 404, there is no such file: check the name"),
        (403, r"model\.npz: HTTP 403, it is gated, private.*HF_TOKEN"),
        (401, r"model\.npz: HTTP 401, it is gated, private.*HF_TOKEN"),
        (400, r"model\.npz: HTTP 400"),
        (204, r"model\.npz: the server answered HTTP 204"),
    ],
)
def test_refusals_are_not_retried(get, server, code, message):
    server.behaviours = [status(code)]
    with pytest.raises(ValueError, match=message):
        get()
    assert len(server.requests) == 1


@pytest.mark.parametrize("code", [429, 500, 503])
def test_busy_servers_are_retried(get, server, code):
    server.behaviours = [status(code, **{"Retry-After": "0"})] * 2
    lines = []
    assert get(report=lines.append).read_bytes() == CONTENT
    assert len(server.requests) == 3
    assert f"HTTP {code}" in lines[0]


def test_silence_is_retried(get, server, monkeypatch):
    monkeypatch.setattr(transfer, "_TIMEOUT", 0.2)
    server.behaviours = [lambda handler: time.sleep(0.5)]
    assert get().read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_offline(get, server, monkeypatch):
    for variable in ("KERAS_VIT_OFFLINE", "HF_HUB_OFFLINE"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, "1")
            with pytest.raises(ValueError, match=r"is not in the cache.*network.*copy the folder"):
                get()
    assert server.requests == []
    monkeypatch.setenv("KERAS_VIT_OFFLINE", "1")
    assert get(offline=False).read_bytes() == CONTENT, "an argument goes before the environment"


def test_no_network(tmp_path, server):
    with pytest.raises(ValueError, match=r"b\.npz cannot be reached.*Without a network"):
        fetch("http://127.0.0.1:9/b.npz", cache_dir=tmp_path)


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


@pytest.mark.parametrize(
    ("body", "message"), [(b"", "it is empty"), (b"\n<!DOCTYPE html><html>", "it is a web page")]
)
def test_what_is_no_file_is_not_kept(get, server, tmp_path, body, message):
    server.content = body
    with pytest.raises(ValueError, match=rf"model\.npz: what arrived is not the file: {message}"):
        get()
    assert not list(tmp_path.rglob("model.npz*"))
    server.content = CONTENT  # after the login
    assert get().read_bytes() == CONTENT


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


def test_a_full_disk_keeps_what_arrived(get, server, tmp_path):
    path = get()
    path.unlink()
    part = path.with_name(path.name + ".part")
    part.symlink_to("/dev/full")
    with pytest.raises(ValueError, match=r"model\.npz: the disk of .* is full.*goes on"):
        get()
    assert part.is_symlink()


def test_a_cache_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot be used.*KERAS_VIT_CACHE"):
        fetch(f"{server.url}/a.npz", cache_dir=tmp_path / "file")


def test_threads_that_want_the_same_file_download_it_once(get, server):
    def slow(handler):
        time.sleep(0.3)
        well_behaved(handler)

    server.behaviours = [slow]
    lines, results = [], []
    threads = [
        threading.Thread(target=lambda: results.append(get(report=lines.append).read_bytes()))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [CONTENT] * 3
    assert len(server.requests) == 1
    assert any("waiting for another download" in line for line in lines)


# The package's __init__ imports TensorFlow, which takes longer than all of these tests: the
# child leaves it out.
CHILD = """
import sys, types
package = types.ModuleType("keras_vit")
package.__path__ = [sys.argv[1]]
sys.modules["keras_vit"] = package
from keras_vit.weights.addresses import fetch
print(fetch(sys.argv[2], cache_dir=sys.argv[3]))
assert "huggingface_hub" not in sys.modules and "rich" not in sys.modules
"""


def start_child(server, tmp_path):
    package = Path(addresses.__file__).parents[1]
    arguments = [str(package), f"{server.url}/model.npz", str(tmp_path / "cache")]
    return subprocess.Popen([sys.executable, "-c", CHILD, *arguments], stdout=subprocess.PIPE)


def test_a_kill_in_the_middle_is_resumed(get, server, tmp_path):
    stalled, go = threading.Event(), threading.Event()

    def stall(handler):
        half = len(CONTENT) // 2
        handler.answer(200, {"Content-Length": len(CONTENT), "ETag": '"v1"'}, CONTENT[:half])
        stalled.set()
        go.wait(20)

    server.behaviours = [stall]
    with start_child(server, tmp_path) as child:
        assert stalled.wait(20)
        deadline = time.monotonic() + 10
        while not list(tmp_path.rglob("*.part")) or not part_of(tmp_path).stat().st_size:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
        child.wait()
    go.set()
    kept = part_of(tmp_path).stat().st_size
    assert 0 < kept <= len(CONTENT) // 2
    with pytest.raises(ValueError, match="only a part of it is in the cache"):
        get(offline=True)
    path = get()
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={kept}-"]
    assert leftovers(path) == []


def test_a_kill_before_the_rename_needs_no_network(get, server, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(transfer.Transfer, "_finish", lambda transfer: None)
        path = get()
    assert not path.exists()
    assert get().read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_two_processes_download_it_once(server, tmp_path):
    def slow(handler):
        time.sleep(0.5)
        well_behaved(handler)

    server.behaviours = [slow]
    with start_child(server, tmp_path) as one, start_child(server, tmp_path) as two:
        paths = {one.communicate(timeout=30)[0], two.communicate(timeout=30)[0]}
    assert (one.returncode, two.returncode) == (0, 0)
    (path,) = paths
    assert Path(path.decode().strip()).read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_progress_in_lines(get, server, monkeypatch):
    monkeypatch.setattr(transfer, "_CHUNK", 1000)
    lines = []
    get(report=lines.append)
    assert len(lines) == 10
    assert re.fullmatch(
        r"model\.npz: 3\d\.\d kB of 300\.0 kB \(1\d%\), \S+ [kMG]B/s, \d+ s left", lines[0]
    )
    assert "(100%)" in lines[-1]


def test_progress_on_a_terminal(get, server, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    lines = []
    get(report=lines.append)
    assert lines == []
    assert "model.npz" in capsys.readouterr().err


def test_silent_without_a_terminal(get, capfd):
    get()
    assert capfd.readouterr() == ("", "")


# The Hugging Face Hub


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            ["preprocessor_config.json", "config.json", "model.safetensors", "pytorch_model.bin"],
            ["config.json", "preprocessor_config.json", "model.safetensors"],
        ),
        (
            [
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json",
                "pytorch_model.bin",
            ],
            [
                "model.safetensors.index.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
            ],
        ),
        (["config.json", "pytorch_model.bin", "a.npz"], ["config.json", "pytorch_model.bin"]),
        (["README.md", "B_16.npz", "old/model.safetensors"], ["B_16.npz"]),
        (["open_clip_model.safetensors"], ["open_clip_model.safetensors"]),
    ],
)
def test_choice_of_files(names, expected):
    assert choose_files(names) == expected


def test_no_choice_of_files():
    with pytest.raises(ValueError, match=r"no weights.*there is README.md, tf_model.h5"):
        choose_files(["tf_model.h5", "README.md"])
    with pytest.raises(ValueError, match=r"several checkpoints \(a.npz, b.npz\)"):
        choose_files(["b.npz", "a.npz"])


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def fill_hub_cache(cache, files, name="models--org--name"):
    """A cache as the library writes it."""
    repository = cache / name
    snapshot = repository / "snapshots" / COMMIT
    for path, content in files.items():
        blob = repository / "blobs" / hashlib.sha1(content).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        (snapshot / path).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / path).symlink_to(os.path.relpath(blob, (snapshot / path).parent))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return snapshot


FILES = {
    "config.json": b"{}",
    "preprocessor_config.json": b'{"size": 224}',
    "model.safetensors": CONTENT,
    "pytorch_model.bin": b"pickle",
    "sub/B 16.npz": b"npz",
    "README.md": b"words",
}


@pytest.mark.parametrize("source", ["hf://org/name", "hf://org/name/", f"hf://org/name@{COMMIT}"])
def test_hub_offline(tmp_path, monkeypatch, source):
    snapshot = fill_hub_cache(tmp_path, FILES)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert fetch(source, offline=True) == snapshot
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch("hf://org/name@main/sub/B 16.npz").read_bytes() == b"npz"


def test_hub_offline_miss(tmp_path):
    fill_hub_cache(tmp_path, {"config.json": b"{}"})
    for source in (
        "hf://org/name",  # interrupted: the weights did not arrive
        "hf://org/other",
        "hf://org/name@v2",
        "hf://org/name/a.npz",
    ):
        with pytest.raises(ValueError, match=rf"{source} is not in the cache .* copy models--org"):
            fetch(source, offline=True, cache_dir=tmp_path)


def test_hub_offline_with_a_missing_shard(tmp_path):
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    index = json.dumps({"weight_map": {"a": shards[0], "b": shards[1]}}).encode()
    files = {"model.safetensors.index.json": index, shards[0]: b"1"}
    fill_hub_cache(tmp_path, files)
    with pytest.raises(ValueError, match="is not in the cache"):
        fetch("hf://org/name", offline=True, cache_dir=tmp_path)
    fill_hub_cache(tmp_path, files | {shards[1]: b"2"}, "models--org--whole")
    assert fetch("hf://org/whole", offline=True, cache_dir=tmp_path).is_dir()


@pytest.mark.parametrize(
    "source",
    [
        "hf://",
        "hf://name",
        "hf://org/name@",
        "hf://org/../../etc",
        "hf://org/name/../../x",
        "hf://org/name@..%2F..%2Fx",
        "hf://../name",
        "hf://org/name/a\\..\\b",
        "hf://org/name?x",
    ],
)
def test_hub_addresses_that_are_refused(tmp_path, source):
    with pytest.raises(ValueError, match="is not an address of the Hugging Face Hub"):
        fetch(source, cache_dir=tmp_path, offline=True)


@pytest.fixture
def hub(server, tmp_path, monkeypatch):
    """A Hub on this machine: a function that puts one repository there."""
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))

    def put(files, revision="main"):
        siblings = [{"rfilename": path, "size": len(files[path])} for path in files]
        info = {"id": "org/name", "modelId": "org/name", "sha": COMMIT, "siblings": siblings}
        tree = [
            {
                "type": "file",
                "path": path,
                "size": len(content),
                "oid": hashlib.sha1(content).hexdigest(),
            }
            for path, content in files.items()
        ]
        as_json = {"Content-Type": "application/json"}
        api = "/api/models/org/name"
        for name in {revision, COMMIT}:
            info_body, tree_body = json.dumps(info).encode(), json.dumps(tree).encode()
            server.routes[f"{api}/revision/{name}"] = (200, as_json, info_body)
            server.routes[f"{api}/tree/{name}"] = (200, as_json, tree_body)
            for path, content in files.items():
                etag = f'"{hashlib.sha1(content).hexdigest()}"'
                headers = {"ETag": etag, "X-Repo-Commit": COMMIT}
                resolve = f"/org/name/resolve/{name}/{urllib.parse.quote(path)}"
                server.routes[resolve] = (200, headers, content)
        server.routes[api] = server.routes[f"{api}/revision/{revision}"]

    return put


def fetched(server):
    return sorted(path for method, path, _ in server.requests if "/resolve/" in path)


def test_hub_online_takes_safetensors_only(hub, server, tmp_path, monkeypatch):
    hub(FILES)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    lines = []
    folder = fetch("hf://org/name", report=lines.append)
    assert folder.is_relative_to(tmp_path / "hub" / "models--org--name")
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    assert (folder / "model.safetensors").read_bytes() == CONTENT
    assert "3 files, 300.0 kB: config.json" in lines[0]
    assert not any("bin" in path for path in fetched(server))
    assert server.requests[0][2]["authorization"] == "Bearer hf_secret"
    server.requests.clear()
    assert fetch("hf://org/name", offline=True) == folder
    assert server.requests == []
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert fetch("hf://org/name", report=lines.append) == folder, "no network is no reason to stop"
    assert "using the cache" in lines[-1]


def test_hub_online_without_safetensors(hub, server):
    hub({"config.json": b"{}", "pytorch_model.bin": b"pickle"}, revision="refs%2Fpr%2F1")
    folder = fetch("hf://org/name@refs/pr/1")
    assert (folder / "pytorch_model.bin").read_bytes() == b"pickle"


def test_hub_online_one_file(hub, server):
    hub(FILES)
    assert fetch("hf://org/name@main/sub/B 16.npz").read_bytes() == b"npz"
    assert {urllib.parse.unquote(path) for path in fetched(server)} == {
        "/org/name/resolve/main/sub/B 16.npz"
    }


def test_hub_refusals(hub, server):
    hub({"a.npz": b"1", "b.npz": b"2"})
    with pytest.raises(ValueError, match=r"several checkpoints.*hf://org/name/<path"):
        fetch("hf://org/name")

    def answers(code, error_code=None):
        headers = {"X-Error-Code": error_code} if error_code else {}
        for path in list(server.routes):
            server.routes[path] = (code, headers, b"")
        with pytest.raises(ValueError, match="hf://org/name") as raised:
            fetch("hf://org/name")
        return str(raised.value)

    assert "gated: accept its terms" in answers(403, "GatedRepo")
    assert "check the name, or set HF_TOKEN" in answers(404, "RepoNotFound")
    assert "HTTP 401" in answers(401)
    assert "no revision 'main'" in answers(404, "RevisionNotFound")
    assert "HTTP 403" in answers(403)
    assert "cannot be reached" in answers(500)
    hub({"a.npz": b"1"})
    with pytest.raises(ValueError, match=r"has no file 'c\.npz': see http.*/org/name/tree/main"):
        fetch("hf://org/name/c.npz")


def test_hub_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for source in ("hf://org/name", "hf://org/name/a.npz"):
        with pytest.raises(ValueError, match=f"{source}: http://127.0.0.1:9 cannot be reached"):
            fetch(source, cache_dir=tmp_path)
