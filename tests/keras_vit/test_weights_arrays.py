"""Reading checkpoints: what works, and files that are cut short, flipped, or something else."""

import json
import os
import struct
import sys
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from weight_files import (
    BRAIN,
    PLAIN,
    assert_same,
    fails_by_name,
    npy,
    npy_of,
    read_all,
    small_files,
    write_npz,
    write_raw,
    write_safetensors,
    write_shards,
)

from keras_vit.weights.arrays import open_arrays


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, save):
    save(tmp_path / "a.npz", **PLAIN)
    assert_same(read_all(tmp_path / "a.npz"), PLAIN)
    with open_arrays(str(tmp_path / "a.npz")) as arrays:
        assert list(arrays) == list(PLAIN)
        assert len(arrays) == len(PLAIN)
        assert arrays.shape("blocks/0/kernel") == (3, 4)
        assert arrays.infos["half"].dtype == "float16"
        assert arrays.metadata == {}
        assert arrays.path == tmp_path / "a.npz"
        assert "no" not in arrays
        with pytest.raises(KeyError):
            arrays["no"]


def test_npz_with_bfloat16_as_big_vision_writes_it(tmp_path):
    np.savez(tmp_path / "a.npz", **{"params/kernel": BRAIN, "raw": BRAIN.view("V2")})
    assert_same(read_all(tmp_path / "a.npz"), {"params/kernel": BRAIN, "raw": BRAIN})
    with open_arrays(tmp_path / "a.npz") as arrays:
        assert arrays.infos["params/kernel"].dtype == "bfloat16"


def test_npz_in_the_order_of_fortran_and_of_other_machines(tmp_path):
    value = np.arange(24, dtype="float32").reshape(2, 3, 4)
    both = np.asfortranarray(value.astype(">f4"))
    brain = np.asfortranarray(BRAIN)
    arrays = {"fortran": np.asfortranarray(value), "big": value.astype(">f4"), "both": both}
    np.savez(tmp_path / "a.npz", **arrays, brain=brain)
    expected = {"fortran": value, "big": value, "both": value, "brain": BRAIN}
    assert_same(read_all(tmp_path / "a.npz"), expected)


def test_npz_of_python_2_and_of_version_2(tmp_path):
    old = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2L,), }", b"\0" * 8)
    new = npy_of(np.ones(3), version=(2, 0))
    write_npz(tmp_path / "a.npz", [("old.npy", old), ("new.npy", new), ("README", b"hello")])
    assert_same(read_all(tmp_path / "a.npz"), {"old": np.zeros(2, "float32"), "new": np.ones(3)})


def test_safetensors(tmp_path):
    expected = PLAIN | {"bf16": BRAIN, "f8": BRAIN.astype(ml_dtypes.float8_e4m3fn)}
    path = write_safetensors(tmp_path / "a.bin", expected, {"format": "pt"})
    assert_same(read_all(path), expected)
    with open_arrays(path) as arrays:
        assert arrays.infos["bf16"].dtype == "bfloat16"
        assert arrays.metadata == {"format": "pt"}


@pytest.mark.parametrize("length", [0x0280, 0x0580, 0x4B50])
def test_safetensors_whose_length_looks_like_another_format(tmp_path, length):
    header = {"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}
    text = json.dumps(header).encode().ljust(length)
    found = read_all(write_raw(tmp_path / "a.safetensors", text, b"\1\2"))
    assert found["a"].tolist() == [1, 2]


def test_safetensors_behind_two_gigabytes(tmp_path):
    begin = 2**31 + 8  # offsets are no shape: their product may be anything
    header = {
        "far": {"dtype": "F32", "shape": [1], "data_offsets": [begin, begin + 4]},
        "big": {"dtype": "U8", "shape": [begin], "data_offsets": [0, begin]},
    }
    path = write_raw(tmp_path / "a.safetensors", header)
    start = path.stat().st_size
    with path.open("r+b") as stream:  # sparse: takes no room
        stream.seek(start + begin)
        stream.write(struct.pack("<f", 1.5))
    with open_arrays(path) as arrays:
        assert arrays["far"].tolist() == [1.5]


def test_shards(tmp_path):
    expected = {"a": PLAIN["half"], "b": BRAIN}
    assert_same(read_all(write_shards(tmp_path)), expected)
    assert_same(read_all(tmp_path), expected)


def test_a_folder_gives_the_best_that_it_holds(tmp_path):
    with pytest.raises(ValueError, match=r"holds no checkpoint.*it holds nothing"):
        open_arrays(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"it holds config\.json"):
        open_arrays(tmp_path)
    np.savez(tmp_path / "a.npz", npz=np.zeros(1))
    assert list(read_all(tmp_path)) == ["npz"]
    np.savez(tmp_path / "b.npz", npz=np.zeros(1))
    with pytest.raises(ValueError, match=r"several.*a\.npz, b\.npz"):
        open_arrays(tmp_path)
    write_safetensors(tmp_path / "weights.bin", {"bin": BRAIN})  # the content decides
    assert list(read_all(tmp_path)) == ["bin"]
    (tmp_path / "optimizer.pt").touch()
    with pytest.raises(ValueError, match=r"several.*optimizer\.pt, weights\.bin"):
        open_arrays(tmp_path)
    write_shards(tmp_path)
    assert list(read_all(tmp_path)) == ["a", "b"]
    write_safetensors(tmp_path / "model.safetensors", {"single": BRAIN})
    assert list(read_all(tmp_path)) == ["single"]


@pytest.mark.parametrize("kind", ["npz", "safetensors", "shards"])
def test_closing_releases_the_file(tmp_path, kind):
    path = tmp_path / "a"
    if kind == "npz":
        with path.open("wb") as stream:
            np.savez(stream, a=np.ones(2))
    elif kind == "safetensors":
        write_safetensors(path, {"a": np.ones(2)})
    else:
        path = write_shards(tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir())) if sys.platform == "linux" else 0
    arrays = open_arrays(path)
    kept = arrays["a"]
    arrays.close()
    arrays.close()
    with pytest.raises(ValueError, match="is closed"):
        arrays["a"]
    assert kept.sum() == kept.sum()  # still there
    del kept, arrays
    if sys.platform == "linux":
        assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_one_array_takes_the_memory_of_one_array(tmp_path):
    size = 64 * 2**20
    np.savez(tmp_path / "a.npz", a=np.zeros(size, "uint8"), b=np.zeros(size, "uint8"))
    with open_arrays(tmp_path / "a.npz") as arrays:
        tracemalloc.start()
        try:
            arrays["a"]
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert size <= peak < 1.5 * size


@pytest.mark.parametrize("part", range(20))
@pytest.mark.parametrize("name", ["plain.npz", "deflated.npz", "plain.safetensors"])
def test_a_file_cut_short(tmp_path, name, part):
    content = small_files(tmp_path)[name]
    (tmp_path / name).write_bytes(content[: len(content) * part // 20])
    with pytest.raises(ValueError, match=r"is empty|damaged|expected are") as raised:
        read_all(tmp_path / name)
    assert name in str(raised.value)


@pytest.mark.parametrize("name", ["plain.npz", "deflated.npz", "plain.safetensors"])
def test_flipped_bytes_give_arrays_or_a_value_error(tmp_path, name):
    content = small_files(tmp_path)[name]
    rng = np.random.default_rng(0)
    failed = 0
    for turn in range(300):
        changed = bytearray(content)
        # one alone in the first 200
        for place in rng.integers(0, len(content), 1 if turn < 200 else 3):
            changed[place] ^= rng.integers(1, 256)
        (tmp_path / name).write_bytes(changed)
        failed += fails_by_name(tmp_path / name)
    assert failed > 20


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html>", "is a web page"),
        (b"<html><body>404", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 64, "is an HDF5 file"),
        (b"hello", "begins with b'hello'"),
        (b"PK", "table of contents"),
        (b"PK\3\4" + b"\0" * 100, "table of contents"),
    ],
)
def test_something_else(tmp_path, content, message):
    for name in ("a.npz", "a.safetensors", "pytorch_model.bin"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message) as raised:
            open_arrays(tmp_path / name)
        assert name in str(raised.value)


def test_other_archives_and_no_files(tmp_path):
    path = write_npz(tmp_path / "a.zip", [("photo.jpg", b"")])
    with pytest.raises(ValueError, match="zip archive without arrays"):
        open_arrays(path)
    path = write_npz(tmp_path / "a.keras", [("config.json", b""), ("model.weights.h5", b"")])
    with pytest.raises(ValueError, match="load_model"):
        open_arrays(path)
    with pytest.raises(ValueError, match="There is no file"):
        open_arrays(tmp_path / "none.npz")
    with pytest.raises(ValueError, match="There is no file"):
        open_arrays("a\0b")
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(ValueError, match="There is no file"):
        open_arrays(tmp_path / "pipe.npz")
