"""Reading npz files that may be damaged or hostile."""

import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from weight_files import Marker, npy, npy_of, read_all, write_npz

from keras_vit.weights.arrays import open_arrays


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
