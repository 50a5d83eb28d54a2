"""Prediction without a server on Apache Beam."""

import pickle
import sys

import numpy as np
import pytest
from offline_runs import predict, rows, shards, times

from serving.offline import beam
from serving.offline.images import find_files
from serving.offline.model import OfflineModel, find_version
from serving.offline.output import Output, Settings


def test_the_pipeline_of_beam_writes_the_same(base, photos, tmp_path):
    pytest.importorskip("apache_beam", reason="needs pip install apache_beam")
    predict(base, photos, tmp_path / "here")
    images, version = find_files([str(photos)]), find_version(str(base))
    output, settings = tmp_path / "there", Settings(shard_size=4)
    summary = beam.predict_with_beam(version, images, str(output), settings, batch_size=3)
    assert (summary.images, summary.invalid, summary.finished_before) == (9, 2, 0)
    assert_close(rows(output), rows(tmp_path / "here"))
    # Each goes on with what the other has left.
    before = times(output)
    shards(output)[1].unlink()
    summary = beam.predict_with_beam(version, images, str(output), settings)
    assert summary.finished_before == 2
    shards(output)[2].unlink()
    assert predict(base, photos, output).finished_before == 2
    assert times(output)[shards(output)[0].name] == before[shards(output)[0].name]
    assert_close(rows(output), rows(tmp_path / "here"))


def test_the_steps_of_the_pipeline(base, photos, tmp_path):
    """What Beam's workers do, without Beam: rows may come in any order."""
    images, version = find_files([str(photos)]), find_version(str(base))
    output = Output(str(tmp_path / "out"), len(images), Settings(shard_size=4))
    model = OfflineModel(version)
    with output.opened(images, version) as finished:
        assert not finished
        grouped = {}
        for shard in output.shards:
            part = pickle.loads(pickle.dumps((shard, images.part(shard.start, shard.stop))))
            for key, image in beam.read_part(part):
                number, row = beam.by_shard((key, model([image])[0]))
                grouped.setdefault(number, []).insert(0, row)
        for group in grouped.items():
            beam.write_shard(group, pickle.loads(pickle.dumps(output)))
    predict(base, photos, tmp_path / "here")
    assert_close(rows(tmp_path / "out"), rows(tmp_path / "here"))
    assert predict(base, photos, tmp_path / "out").finished_before == 3


def test_a_missing_beam_is_named(base, photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    images, version = find_files([str(photos)]), find_version(str(base))
    with pytest.raises(ValueError, match=r"pip install 'keras-vit\[beam\]'"):
        beam.predict_with_beam(version, images, str(tmp_path / "out"))


def assert_close(found, expected):
    """The same rows, up to what batches of another size change in the last digits."""
    assert [{**row, "scores": None} for row in found] == [
        {**row, "scores": None} for row in expected
    ]
    for row, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(row["scores"], other["scores"], rtol=1e-5)
