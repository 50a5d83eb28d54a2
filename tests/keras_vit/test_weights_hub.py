"""The Hugging Face Hub: its cache, and a Hub on this machine."""

import hashlib
import json
import os
import urllib.parse

import pytest
from download_server import CONTENT

from keras_vit.weights.addresses import choose_files, fetch

pytestmark = pytest.mark.usefixtures("download_environment")


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
