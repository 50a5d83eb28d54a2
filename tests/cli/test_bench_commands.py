"""`keras-vit bench inference` and `training`: who takes turns, and what is written of them."""

import json
import sys

import keras
import numpy as np
import pytest
from PIL import Image

import keras_vit
from keras_vit_cli import main
from keras_vit_cli.benchmarks import contenders, growth, runner, tables
from keras_vit_cli.benchmarks.precision import PRECISIONS, int8_and_factors
from keras_vit_cli.benchmarks.runner import Result, Task, known, race


def test_the_export_and_its_limit(tmp_path, capfd):
    file = tmp_path / "bench.json"
    command = "bench inference test_vit --image-size 32 --batch-size 2 --rounds 2"
    main([*command.split(), "--seconds", "0.05", "--profile", "--json", str(file)])
    shown = capfd.readouterr().out
    report = json.loads(file.read_text())
    ours, limit = report["results"]
    assert ours["contender"] == "keras-vit"
    assert limit["contender"] == "matmul-limit"
    assert 0 < ours["min_ms"] <= ours["median_ms"] <= ours["max_ms"]
    assert ours["images_per_second"] == pytest.approx(2e3 / ours["median_ms"], rel=0.01)
    # 6 blocks of 5 tokens: (8 + 4 x 3) D^2 operations a token and block, with D = 64.
    done = limit["gflops_per_second"] * 1e6 * limit["median_ms"]
    assert done == pytest.approx(6 * 2 * 5 * 20 * 64**2, rel=0.05)
    kernels = {row["kernel"]: row["count"] for row in report["kernels"]["kernels"]}
    # Of two streams: patches, and five products of five blocks; then the sixth's of one token, and
    # the head.
    products = sum(count for name, count in kernels.items() if "FusedMatMul" in name)
    assert products == 2 * (1 + 5 * 5) + 4 + 1
    assert 0 < report["kernels"]["matrix_products"] < 1
    assert "keras-vit" in shown
    assert "matrix products" in shown


def test_the_train_step(tmp_path):
    file = tmp_path / "bench.json"
    command = "bench training test_vit --image-size 32 --batch-size 2 --rounds 1"
    main([*command.split(), "--seconds", "0.05", "--remat", "--json", str(file)])
    (ours,) = json.loads(file.read_text())["results"]
    assert ours["median_ms"] > 0
    assert ours["steps"] >= 1
    # Nothing where building the model took more than so small a step.
    assert 0 <= 2 * ours["megabytes_per_image"] < ours["peak_megabytes"]


def test_what_fewer_bits_cost(tmp_path, capsys):
    keras.utils.set_random_seed(0)
    model = keras_vit.VisionTransformer(
        32, 8, hidden_dim=64, depth=2, num_heads=2, mlp_dim=128, num_classes=10
    )
    head = model.get_layer("head").kernel
    head.assign(np.random.default_rng(0).normal(size=head.shape))  # it begins with zeros
    model.save(tmp_path / "model.keras")
    file = tmp_path / "precision.json"
    command = f"bench precision {tmp_path}/model.keras --data digits --rounds 1 --batch-size 120"
    main([*command.split(), "--json", str(file)])
    full, half, quarter = json.loads(file.read_text())["results"]
    assert [full["precision"], half["precision"], quarter["precision"]] == list(PRECISIONS)
    assert full["agreement"] == 1
    assert half["agreement"] > 0.9
    assert quarter["agreement"] > 0.9
    assert half["megabytes"] == pytest.approx(full["megabytes"] / 2, rel=0.1)
    assert quarter["megabytes"] < half["megabytes"]
    assert 0 <= full["top1"] <= 1
    assert full["images"] == 360
    assert "same as float32" in capsys.readouterr().out


def test_kernels_as_int8_are_rounded_by_output():
    random = np.random.default_rng(0)
    kernel = random.normal(size=(6, 4)).astype("float32") * [1, 10, 100, 1000]
    rounded, factors = int8_and_factors(kernel)
    assert rounded.dtype == np.int8
    step = np.abs(kernel).max(0) / 127
    assert (np.abs(rounded * factors - kernel) <= 0.501 * step).all()


def test_how_time_grows(tmp_path, capsys, monkeypatch):
    def fake_race(entries, rounds, seconds, report):
        growing = entries[1][1]
        seconds = [0.010, 0.019 if "depth" in growing.options else 0.030]
        return [
            Result("keras-vit", task, [taken])
            for (_, task), taken in zip(entries, seconds, strict=True)
        ]

    monkeypatch.setattr(growth, "race", fake_race)
    file = tmp_path / "growth.json"
    command = "bench growth vit_tiny_patch16_224 --image-sizes 32 64 --batch-sizes 2 6"
    main([*command.split(), "--depths", "6", "12", "--json", str(file)])
    rows = json.loads(file.read_text())["results"]
    assert [(row["axis"], row["value"]) for row in rows] == [
        *[("image_size", 32), ("image_size", 64)],
        *[("batch_size", 2), ("batch_size", 6)],
        *[("depth", 6), ("depth", 12)],
    ]
    assert rows[2]["over_operations"] == 1
    assert rows[3]["over_operations"] == pytest.approx(1)  # three times the images and the time
    assert rows[5]["gflops"] == pytest.approx(2 * rows[4]["gflops"], rel=0.05)
    assert rows[5]["over_operations"] == pytest.approx(0.95, rel=0.05)
    assert "over operations" in capsys.readouterr().out


def test_the_input_of_training(tmp_path):
    random = np.random.default_rng(0)
    for index in range(8):
        folder = tmp_path / "photos" / "train" / f"class{index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.jpg")
    command = f"bench input --data folder:{tmp_path}/photos --batch-size 4 --image-size 32"
    options = ["--randaugment-layers", "2", "--rounds", "1", "--seconds", "0.1"]
    main([*command.split(), *options, "--json", str(tmp_path / "input.json")])
    (ours,) = json.loads((tmp_path / "input.json").read_text())["results"]
    assert ours["images_per_second"] > 0
    assert "gflops_per_second" not in ours


def test_the_time_to_start(tmp_path, capsys):
    file = tmp_path / "start.json"
    main(["bench", "start", "test_vit", "--rounds", "1", "--json", str(file)])
    rows = {row["stage"]: row["median_seconds"] for row in json.loads(file.read_text())["results"]}
    assert len(rows) == 7
    assert rows["keras-vit --help"] < rows["import keras_vit"] < rows["keras-vit export"]
    assert "until it serves" in capsys.readouterr().out


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """Two contenders, of which one is slower, one that fails and one that dies."""
    (tmp_path / "fakes.py").write_text(
        "import os, time\n"
        "cores = getattr(os, 'sched_getaffinity', lambda process: {0})\n"  # not on every system
        "def quick(task):\n"
        "    about = {'version': '1', 'own_cores': len(cores(0))}\n"
        "    return (lambda: time.sleep(0.01)), about\n"
        "def slow(task): print('noise'); return (lambda: time.sleep(0.02)), {}\n"
        "def broken(task): raise ValueError('no such model')\n"
        "def dying(task): os._exit(3)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    names = {name: ((), "fakes", name) for name in ("quick", "slow", "broken", "dying")}
    names["absent"] = (("no_such_package",), "fakes", "quick")
    for module in (contenders, runner):
        monkeypatch.setattr(module, "CONTENDERS", names)
    script = (
        "import sys, json; from keras_vit_cli.benchmarks import worker; "
        f"worker.CONTENDERS = {names!r}; "
        "worker.main(sys.argv[1], worker.Task(**json.loads(sys.argv[2])))"
    )
    popen = runner.subprocess.Popen
    monkeypatch.setattr(
        runner.subprocess,
        "Popen",
        lambda command, **more: popen([sys.executable, "-c", script, *command[3:]], **more),
    )
    return names


def test_who_cannot_run_says_why_and_the_others_go_on(fakes):
    task = Task("inference", "m", batch_size=4, threads=1)
    lines = []
    results = race([(name, task) for name in fakes], 3, 0.05, lines.append)
    found = {result.name: result for result in results}
    assert list(found) == list(fakes)
    assert found["quick"].images_per_second > 1.3 * found["slow"].images_per_second
    assert len(found["quick"].seconds) >= 3 * 3
    assert found["quick"].peak_megabytes > 1
    assert found["broken"].error == "ValueError: no such model"
    assert found["dying"].error == "it ended (3)"
    assert found["absent"].error == "not installed: pip install no_such_package"
    assert "broken: ValueError: no such model" in lines
    report = tables.to_json(results, 1e9)
    rows = {row["contender"]: row for row in report["results"]}
    assert rows["broken"]["error"] == "ValueError: no such model"
    assert rows["quick"]["version"] == "1"
    assert rows["quick"]["own_cores"] == 1  # as many as threads
    tables.print_table(report)


def test_ratios_are_ours_to_theirs():
    task = Task("inference", "m", batch_size=2)
    results = [Result("keras-vit", task, [0.1, 0.2, 0.3]), Result("timm", task, [0.4, 0.5])]
    ours, theirs = tables.to_json(results, 3e9)["results"]
    assert ours["images_per_second"] == 10
    assert ours["gflops_per_second"] == 30
    assert theirs["ratio"] == pytest.approx(0.45 / 0.2)


def test_names_and_numbers_are_checked(capsys):
    assert known(["timm"]) == ["timm", "timm-compile"]
    for arguments, words in [
        (["--against", "nobody"], "no contender 'nobody'"),
        (["--rounds", "0"], "must be positive"),
        (["vit_nothing"], "No model is called"),
    ]:
        with pytest.raises(SystemExit):
            main(["bench", "inference", *arguments])
        assert words in capsys.readouterr().err
