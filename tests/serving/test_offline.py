"""Prediction without a server: every image has its row."""

import shutil
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from colour_model import COLOURS, png
from offline_runs import predict, rows, shards

from serving.offline.images import FileImages
from serving.offline.model import OfflineModel, find_version
from serving.offline.output import Settings
from serving.offline.prediction import ahead, predict_offline


def test_every_image_has_one_row_in_order(base, photos, tmp_path):
    summary = predict(base, photos, tmp_path / "out")
    assert (summary.images, summary.invalid, summary.shards) == (9, 2, 3)
    assert [path.name for path in shards(tmp_path / "out")] == [
        f"part-0000{number}-of-00003.jsonl" for number in range(3)
    ]
    found = rows(tmp_path / "out")
    names = [row["source"].removeprefix(f"{photos}/") for row in found]
    deep = [f"more/deep/{name}" for name in COLOURS]
    assert names == [*COLOURS, "more/bad.jpg", "more/d.PNG", *deep, "more/empty.png"]
    bad = [row for row in found if not row["valid"]]
    assert [row["source"].rpartition("/")[2] for row in bad] == ["bad.jpg", "empty.png"]
    assert all(row["labels"] == [] == row["scores"] for row in bad)
    assert [row["labels"][0] for row in found[:3]] == ["red", "green", "blue"]


@pytest.mark.parametrize("signature", ["serving_default", "probabilities", "embed", "attention"])
def test_rows_are_the_results_of_the_client(base, server, photos, tmp_path, signature):
    from serving import Client

    predict(base, photos, tmp_path / "out", signature=signature, top_k=2)
    found = rows(tmp_path / "out")
    files = [row["source"] for row in found]
    method = {"serving_default": "predict"}.get(signature, signature)
    options = {"top_k": 2} if method == "predict" else {}
    with Client(server.address, "colours") as client:
        expected = getattr(client, method)(files, **options)
    for row, result in zip(found, expected, strict=True):
        for name, value in row.items():
            wanted = getattr(result, name)
            if isinstance(value, list) and name != "labels":
                assert np.shape(value) == np.shape(wanted) or not np.size(wanted)
                np.testing.assert_allclose(np.ravel(value), np.ravel(wanted), rtol=1e-5, atol=1e-6)
            else:
                assert (tuple(value) if name == "labels" else value) == wanted


@pytest.mark.parametrize("signature", ["serving_default", "probabilities", "embed", "attention"])
def test_parquet_holds_what_json_lines_hold(base, photos, tmp_path, signature):
    pyarrow = pytest.importorskip("pyarrow.dataset", reason="needs pip install pyarrow")
    # A first shard of bad images only: its columns must have types all the same.
    (photos / "0.png").write_bytes(b"")
    for form in ("jsonl", "parquet"):
        predict(base, photos, tmp_path / form, signature=signature, file_format=form, shard_size=1)
    lines = rows(tmp_path / "jsonl")
    # A reader of folders takes the shards and nothing else.
    table = pyarrow.dataset(tmp_path / "parquet", format="parquet").to_table()
    found = table.to_pylist()
    assert len(found) == len(lines) == 10
    for row, line in zip(found, lines, strict=True):
        assert row == line


def test_a_missing_pyarrow_is_named_before_the_work(base, photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"pip install 'keras-vit\[parquet\]'"):
        predict(base, photos, tmp_path / "out", file_format="parquet")
    assert not (tmp_path / "out").exists()


# === The model ===


def test_versions(base, renamed, photos, tmp_path):
    shutil.copytree(renamed, base / "12")
    assert find_version(str(base)).version == 12
    assert find_version(str(base), 1).version == 1
    assert find_version(f"{base}/1/").version == 1
    for path, version, message in [
        (base, 3, "no exported version 3 .there: 1, 12."),
        (tmp_path / "nothing", None, "no exported version .there: none."),
        (base / "1", 2, "its name is not 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            find_version(str(path), version)


def test_what_is_wrong_with_a_model_is_said(base, photos, tmp_path):
    write_without = tf.Module()
    spec = tf.TensorSpec([None], tf.string, "image_bytes")
    embed = tf.function(lambda image_bytes: {"embedding": tf.zeros([1, 2])}, input_signature=[spec])
    tf.saved_model.save(write_without, str(tmp_path / "other" / "1"), signatures={"embed": embed})
    version = find_version(str(tmp_path / "other"))
    for signature in ("serving_default", "embed"):
        with pytest.raises(ValueError, match=f"no signature {signature} with the outputs"):
            OfflineModel(version, signature)
    (base / "1" / "variables" / "variables.index").write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be loaded"):
        predict(base, photos, tmp_path / "out")
    for arguments, message in [
        ({"shard_size": 0}, "shard_size is 0"),
        ({"file_format": "csv"}, "format is 'csv'"),
        ({"signature": "logits"}, "signature is 'logits'"),
        ({"top_k": 0}, "top_k is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            predict(base, photos, tmp_path / "wrong", **arguments)


# === Threads ===


def test_ahead_works_before_it_is_asked_and_hands_errors_on():
    made = []

    def items():
        for number in range(5):
            made.append(number)
            yield number
        raise OSError("the disk")

    taken = ahead(items(), 2)
    assert next(taken) == 0
    deadline = time.monotonic() + 5
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert made == [0, 1, 2]  # two more than was taken, and no others
    assert [next(taken) for _ in range(4)] == [1, 2, 3, 4]
    with pytest.raises(OSError, match="the disk"):
        next(taken)


def test_an_input_that_ends_early_is_no_success(base, tmp_path):
    class Shorter(FileImages):
        def __iter__(self):
            yield from list(super().__iter__())[:1]

    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.png").write_bytes(png((1, 2, 3)))
    images = Shorter([str(tmp_path / f"{name}.png") for name in ("a", "b", "c")])
    for size in (1, 2):
        with pytest.raises(RuntimeError, match="has changed since it was listed"):
            predict_offline(
                find_version(str(base)),
                images,
                str(tmp_path / f"out{size}"),
                Settings(shard_size=size),
            )
