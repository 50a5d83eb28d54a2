"""The command line: help that teaches, errors that name the fix, nothing imported too early."""

import os
import subprocess
import sys

import pytest

from keras_vit_cli import COMMANDS, main


def test_help_lists_every_command(keras_vit):
    for arguments in ([], ["--help"], ["-h"]):
        status, output, _ = keras_vit(*arguments)
        assert status == 0
        assert all(command in output for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(keras_vit, command):
    status, output, _ = keras_vit(command, "--help")
    assert status == 0
    assert f"keras-vit {command}" in output


def test_recipe_help_explains_each_field(keras_vit):
    status, output, _ = keras_vit("train", "digits", "--help")
    assert status == 0
    for text in ("--batch-size", "--optimizer.learning-rate", "Peak learning rate", "--strategy"):
        assert text in output


def test_help_needs_no_heavy_import():
    script = (
        "import sys\n"
        "from keras_vit_cli import main\n"
        "for arguments in (['--help'], ['train', '--help']):\n"
        "    main(arguments)\n"
        "try:\n"
        "    main(['export', '--help'])\n"
        "except SystemExit:\n"
        "    pass\n"
        "heavy = {'tensorflow', 'keras', 'keras_vit', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_what_keras_does_without_is_imported_when_it_is_used():
    script = (
        "import sys\n"
        "from keras_vit_cli import main\n"
        "main(['versions', '--help'])\n"
        "import keras_vit\n"
        "early = {'matplotlib', 'sklearn'} & set(sys.modules)\n"
        "assert not early, early\n"
        "import matplotlib.pyplot, sklearn.datasets\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_wrong_usage_is_refused(keras_vit, tmp_path):
    assert keras_vit("fly")[0] == 2
    status, _, errors = keras_vit("train", "digits", "--workdir", tmp_path, "--learning-rat", "1")
    assert status == 2
    assert "learning-rat" in errors
    status, _, errors = keras_vit("train", "digits")
    assert status == 2
    assert "--workdir" in errors
    status, _, errors = keras_vit("train", "digits", "--workdir", tmp_path, "--epochs", "many")
    assert status == 2
    assert not list(tmp_path.iterdir())


def test_errors_are_one_message_without_a_traceback(keras_vit, tmp_path):
    (tmp_path / "file").write_text("not a model")
    (tmp_path / "empty").mkdir()
    png = tmp_path / "a.png"
    png.write_bytes(b"\x89PNG")
    for arguments, message in [
        (("train", "cats", "--workdir", tmp_path / "w"), "no recipe 'cats'"),
        (("train", "folder", "--workdir", tmp_path / "w"), "give --data folder:PATH"),
        (("train", "digits", "--workdir", tmp_path / "file"), "is a file"),
        (
            ("train", "digits", "--workdir", tmp_path / "w", "--data", "imagenet"),
            "There is no data 'imagenet'",
        ),
        (
            ("train", "digits", "--workdir", tmp_path / "w", "--data", f"folder:{tmp_path}/no"),
            "is not a directory",
        ),
        (("evaluate", tmp_path / "file", "--data", "digits"), "expected are the arrays"),
        (("evaluate", tmp_path / "none", "--data", "digits"), "There is nothing at"),
        (("export", tmp_path / "empty", tmp_path / "base"), "holds no checkpoint"),
        (("serve", tmp_path / "none"), "is not a directory"),
        (("serve", tmp_path / "empty"), "holds no version"),
        (
            ("predict", tmp_path / "missing.png", "--name", "m", "--address", "localhost:1"),
            "missing.png",
        ),
        (("predict", png, "--name", "m", "--address", "localhost:1"), "localhost:1"),
        (("models", "resnet*"), "No model matches"),
    ]:
        status, _, errors = keras_vit(*arguments)
        assert status == 1, arguments
        assert message in errors, (arguments, errors)
        assert "Traceback" not in errors
    assert {p.name for p in tmp_path.iterdir()} == {"file", "empty", "a.png"}


def test_a_bug_keeps_its_traceback(monkeypatch):
    import keras_vit_cli.models

    def broken(_):
        return {}["absent"]

    monkeypatch.setattr(keras_vit_cli.models, "run", broken)
    with pytest.raises(KeyError):
        main(["models"])


def test_models_are_listed_with_their_parameters(keras_vit):
    status, output, _ = keras_vit("models", "vit_tiny*")
    assert status == 0
    assert "vit_tiny_patch16_224" in output
    assert "5,717,416" in output
    assert "vit_base" not in output


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("0", "0")])
def test_commands_compute_with_onednn_unless_told_not_to(keras_vit, monkeypatch, given, expected):
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")
    if given:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", given)
    assert keras_vit("models", "--help")[0] == 0
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == expected
