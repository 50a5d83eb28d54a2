"""Whole runs: what they leave behind, resuming, and what stops them."""

import csv
import dataclasses
import json

import keras
import numpy as np
import pytest

import keras_vit
from training.callbacks import SaveProgress, TrainingDivergedError
from training.config import OptimizerConfig, Recipe
from training.train import train


def rows(workdir):
    with (workdir / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of three epochs, and its recipe."""
    recipe = quick()
    workdir = tmp_path_factory.mktemp("finished") / "run"
    train(recipe, workdir)
    return workdir, recipe


def quick():
    from training.recipes import RECIPES

    digits = RECIPES["digits"]
    return dataclasses.replace(
        digits,
        epochs=3,
        batch_size=256,
        model=dataclasses.replace(digits.model, hidden_dim=32, depth=2, dropout_rate=0.1),
        augmentation=dataclasses.replace(digits.augmentation, mixup=0.2, randaugment_layers=1),
        schedule=dataclasses.replace(digits.schedule, warmup_epochs=1.0),
    )


def test_a_run_leaves_what_people_expect(finished):
    workdir, recipe = finished
    names = {
        "config.json",
        "metrics.csv",
        "curves.png",
        "model.keras",
        "checkpoints",
        "tensorboard",
    }
    assert {p.name for p in workdir.iterdir()} == names
    assert {p.name for p in (workdir / "checkpoints").iterdir()} == {
        "best.keras",
        "epoch_00002_step_0000000",
        "epoch_00003_step_0000000",
    }
    assert json.loads((workdir / "config.json").read_text())["batch_size"] == recipe.batch_size
    history = rows(workdir)
    assert [row["epoch"] for row in history] == ["1", "2", "3"]
    assert {"loss", "top1", "val_loss", "val_top1", "learning_rate", "seconds"} < set(history[0])
    assert float(history[2]["loss"]) < float(history[0]["loss"])
    assert list((workdir / "tensorboard").rglob("events.out.tfevents.*"))
    model = keras_vit.load_model(workdir)
    assert model.labels == tuple("0123456789")
    assert model.preprocessing.image_size == (8, 8)
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_run_is_not_repeated(finished):
    workdir, recipe = finished
    before = rows(workdir)
    (workdir / "model.keras").unlink()  # as if it had been killed before the very end
    reported = []
    result = train(recipe, workdir, report=reported.append)
    assert "All 3 epochs are done already." in reported
    assert rows(workdir) == before
    images = np.zeros([1, 8, 8, 3], "float32")
    np.testing.assert_array_equal(result.model(images), keras_vit.load_model(workdir)(images))


def test_an_interrupted_run_ends_as_an_uninterrupted_one(finished, tmp_path, monkeypatch):
    workdir, recipe = finished
    save = SaveProgress.on_epoch_end

    def interrupted(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt
        save(self, epoch, logs)

    monkeypatch.setattr(SaveProgress, "on_epoch_end", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run")
    assert len(rows(tmp_path / "run")) == 1
    monkeypatch.setattr(SaveProgress, "on_epoch_end", save)
    resumed = train(recipe, tmp_path / "run").model
    assert [row["epoch"] for row in rows(tmp_path / "run")] == ["1", "2", "3"]
    whole = keras_vit.load_model(workdir)
    for a, b in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_workdir_of_another_recipe_is_refused(finished):
    workdir, recipe = finished
    other = dataclasses.replace(recipe, optimizer=OptimizerConfig(learning_rate=0.5))
    with pytest.raises(ValueError, match=r"optimizer.learning_rate: 0.002 -> 0.5"):
        train(other, workdir)


def test_a_lost_loss_stops_with_advice_and_saves_nothing(tmp_path):
    recipe = dataclasses.replace(quick(), optimizer=OptimizerConfig(learning_rate=1e12))
    with pytest.raises(TrainingDivergedError, match=r"The loss is nan in epoch .*learning-rate"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "model.keras").exists()


def test_wrong_requests_are_refused_before_anything_is_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        train(quick(), tmp_path / "file")
    with pytest.raises(ValueError, match="names no data"):
        train(Recipe(), tmp_path / "run")
    with pytest.raises(ValueError, match="more than the 1437"):
        train(dataclasses.replace(quick(), batch_size=2000), tmp_path / "run")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "config.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        train(quick(), tmp_path / "torn")
    assert not (tmp_path / "run").exists()


def test_training_leaves_the_global_policy_alone(finished):
    assert keras.config.dtype_policy().name == "float32"
