"""Reading checkpoints that may be damaged or hostile."""

import collections
import io
import json
import os
import pickle
import struct
import sys
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from keras_vit.weights.arrays import open_arrays

RNG = np.random.default_rng(0)
PLAIN = {
    "blocks/0/kernel": RNG.normal(size=(3, 4)).astype("float32"),
    "half": RNG.normal(size=(5,)).astype("float16"),
    "double": RNG.normal(size=(2, 2, 2)),
    "scalar": np.array(3.5, "float32"),
    "empty": np.zeros((0, 7), "float32"),
    "count": np.array([1, -2, 3]),
    "byte": np.arange(4, dtype="uint8"),
    "yes": np.array([True, False]),
}
BRAIN = RNG.normal(size=(4, 3)).astype(ml_dtypes.bfloat16)


def write_safetensors(path, arrays, metadata=None):
    from safetensors.numpy import save_file

    save_file(arrays, path, metadata=metadata)
    return path


def write_raw(path, header, data=b"", length=None):
    """A safetensors file with whatever header: an object, or the bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if length is None else length
    path.write_bytes(struct.pack("<Q", length) + text + data)
    return path


def write_npz(path, members, compression=zipfile.ZIP_STORED):
    """A zip archive with whatever bytes."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def npy(header, data=b"", version=(1, 0)):
    text = header.encode() + b"\n"
    length = struct.pack("<H" if version[0] == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text + data


def npy_of(array, **options):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, **options)
    return stream.getvalue()


def read_all(path):
    with open_arrays(path) as arrays:
        return {name: np.array(arrays[name]) for name in arrays}


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert found[name].shape == value.shape, name
        np.testing.assert_array_equal(found[name], value)


# --- what works


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


def write_shards(folder, weight_map=None):
    write_safetensors(folder / "model-00001-of-00002.safetensors", {"a": PLAIN["half"]})
    write_safetensors(folder / "model-00002-of-00002.safetensors", {"b": BRAIN})
    weight_map = weight_map or {
        "a": "model-00001-of-00002.safetensors",
        "b": "model-00002-of-00002.safetensors",
    }
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


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


# --- hostile and damaged: npz


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 1000000000)}", "shape"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000,)}", "declares 1000000000"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (-4, -4)}", "shape"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 10000000000000000000)}", "shape"),
        (f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({'1,' * 40})}}", "shape"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (8,)}", "would need pickle"),
        ("{'descr': '|V3', 'fortran_order': False, 'shape': (8,)}", "dtype"),
        ("{'descr': '|S0', 'fortran_order': False, 'shape': (8,)}", "dtype"),
        ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (8,)}", "dtype"),
        # two bytes, as bfloat16 has
        ("{'descr': [('a', '<f2')], 'fortran_order': False, 'shape': (16,)}", "dtype"),
        ("{'descr': ('|u1', (2,)), 'fortran_order': False, 'shape': (16,)}", "dtype"),
        # more digits than Python prints
        (f"{{'descr': '<f4', 'fortran_order': False, 'shape': (0x{'f' * 8_000},)}}", "shape"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (8,), 'more': 1}", "header"),
        ("{'descr': " + "-" * 9_000 + "1}", "header"),
        ("(" * 9_000, "header"),
        ("9" * 9_000, "header"),
        (" " * 60_000, "header"),
        ("__import__('os').system('true')", "header"),
        ("", "header"),
    ],
)
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (9, 0)])
def test_npz_headers(tmp_path, header, message, version):
    path = write_npz(tmp_path / "a.npz", [("a.npy", npy(header, b"\0" * 32, version))])
    message = "version" if version == (9, 0) else message
    with pytest.raises(ValueError, match=message) as raised:
        open_arrays(path)
    assert str(path) in str(raised.value)
    assert len(str(raised.value)) < 1_000


def test_npz_with_a_long_header_in_a_bomb(tmp_path):
    start = b"\x93NUMPY\2\0" + struct.pack("<I", 2**31)
    content = start + b" " * 2**24
    path = write_npz(tmp_path / "a.npz", [("a.npy", content)], zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="header"):
            open_arrays(path)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_npz_with_pickled_objects(tmp_path):
    marker = tmp_path / "ran"
    np.savez(tmp_path / "a.npz", a=np.array([Marker(marker)], object))
    with pytest.raises(ValueError, match="would need pickle"):
        open_arrays(tmp_path / "a.npz")
    assert not marker.exists()


def test_npz_with_a_name_twice(tmp_path):
    content = npy_of(np.ones(2))
    with pytest.warns(UserWarning, match="Duplicate"):
        write_npz(tmp_path / "a.npz", [("a.npy", content), ("a.npy", content)])
    with pytest.raises(ValueError, match="'a' comes twice"):
        open_arrays(tmp_path / "a.npz")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_npz_that_numpy_did_not_write(tmp_path, method):
    path = write_npz(tmp_path / "a.npz", [("a.npy", npy_of(np.ones(2)))], method)
    with pytest.raises(ValueError, match="numpy never uses"):
        open_arrays(path)


def with_field(path, offset, value):
    """Write a number into both headers of the only member of an archive."""
    content = bytearray(path.read_bytes())
    for start in (content.index(b"PK\x03\x04") + 6, content.index(b"PK\x01\x02") + 8):
        content[start + offset : start + offset + 2] = struct.pack("<H", value)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (0, 0x01, "encrypted"),
        (0, 0x41, "encryption"),  # strong
        (0, 0x20, "patched"),
        (2, 99, "numpy never uses"),  # a method of compression that does not exist
        (-2, 0xFF, "zip file version"),
    ],
)
def test_npz_with_what_zip_allows_and_nobody_uses(tmp_path, offset, value, message):
    path = write_npz(tmp_path / "a.npz", [("a.npy", npy_of(np.ones(2)))])
    with_field(path, offset, value)
    with pytest.raises(ValueError, match=message) as raised:
        open_arrays(path)
    assert str(path) in str(raised.value)


def test_npz_that_bears_one_name_outside_and_one_inside(tmp_path):
    path = write_npz(tmp_path / "a.npz", [("a.npy", npy_of(np.ones(2)))])
    path.write_bytes(path.read_bytes().replace(b"a.npy", b"b.npy", 1))
    with pytest.raises(ValueError, match="differ") as raised:
        open_arrays(path)
    assert str(path) in str(raised.value)


def with_sizes(path, compressed=None, size=None):
    """Write other sizes into the table of contents of an archive with one member."""
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    if compressed is not None:
        content[entry + 20 : entry + 24] = struct.pack("<I", compressed)
    if size is not None:
        content[entry + 24 : entry + 28] = struct.pack("<I", size)
    path.write_bytes(content)


def test_npz_bombs(tmp_path):
    path = tmp_path / "a.npz"
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (4000000000,)}"
    claim = npy(header)
    for method, message in [(zipfile.ZIP_DEFLATED, "grow more than 1100"), (0, "more than 1 ")]:
        write_npz(path, [("a.npy", claim + b"\0" * 4_000)], method)
        with_sizes(path, size=len(claim) + 4_000_000_000)
        with pytest.raises(ValueError, match=message):
            open_arrays(path)
    write_npz(path, [("a.npy", claim + b"\0" * 4_000)])
    with_sizes(path, len(claim) + 4_000_000_000, len(claim) + 4_000_000_000)
    with pytest.raises(ValueError, match="beyond the end"):
        open_arrays(path)


@pytest.mark.parametrize(("held", "declared"), [(1_000_000, 1_000), (1_000, 100_000)])
def test_npz_whose_member_holds_more_or_less_than_it_says(tmp_path, held, declared):
    path = tmp_path / "a.npz"
    claim = npy(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({declared},)}}")
    noise = np.random.default_rng(0).integers(0, 256, held, np.uint8).tobytes()
    write_npz(path, [("a.npy", claim + noise)], zipfile.ZIP_DEFLATED)
    with_sizes(path, size=len(claim) + declared)
    with pytest.raises(ValueError, match="'a'"):
        read_all(path)


def test_npz_with_a_wrong_checksum(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.ones(10_000), b=np.ones(1))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[50_000] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    with open_arrays(tmp_path / "a.npz") as arrays:
        assert arrays["b"] == 1  # the others are fine
        with pytest.raises(ValueError, match="CRC"):
            arrays["a"]


# --- hostile and damaged: safetensors


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


# --- cut short, flipped, and something else


def small_files(folder):
    arrays = {"a/b": np.arange(200, dtype="float32"), "c": np.ones((3, 5), "float16")}
    np.savez(folder / "plain.npz", **arrays)
    np.savez_compressed(folder / "deflated.npz", **arrays)
    write_safetensors(folder / "plain.safetensors", arrays | {"d": BRAIN})
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def fails_by_name(path):
    """Whether a file is refused, with an error that names it; any other error is none of ours."""
    try:
        read_all(path)
    except ValueError as error:
        return path.name in str(error) or pytest.fail(f"does not name the file: {error}")
    return False


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


# --- PyTorch


class Marker:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def tensors(torch):
    return {
        "blocks.0.weight": torch.arange(6.0).reshape(2, 3),
        "t": torch.arange(6.0).reshape(2, 3).T,
        "bf16": torch.ones(2, 2).to(torch.bfloat16),
        "f8": torch.ones(2).to(torch.float8_e4m3fn),
        "half": torch.ones(3).half(),
        "long": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "keys", [[], ["model"], ["state_dict"], ["module"], ["model_ema"], ["model", "state_dict"]]
)
def test_torch(tmp_path, zipped, keys):
    torch = pytest.importorskip("torch")
    expected = content = tensors(torch)
    if not zipped:
        expected.pop("f8")  # is newer than that format
    for key in reversed(keys):
        content = {"epoch": 3, key: content}
    path = tmp_path / "a.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    found = read_all(path)
    assert list(found) == list(expected)
    assert found["bf16"].dtype == ml_dtypes.bfloat16
    assert not zipped or found["f8"].dtype == ml_dtypes.float8_e4m3fn
    assert found["long"].dtype == np.int64
    assert found["long"] == 7
    assert found["t"].tolist() == [[0, 3], [1, 4], [2, 5]]
    with open_arrays(path) as arrays:
        assert arrays.shape("t") == (3, 2)
        assert arrays.infos["bf16"].dtype == "bfloat16"
    assert_same(read_all(tmp_path), found)  # the only one of its folder


def test_torch_of_views(tmp_path):
    torch = pytest.importorskip("torch")
    wide = torch.arange(6.0).reshape(2, 3)
    content = {
        "bf16": torch._neg_view(wide.to(torch.bfloat16)),  # what torch cannot view as bits
        "f32": torch._neg_view(wide),
        "c64": (wide + 1j).conj(),
        "slice": wide[:, 1:].T,
    }
    torch.save(content, tmp_path / "a.pth")
    found = read_all(tmp_path / "a.pth")
    assert found["bf16"].tolist() == found["f32"].tolist() == [[0, -1, -2], [-3, -4, -5]]
    assert found["c64"].imag.tolist() == [[-1] * 3] * 2
    assert found["slice"].tolist() == [[1, 4], [2, 5]]


def test_torch_prefers_the_average_as_timm_does(tmp_path):
    torch = pytest.importorskip("torch")
    content = {"model": {"m": torch.ones(1)}, "model_ema": {"_orig_mod.module.e": torch.ones(1)}}
    torch.save(content, tmp_path / "pytorch_model.bin")
    torch.save({}, tmp_path / "training_args.bin")
    assert list(read_all(tmp_path)) == ["e"]


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_runs_nothing(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    marker = tmp_path / "ran"
    content = {"w": torch.ones(1), "args": Marker(marker)}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    for protocol in range(2, 6):
        (tmp_path / f"{protocol}.pkl").write_bytes(pickle.dumps(Marker(marker), protocol))
    write_npz(tmp_path / "b.pth", [("a/data.pkl", pickle.dumps(Marker(marker)))])
    for name in ["a.pth", "b.pth", "2.pkl", "3.pkl", "4.pkl", "5.pkl"]:
        with pytest.raises(ValueError, match=r"(?s)(?=.*is not loaded)(?=.*code)") as raised:
            open_arrays(tmp_path / name)
        assert name in str(raised.value)
    assert not marker.exists()
    with pytest.raises(ValueError, match="wants to run code"):
        open_arrays(tmp_path / "a.pth")
    torch.load(tmp_path / "a.pth", weights_only=False)  # the marker is one that works
    assert marker.exists()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_torch_files_that_hold_no_arrays(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "a.pth"
    for content, message in [
        ([torch.ones(1)], "holds a list"),
        ({"student": {"w": torch.ones(1)}}, "no tensors.*student"),
        ({"w": torch.ones(1).expand(10**9, 10**3)}, "larger than what is stored"),
        ({"w": torch.eye(2).to_sparse()}, "sparse"),
        ({"w": torch.ones(1, device="meta")}, "meta"),
        ({"w": torch.nested.nested_tensor([torch.ones(1), torch.ones(2)])}, "nested"),
        ({3: 4}, "no tensors"),
    ]:
        torch.save(content, path)
        with pytest.raises(ValueError, match=message):
            open_arrays(path)
    torch.save({"w": torch.ones(9)}, path)
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    with pytest.raises(ValueError, match="compressed"):
        open_arrays(write_npz(path, members, zipfile.ZIP_DEFLATED))


class Rebuilt:
    """A tensor whose file says where it lies in its storage."""

    def __init__(self, rebuild, storage, offset, size, stride):
        self.parts = rebuild, (storage, offset, size, stride, False, collections.OrderedDict())

    def __reduce__(self):
        return self.parts


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(0, 10**12, 1), (0, 10**7, 1), (-4, 2, 1), (10**7, 2, 1), (0, 2, 10**7), (0, 2, -1)],
)
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_torch_tensors_outside_of_their_storage(tmp_path, zipped, offset, size, stride):
    torch = pytest.importorskip("torch")
    rebuild, storage = torch._utils._rebuild_tensor_v2, torch.ones(4).storage()
    content = {"w": Rebuilt(rebuild, storage, offset, (size,), (stride,))}
    path = tmp_path / "a.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"a\.pth"):
        read_all(path)


def test_torch_files_that_are_nested_deeply(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "a.pth"
    # {((((...)))): 1}, which pickle itself would not write
    start = b"\x80\2}" + b")" + b"\x85" * 3_000 + b"K\1s."
    write_npz(path, [("a/data.pkl", start), ("a/version", b"3\n"), ("a/byteorder", b"little")])
    assert isinstance(torch.load(path, weights_only=True), dict)  # nothing that torch refuses
    with pytest.raises(ValueError, match=r"a\.pth is damaged.*nested too deeply"):
        open_arrays(path)


def test_torch_files_that_are_tar_archives(tmp_path):
    pytest.importorskip("torch")
    member = tarfile.TarInfo("??sys_info")
    for kind, count in [(tarfile.REGTYPE, 1), (tarfile.XHDTYPE, 3_000)]:  # a chain of extensions
        member.type = kind
        block = bytearray(member.tobuf(tarfile.USTAR_FORMAT))
        block[:2], block[148:156] = b"\x80\2", b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)  # its checksum
        path = tmp_path / "a.pth"
        path.write_bytes(bytes(block) * count + b"\0" * 1024)
        assert count > 1 or tarfile.is_tarfile(path)
        with pytest.raises(ValueError, match=r"a\.pth is not loaded"):
            open_arrays(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_cut_short_or_flipped(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    path = tmp_path / "a.pth"
    content = tensors(torch)
    content.pop("f8")
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for part in range(20):
        path.write_bytes(content[: len(content) * part // 20])
        with pytest.raises(ValueError, match=r"a\.pth"):
            read_all(path)
    for _ in range(50):
        changed = bytearray(content)
        changed[rng.integers(0, len(content))] = rng.integers(0, 256)
        path.write_bytes(changed)
        fails_by_name(path)


def test_without_torch_or_with_an_old_one(tmp_path, monkeypatch):
    marker = tmp_path / "ran"
    code = pickle.dumps(Marker(marker), 2)
    path = write_npz(tmp_path / "a.pth", [("a/data.pkl", code)])
    (tmp_path / "old.pth").write_bytes(code)
    monkeypatch.setitem(sys.modules, "torch", None)
    for file in (path, tmp_path / "old.pth"):
        with pytest.raises(ValueError, match=r"install torch, or convert") as raised:
            open_arrays(file)
        assert str(file) in str(raised.value)
        call = f"torch.load('{file.name}', weights_only=True), \"model.safetensors\""
        assert call in str(raised.value)
    monkeypatch.setitem(sys.modules, "torch", type(sys)("torch"))
    sys.modules["torch"].__version__ = "2.9.1+cpu"
    with pytest.raises(ValueError, match=r"needs torch 2\.10 or newer"):
        open_arrays(path)
    assert not marker.exists()
