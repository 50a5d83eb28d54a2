"""What the README promises besides its code blocks, which test_docs.py runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
TABLE = [line for line in README.splitlines() if line.startswith("| ")][2:]


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_make_targets_exist():
    targets = re.findall(r"^make (\S+)", "\n".join(blocks("sh")), re.MULTILINE)
    assert targets == ["demo", "test"]
    for target in targets:
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


def test_one_screen_says_it_all():
    """What it is, the two commands, a picture of the result, and the table, without scrolling."""
    screen = README.splitlines()[:45]
    for beginning in ("make demo", "make test", "![", "| what it does that others do not"):
        assert any(line.startswith(beginning) for line in screen), beginning
    assert all(row in screen for row in TABLE)


def test_every_row_of_the_table_has_a_command_that_exists():
    assert len(TABLE) >= 10
    for row in TABLE:
        command = re.search(r"`([^`]+)`[^|`]*\|$", row)[1].split()
        if command[0] == "pytest":
            text = (ROOT / command[1]).read_text()
            word = command[3] if command[2:3] == ["-k"] else ""
            assert any(word in name for name in re.findall(r"def (test_\w+)", text)), row
        elif command[0] == "make":
            subprocess.run(["make", "-n", command[1]], cwd=ROOT, check=True, capture_output=True)
        else:
            assert command == ["keras-vit", "demo"], row


def test_demo(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
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
