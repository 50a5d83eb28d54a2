"""`keras-vit explain`: pictures, arrays, and errors that say what to do."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_vit_cli.explain import find_class

METHODS = ("attribution", "rollout", "attention", "features")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A model with labels, one without a head and positions, and a folder of three photos."""
    import keras

    import keras_vit

    home = tmp_path_factory.mktemp("explain")
    rng = np.random.default_rng(0)
    (home / "photos" / "more").mkdir(parents=True)
    (home / "empty").mkdir()
    for name in ("a.png", "b.jpg", "more/c.png"):
        pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(home / "photos" / name)
    (home / "notes.txt").write_text("no image")
    keras.utils.set_random_seed(0)
    sizes = {"hidden_dim": 16, "depth": 2, "num_heads": 2}
    labels = ["ape, monkey", "bee", "cat"]
    model = keras_vit.VisionTransformer((16, 24), 4, num_classes=3, labels=labels, **sizes)
    for variable in model.trainable_variables:
        variable.assign(variable + rng.normal(0, 0.2, variable.shape))
    model.save(home / "model.keras")
    bare = keras_vit.VisionTransformer(16, 4, num_classes=0, position_embedding="none", **sizes)
    bare.save(home / "bare.keras")
    return home


def is_picture(path):
    pixels = np.asarray(Image.open(path).convert("L"), float)
    return min(pixels.shape) > 100 and pixels.std() > 5


@pytest.mark.parametrize("method", METHODS)
def test_pictures_of_one_image_and_of_a_folder(keras_vit, home, tmp_path, method):
    for source, count in ((home / "photos" / "a.png", "1 image"), (home / "photos", "3 images")):
        output = tmp_path / f"{source.stem}.png"
        status, printed, errors = keras_vit("explain", source, "--model", home / "model.keras",
                                            "--output", output, "--method", method)  # fmt: skip
        assert status == 0, errors
        assert printed == f"{output}: {method} of {count}\n"
        assert is_picture(output)


@pytest.mark.parametrize(
    ("method", "shape"),
    [
        ("attribution", (3, 4, 6)),
        ("rollout", (3, 4, 6)),
        ("attention", (3, 2, 4, 6)),
        ("features", (3, 4, 6, 3)),
        ("distance", (2, 2)),
        ("positions", (4, 6, 4, 6)),
        ("filters", (16, 4, 4, 3)),
    ],
)
def test_arrays_of_every_method(keras_vit, home, tmp_path, method, shape):
    files = [] if method in ("positions", "filters") else [home / "photos"]
    for suffix in (".npy", ".npz", ".png"):
        output = tmp_path / f"out{suffix}"
        status, _, errors = keras_vit("explain", *files, "--model", home / "model.keras",
                                      "--output", output, "--method", method)  # fmt: skip
        assert status == 0, errors
    array = np.load(tmp_path / "out.npy")
    assert array.shape == shape
    assert array.dtype == np.float32
    everything = np.load(tmp_path / "out.npz")
    np.testing.assert_array_equal(everything[method], array)
    if files:
        assert [Path(name).name for name in everything["files"]] == ["a.png", "b.jpg", "c.png"]
    if method in METHODS:
        assert everything["scores"].shape == everything["class_ids"].shape == (3,)
    assert is_picture(tmp_path / "out.png")


def test_the_arrays_are_those_of_the_library(keras_vit, home, tmp_path):
    import keras_vit as library
    from keras_vit.explain import attribution

    photo = home / "photos" / "a.png"
    maps = {}
    for name in ("bee", "monkey", "2", None):
        output = tmp_path / f"{name}.npz"
        chosen = ["--class", name] if name else []
        status, _, errors = keras_vit("explain", photo, "--model", home / "model.keras",
                                      "--output", output, *chosen)  # fmt: skip
        assert status == 0, errors
        maps[name] = np.load(output)
    model = library.load_model(home / "model.keras")
    images = model.preprocessing(photo.read_bytes())[None]
    for name, class_id in (("monkey", 0), ("bee", 1), ("2", 2)):
        np.testing.assert_allclose(
            maps[name]["attribution"], attribution(model, images, class_id), atol=1e-6
        )
        assert maps[name]["class_ids"] == [class_id]
    assert maps[None]["class_ids"] == np.argmax(model(images))
    assert np.abs(maps["bee"]["attribution"] - maps["2"]["attribution"]).max() > 1e-5


def test_bad_input_is_refused_before_the_model_is_read(keras_vit, home, tmp_path):
    photo, out = home / "photos" / "a.png", ("--output", tmp_path / "out.png")
    for arguments, message in [
        ((home / "notes.txt", *out), "notes.txt cannot be read as an image: it is not a JPEG"),
        ((home / "empty", *out), "holds no images"),
        ((home / "none.png", *out), "There is no file"),
        ((f"{home}/*.txt", *out), "is an image"),
        (out, "No image was given"),
        ((photo, "--output", tmp_path / "out.gif"), ".png, .jpg, .pdf, .svg for a picture"),
        ((photo, "--output", tmp_path / "out"), "its end says what to write"),
        ((photo, *out, "--class", "bee", "--method", "rollout"), "--class is for"),
        ((photo, *out, "--limit", "0"), "at least 1"),
    ]:
        status, printed, errors = keras_vit("explain", *arguments, "--model", tmp_path / "none")
        assert status == 1, arguments
        assert message in errors, (arguments, errors)
        assert not printed
    assert not list(tmp_path.iterdir())


def test_what_the_model_cannot_show_is_refused(keras_vit, home, tmp_path):
    photo, out = home / "photos" / "a.png", ("--output", tmp_path / "out.png")
    for model, arguments, message in [
        ("model", (photo, "--class", "bea"), "near are bee"),
        ("model", (photo, "--class", "3"), "a number from 0 to 2"),
        ("bare", (photo, "--class", "0"), "has no head"),
        ("bare", (photo,), "has no head"),
        ("bare", ("--method", "positions"), "adds no positions"),
    ]:
        status, _, errors = keras_vit("explain", *arguments, *out, "--model",
                                      home / f"{model}.keras")  # fmt: skip
        assert status == 1, arguments
        assert message in errors, (arguments, errors)
    assert not list(tmp_path.iterdir())
    status, _, errors = keras_vit("explain", photo, *out, "--model", home / "bare.keras",
                                  "--method", "rollout")  # fmt: skip
    assert status == 0, errors


def test_of_a_folder_what_is_no_image_is_left_out(keras_vit, home, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(3):
        (folder / f"{index}.png").write_bytes((home / "photos" / "a.png").read_bytes())
    (folder / "1.png").write_bytes(b"broken")
    status, _, errors = keras_vit("explain", folder, "--model", home / "model.keras", "--output",
                                  tmp_path / "a.npy")  # fmt: skip
    assert status == 0
    assert "leaving out" in errors
    assert len(np.load(tmp_path / "a.npy")) == 2
    status, _, errors = keras_vit("explain", folder, "--model", home / "model.keras", "--output",
                                  tmp_path / "a.npy", "--limit", "1")  # fmt: skip
    assert "the first 1 of 3" in errors
    assert len(np.load(tmp_path / "a.npy")) == 1


def test_a_name_that_is_not_utf8_is_left_out_or_refused(keras_vit, home, tmp_path, caplog):
    shutil.copytree(home / "photos", tmp_path / "photos")
    strange = os.fsencode(tmp_path / "photos") + b"/caf\xe9.png"
    try:
        shutil.copy(home / "photos" / "a.png", strange)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    options = ["--model", home / "model.keras", "--output", tmp_path / "sheet.png"]
    status, printed, errors = keras_vit("explain", tmp_path / "photos", *options)
    assert status == 0, errors
    assert "of 3 images" in printed
    assert "caf\\xe9.png is left out" in caplog.text
    status, _, errors = keras_vit("explain", os.fsdecode(strange), *options)
    assert status == 1
    assert "is not UTF-8: rename it" in errors


def test_classes_by_name_and_number():
    labels = ["crane", "tench, Tinca tinca", "crane", "7", "Bee"]
    assert find_class("tench", 5, labels) == 1
    assert find_class("TENCH, Tinca tinca", 5, labels) == 1
    assert find_class("7", 8, labels) == 3  # a name comes before a number
    assert find_class("4", 5, labels) == 4
    assert find_class("4", 5, None) == 4
    with pytest.raises(ValueError, match="the classes 0, 2 have that name"):
        find_class("crane", 5, labels)
    with pytest.raises(ValueError, match="near are tench"):
        find_class("tensh", 5, labels)


def test_help_teaches(keras_vit):
    status, output, _ = keras_vit("explain", "--help")
    assert status == 0
    for text in (*METHODS, "distance", "positions", "filters", "--class", "Chefer", ".npz"):
        assert text in output
