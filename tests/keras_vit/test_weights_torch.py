"""Reading the files of PyTorch, which may be damaged or hostile."""

import collections
import pickle
import sys
import tarfile
import zipfile

import ml_dtypes
import numpy as np
import pytest
from weight_files import Marker, assert_same, fails_by_name, read_all, write_npz

from keras_vit.weights.arrays import open_arrays


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
