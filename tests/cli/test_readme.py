"""Every command and every code block of the README, run as printed."""

import gzip
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from seeded import weights

from keras_vit.weights.safetensors import write_safetensors

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
# Appended to the train command: the same run, small enough for a test.
SMALL = shlex.split(
    "--epochs 1 --batch-size 8 --schedule.warmup-epochs 0 --model.image-size 32 "
    "--model.hidden-dim 32 --model.depth 1 --model.num-heads 2"
)


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A directory with photos of two classes, as the README asks for them."""
    import numpy as np
    from PIL import Image

    home = tmp_path_factory.mktemp("readme")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 3)):
        for name, colour in (("cat", (200, 80, 40)), ("dog", (40, 80, 200))):
            folder = home / "photos" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = np.clip(colour + rng.normal(0, 30, (40, 50, 3)), 0, 255).astype("uint8")
                Image.fromarray(pixels).save(folder / f"{index}.jpg")
                Image.fromarray(pixels).save(home / ("cat.jpg" if name == "cat" else "dog.png"))
    return home


@pytest.fixture(scope="module")
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def environment(home):
    return os.environ | {
        "XDG_CACHE_HOME": str(home / "cache"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }


@pytest.fixture(scope="module")
def ran(home, port, environment):
    """The commands under "Your own images", one after the other: each one's output."""
    (block,) = [block for block in blocks("sh") if "train folder" in block]
    outputs, server = {}, None
    for line in block.strip().splitlines():
        command = shlex.split(line.replace("8500", str(port)))
        assert command.pop(0) == "keras-vit"
        name = command[0]
        arguments = [
            str(match)
            for word in command
            for match in (
                sorted(path.relative_to(home) for path in home.glob(word))
                if "*" in word
                else [word]
            )
        ]
        arguments += SMALL if name == "train" else []
        process = subprocess.Popen(
            [sys.executable, "-m", "keras_vit_cli", *arguments],
            cwd=home,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if name == "serve":
            server = process
            outputs[name] = ""
            for printed in process.stdout:  # warnings may come first
                outputs[name] += printed
                if "Serving" in printed:
                    break
            assert "Serving photos version 1" in outputs[name], outputs[name]
        else:
            outputs[name] = process.communicate(timeout=300)[0]
            assert process.returncode == 0, outputs[name]
    yield outputs
    server.send_signal(signal.SIGTERM)
    server.communicate(timeout=60)


def test_the_commands_for_ones_own_images(ran, home):
    assert list(ran) == ["train", "evaluate", "export", "serve", "predict"]
    assert '"examples": 6' in ran["evaluate"]
    assert (home / "served" / "photos" / "1" / "saved_model.pb").is_file()
    assert ran["predict"].count("photos/test/") == 6


def test_the_command_for_whole_data_sets(ran, home, environment):
    shutil.copytree(home / "photos" / "test", home / "archive")
    (command,) = [block for block in blocks("sh") if "--offline" in block]
    program, *arguments = shlex.split(command)
    assert program == "keras-vit"
    result = subprocess.run(
        [sys.executable, "-m", "keras_vit_cli", *arguments],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    written = (home / "predictions" / "part-00000-of-00001.jsonl").read_text().splitlines()
    assert [json.loads(line)["valid"] for line in written] == [True] * 6


def test_the_commands_for_any_checkpoint(home, environment):
    """As printed; the hub is a cache on the disk that holds small models under those names."""
    fixtures = ROOT / "tests" / "fixtures"
    records = json.loads(gzip.decompress((fixtures / "goldens.json.gz").read_bytes()))
    tiny = next(record for record in records["timm"] if record["name"] == "test_vit")
    dinov2 = next(record for record in records["transformers"] if record["name"] == "Dinov2Model")
    (block,) = [block for block in blocks("sh") if "hf://" in block]
    commands = [shlex.split(line) for line in block.strip().splitlines()]
    for (_, _, source, *_), record in zip(commands, (tiny, dinov2), strict=False):
        repository = home / "hub" / f"models--{source.removeprefix('hf://').replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("0" * 40)
        folder = repository / "snapshots" / ("0" * 40)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(record["config"]))
        arrays = {name: weights(name, tuple(shape)) for name, shape in record["shapes"].items()}
        write_safetensors(folder / "model.safetensors", arrays)
    shutil.copy(fixtures / "jax_reference" / "google_token.npz", home / "ViT-B_16.npz")
    offline = environment | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(home / "hub")}
    for command in commands:
        assert command.pop(0) == "keras-vit"
        result = subprocess.run(
            [sys.executable, "-m", "keras_vit_cli", *command],
            cwd=home,
            env=offline,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        assert (home / command[2] / "1" / "saved_model.pb").is_file()


def test_the_python_blocks(ran, home, port, environment):
    codes = blocks("python")
    assert len(codes) == 2
    for code in codes:
        result = subprocess.run(
            [sys.executable, "-c", code.replace("8500", str(port))],
            cwd=home,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
    assert result.stdout.count("True") == 2  # the last block: two valid images


def test_the_make_targets_exist():
    targets = re.findall(r"^make (\S+)", "\n".join(blocks("sh")), re.MULTILINE)
    assert targets == ["demo", "test"]
    for target in targets:
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


def test_what_the_table_names_exists():
    tests = re.findall(r"`pytest (\S+) -k (\w+)`", README)
    assert len(tests) >= 5
    for path, word in tests:
        names = re.findall(r"def (test_\w+)", (ROOT / path).read_text())
        assert any(word in name for name in names), (path, word)


def test_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert "://" in link or (ROOT / link).exists(), link


def test_demo(tmp_path, environment):
    workdir = tmp_path / "demo"
    result = subprocess.run(
        [sys.executable, "-m", "keras_vit_cli", "demo", "--workdir", workdir, "--epochs", "2"],
        cwd=tmp_path,
        env=environment | {"TFDS_DATA_DIR": str(tmp_path / "tfds")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "360 of 360" in result.stdout
    for name in ("predictions.png", "curves.png", "model.keras", "served/digits/1/saved_model.pb"):
        assert (workdir / name).is_file(), name
