"""Opening saved models."""

import keras
import numpy as np
import pytest

import keras_vit


def test_opens_a_file_and_a_workdir(tiny_model, tmp_path):
    model = tiny_model()
    model.save(tmp_path / "model.keras")
    for path in (tmp_path, tmp_path / "model.keras", str(tmp_path)):
        opened = keras_vit.load_model(path)
        images = np.ones([1, 16, 16, 3], "float32")
        np.testing.assert_array_equal(opened(images), model(images))


def test_what_is_no_model_is_named(tmp_path):
    with pytest.raises(ValueError, match="There is no model at"):
        keras_vit.load_model(tmp_path / "absent.keras")
    with pytest.raises(ValueError, match=r"holds no model\.keras"):
        keras_vit.load_model(tmp_path)
    (tmp_path / "model.keras").write_bytes(b"not a zip")
    with pytest.raises(ValueError, match=r"is not a \.keras file"):
        keras_vit.load_model(tmp_path)
    keras.Sequential([keras.Input([2]), keras.layers.Dense(1)]).save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match="holds a Sequential"):
        keras_vit.load_model(tmp_path / "other.keras")


def test_a_truncated_file_is_named(tiny_model, tmp_path):
    path = tmp_path / "model.keras"
    tiny_model().save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"damaged|cannot be opened"):
        keras_vit.load_model(path)


def test_a_file_cannot_run_code(tmp_path):
    layers = [keras.Input([2]), keras.layers.Lambda(lambda x: x)]
    keras.Sequential(layers).save(tmp_path / "lambda.keras")
    with pytest.raises(ValueError, match="cannot be opened"):
        keras_vit.load_model(tmp_path / "lambda.keras")
