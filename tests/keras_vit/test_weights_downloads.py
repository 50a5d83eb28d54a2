"""Downloads from a server on this machine that behaves well or badly."""

import hashlib
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from download_server import CONTENT, SHA256, cut, no_ranges, status, well_behaved

from keras_vit.weights import addresses, transfer
from keras_vit.weights.addresses import fetch

pytestmark = pytest.mark.usefixtures("download_environment")


def leftovers(path):
    return sorted(p.name for p in path.parent.iterdir() if "part" in p.name)


def part_of(tmp_path):
    (folder,) = (tmp_path / "cache" / "downloads").iterdir()
    return folder / "model.npz.part"


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
