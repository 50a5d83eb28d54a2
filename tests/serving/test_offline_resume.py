"""Prediction without a server that goes on: every image once, whatever happens to the run.

`KERAS_VIT_KILLS=10 KERAS_VIT_IMAGES=2000 pytest tests/serving/test_offline_resume.py -k killed` is
the long form.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from colour_model import png
from offline_runs import predict, rows, shards, times

from serving.export import export_model
from serving.offline.images import find_files
from serving.offline.model import find_version
from serving.offline.output import Output, Settings
from serving.offline.prediction import predict_offline

KILLS = int(os.environ.get("KERAS_VIT_KILLS", "1"))
IMAGES = int(os.environ.get("KERAS_VIT_IMAGES", "400"))


def test_only_what_is_missing_or_torn_is_done_again(base, photos, tmp_path):
    output = tmp_path / "out"
    predict(base, photos, output)
    before, content = times(output), rows(output)
    assert predict(base, photos, output).finished_before == 3
    assert times(output) == before
    first, second, third = shards(output)
    third.write_bytes(third.read_bytes()[:-9])  # cut short
    first.unlink()
    assert predict(base, photos, output, batch_size=4).finished_before == 1
    assert times(output)[second.name] == before[second.name]
    assert [row["source"] for row in rows(output)] == [row["source"] for row in content]
    second.write_text(second.read_text().replace("red", "rot", 1))  # changed, of the same length
    (output / "_finished" / f"{first.stem}.json").write_text("{")
    assert predict(base, photos, output).finished_before == 1
    assert rows(output) == content


def test_a_run_that_is_stopped_leaves_whole_shards_only(base, photos, tmp_path):
    output = tmp_path / "out"

    def stop(done, total):
        if done > 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_offline(
            find_version(str(base)),
            find_files([str(photos)]),
            str(output),
            Settings(shard_size=4),
            batch_size=2,
            progress=stop,
        )
    assert [path.name for path in output.iterdir() if "part" in path.name] == [
        "part-00000-of-00003.jsonl"
    ]
    assert predict(base, photos, output).finished_before == 1


def test_results_of_something_else_are_not_mixed(base, renamed, photos, tmp_path):
    output = tmp_path / "out"
    predict(base, photos, output)
    before = times(output)
    for change in ({"shard_size": 5}, {"signature": "embed"}, {"top_k": 1}):
        (name,) = change
        with pytest.raises(ValueError, match=rf"settings\.{name}: .* there, .* now"):
            predict(base, photos, output, **change)
    # Another file, then one with another content.
    (photos / "z.png").write_bytes(png((5, 5, 5)))
    with pytest.raises(ValueError, match=r"input\.images: 9 there, 10 now"):
        predict(base, photos, output)
    (photos / "z.png").unlink()
    data = (photos / "a.png").read_bytes()
    (photos / "a.png").write_bytes(png((1, 2, 3)))
    with pytest.raises(ValueError, match="sizes, times: "):
        predict(base, photos, output)
    (photos / "a.png").write_bytes(data)
    # Another model under the same number, and a new version.
    with pytest.raises(ValueError, match=r"model\.sha256: "):
        predict(renamed, photos, output)
    shutil.copytree(renamed, base / "2")
    with pytest.raises(ValueError, match=r"model\.version: 1 there, 2 now"):
        predict(base, photos, output)
    assert times(output) == before


def test_a_try_that_came_to_nothing_binds_nobody(base, photos, tmp_path):
    """A manifest without a shard, and what a kill leaves of files that were being written."""
    output = tmp_path / "out"
    predict(base, photos, output, shard_size=100)
    (shard,) = shards(output)
    shard.unlink()
    left = [
        output / f".{shard.name}.123.jsonl",
        output / "._manifest.json.123.json",
        output / "_finished" / f".{shard.stem}.json.123.json",
    ]
    for path in left:
        path.write_text("{")
    assert predict(base, photos, output, signature="embed").finished_before == 0
    assert "embedding" in rows(output)[0]
    assert not [path for path in left if path.exists()]


def test_files_that_no_prediction_wrote_are_left_alone(base, photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("")
    with pytest.raises(ValueError, match="files that no prediction wrote"):
        predict(base, photos, tmp_path / "out")
    with pytest.raises(ValueError, match="is a file"):
        predict(base, photos, tmp_path / "out" / "thesis.txt")


def test_two_runs_do_not_write_one_directory(base, photos, tmp_path):
    images = find_files([str(photos)])
    version = find_version(str(base))
    output = Output(str(tmp_path / "out"), len(images), Settings(shard_size=4))
    with output.opened(images, version), pytest.raises(ValueError, match="Another run is writing"):
        predict(base, photos, tmp_path / "out")
    assert predict(base, photos, tmp_path / "out").images == 9


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_that_is_killed_again_and_again_has_every_image_once(tmp_path, encode, tiny_model):
    folder, output, base = tmp_path / "photos", tmp_path / "out", tmp_path / "served"
    export_model(tiny_model(), base)
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        data = encode(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8), "JPEG")
        (folder / f"{number:05}.jpg").write_bytes(data if number % 50 else b"damaged")
    command = [
        *(sys.executable, "-m", "keras_vit_cli", "predict", "--offline", str(base)),
        *(f"folder:{folder}", "--output", str(output), "--shard-size", "10", "--batch-size", "3"),
    ]

    def start():
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def count():
        return len(shards(output)) if output.exists() else 0

    generator = random.Random(KILLS)
    for _ in range(KILLS):
        before, process = count(), start()
        # Not in the imports, where there is nothing to break: at a random moment after a shard.
        while process.poll() is None and count() == before:
            time.sleep(0.005)
        time.sleep(generator.uniform(0, 0.15))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it ended before it was killed: more images"
        assert all(len(path.read_text().splitlines()) == 10 for path in shards(output))
    output_of_last, _ = start().communicate(timeout=600)
    text = output_of_last.decode()
    assert f"{IMAGES:,} images" in text, text
    names = [row["source"] for row in rows(output)]
    assert names == sorted(str(path) for path in folder.iterdir())
    assert sum(not row["valid"] for row in rows(output)) == len(range(0, IMAGES, 50))
    assert not [path for path in output.iterdir() if path.name.startswith(".part")]
