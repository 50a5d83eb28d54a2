"""Files of weights, whole and damaged, and how they are read."""

import io
import json
import struct
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


class Marker:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


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
