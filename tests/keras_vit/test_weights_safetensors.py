"""Reading safetensors files and their shards, which may be damaged or hostile."""

import os

import numpy as np
import pytest
from weight_files import BRAIN, write_raw, write_safetensors, write_shards

from keras_vit.weights.arrays import open_arrays


def entry(begin=0, end=8, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": entry(), "b": entry(4, 12)}, "'b' begins at 4 where 8"),
        ({"a": entry(), "b": entry(0, 8)}, "'b' begins at 0 where 8"),
        ({"a": entry(), "b": entry(12, 20)}, "'b' begins at 12 where 8"),
        ({"a": entry()}, "its header describes"),
        ({"a": entry(), "b": entry(8, 24, (4,))}, "its header describes"),
        ({"a": entry(-8, 0), "b": entry()}, "offsets"),
        ({"a": entry(8, 0, (-2,))}, "offsets|shape"),
        ({"a": entry(0.0, 8.0)}, "offsets"),
        ({"a": entry(False, True, (1,), "U8")}, "offsets"),
        ({"a": entry(0, 16, (3,))}, "16 bytes, its shape wants 12"),
        ({"a": entry(0, 16, (2**40, 2**40))}, "shape"),
        ({"a": entry(0, 0, (0, 2**63))}, "shape"),
        ({"a": entry(0, 16, (True,))}, "shape"),
        ({"a": entry(0, 16, "4")}, "shape"),
        ({"a": entry(0, 16, (4,), "F4")}, "dtype"),
        ({"a": entry(0, 16, (4,), ["F32"])}, "dtype"),
        ({"a": []}, "incomplete"),
        ({"a": {"dtype": "F32"}}, "incomplete"),
        (b'{"a": 1, "a": 2}', "comes twice"),
        (b'{"a": {"dtype": "F32", "dtype": "F32"}}', "comes twice"),
        (b"[1, 2]", "begins with|not an object"),
        (b"{" + b'"a":{' * 100_000, "JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "JSON"),
        (b'{"\xff": 1}', "JSON"),
        ('{"a": 1}'.encode("utf-16-le"), "JSON"),
        (b'{"a"', "JSON"),
        ({}, "its header describes"),
    ],
)
def test_safetensors_headers(tmp_path, header, message):
    path = write_raw(tmp_path / "a.safetensors", header, b"\0" * 16)
    with pytest.raises(ValueError, match=message) as raised:
        open_arrays(path)
    assert str(path) in str(raised.value)
    assert len(str(raised.value)) < 1_000


@pytest.mark.parametrize("length", [100, 10**8 + 1, 2**40, 2**63, 2**64 - 1])
def test_safetensors_with_a_header_longer_than_the_file(tmp_path, length):
    path = write_raw(tmp_path / "a.safetensors", {"a": entry()}, b"\0" * 8, length)
    with pytest.raises(ValueError, match=f"its header alone wants {length}"):
        open_arrays(path)


@pytest.mark.parametrize(
    "shard",
    [
        "../model.safetensors",
        "/etc/model.safetensors",
        "../x",
        "/etc/passwd",
        "a/b",
        "a/b.safetensors",
        "a\\b.safetensors",
        "C:a.safetensors",
        "..",
        ".",
        "",
        "a\0.safetensors",
        "model.safetensors.index.json",
        "model.bin",
        3,
        None,
        ["a.safetensors"],
    ],
)
def test_shards_lie_beside_their_index(tmp_path, shard):
    (tmp_path / "in").mkdir()
    write_safetensors(tmp_path / "model.safetensors", {"a": BRAIN})
    with pytest.raises(ValueError, match="is not the name of"):
        open_arrays(write_shards(tmp_path / "in", {"a": shard}))


def test_json_of_any_depth(tmp_path):
    for depth in range(800, 1_000, 10):
        nested = b"[" * depth + b"]" * depth
        for text in (b'{"a": {"dtype": %s, "shape": [], "data_offsets": [0, 0]}}', b'{"a": %s}'):
            path = write_raw(tmp_path / "a.safetensors", text % nested)
            with pytest.raises(ValueError, match=r"a\.safetensors"):
                open_arrays(path)


def test_a_shard_that_is_a_pointer(tmp_path):
    index = write_shards(tmp_path)
    shard = tmp_path / "model-00002-of-00002.safetensors"
    shard.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(ValueError, match=f"{shard.name} is a pointer.*git lfs pull"):
        open_arrays(index)


def test_a_file_that_shrinks_or_fails_while_it_is_open(tmp_path, monkeypatch):
    path = write_safetensors(tmp_path / "a.safetensors", {"a": np.ones(9), "b": np.ones(10_000)})
    with open_arrays(path) as arrays:
        os.truncate(path, 40_000)
        with pytest.raises(ValueError, match=r"a\.safetensors is damaged.*cut short"):
            arrays["b"]

        def fails(*unused):
            raise OSError("a bad sector")

        monkeypatch.setattr(arrays, "_read", fails)
        with pytest.raises(ValueError, match=r"'a' of .*a\.safetensors cannot be.*bad sector"):
            arrays["a"]


def test_shards_that_do_not_fit_their_index(tmp_path):
    with pytest.raises(ValueError, match=r"model-3\.safetensors, which is not beside it"):
        open_arrays(write_shards(tmp_path, {"a": "model-3.safetensors"}))
    with pytest.raises(ValueError, match="does not hold 'c'"):
        open_arrays(write_shards(tmp_path, {"c": "model-00001-of-00002.safetensors"}))
    index = tmp_path / "model.safetensors.index.json"
    for text in ("[]", "{}", "", '{"weight_map": []}', '{"weight_map": {}}', "<html>", "{" * 9999):
        index.write_text(text)
        with pytest.raises(ValueError, match=r"weight_map|JSON"):
            open_arrays(index)
    index.write_text('{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}')
    with pytest.raises(ValueError, match="comes twice"):
        open_arrays(index)
