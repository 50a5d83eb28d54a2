"""A tiny served model and a running server for the serving tests."""

import shutil

import pytest
from colour_model import COLOURS, png, write_model


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """One version of the colour model, to copy into base directories."""
    path = tmp_path_factory.mktemp("exported") / "1"
    write_model(path)
    return path


@pytest.fixture(scope="session")
def renamed(tmp_path_factory):
    """Another version, with other labels."""
    path = tmp_path_factory.mktemp("renamed") / "1"
    write_model(path, labels=("rouge", "vert", "bleu"))
    return path


@pytest.fixture
def base(tmp_path, exported):
    """A base directory of its own with version 1."""
    shutil.copytree(exported, tmp_path / "colours" / "1")
    return tmp_path / "colours"


@pytest.fixture(scope="module")
def server(exported, tmp_path_factory):
    """A local server of the colour model, shared by a module's tests."""
    from serving.configuration.models import ModelConfig
    from serving.local_server.server import LocalServer

    folder = tmp_path_factory.mktemp("models") / "colours"
    shutil.copytree(exported, folder / "1")
    with LocalServer([ModelConfig("colours", str(folder))], port=0) as running:
        yield running


@pytest.fixture
def photos(tmp_path):
    """A folder in folders: seven images, two files that are none, and what is not looked at."""
    folder = tmp_path / "photos"
    (folder / "more" / "deep").mkdir(parents=True)
    for name, colour in COLOURS.items():
        (folder / name).write_bytes(png(colour))
        (folder / "more" / "deep" / name).write_bytes(png(colour))
    (folder / "more" / "d.PNG").write_bytes(png((9, 9, 200)))
    (folder / "more" / "bad.jpg").write_bytes(b"no image")
    (folder / "more" / "empty.png").write_bytes(b"")
    (folder / "notes.txt").write_text("not an image")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "e.png").write_bytes(png((1, 1, 1)))
    return folder
