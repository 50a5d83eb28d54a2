"""Whole runs: what they leave behind, resuming, and what stops them."""

import csv
import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_vit
from training.augmentation.config import Augmentation
from training.callbacks import (
    SaveProgress,
    TrainingDivergedError,
    WriteSummaries,
    save_if_best,
)
from training.checkpoints import TrainingState, _digest_of_state
from training.config import (
    CheckpointConfig,
    DistillationConfig,
    ModelConfig,
    OptimizerConfig,
    ProbeConfig,
    Recipe,
    ScheduleConfig,
)
from training.recipes import RECIPES
from training.train import WorkerLostError, _lost_workers_explained, check_batch_size, train
from training.train_step import TrainedModel


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
    digits = RECIPES["digits"]
    return dataclasses.replace(
        digits,
        epochs=3,
        batch_size=256,
        model=dataclasses.replace(digits.model, hidden_dim=32, depth=1, dropout_rate=0.1),
        augmentation=dataclasses.replace(digits.augmentation, mixup=0.2, randaugment_layers=1),
        schedule=dataclasses.replace(digits.schedule, warmup_epochs=1.0),
    )


def test_a_run_leaves_what_people_expect(finished):
    workdir, recipe = finished
    names = {
        ".lock",
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


def test_a_workdir_of_another_recipe_is_refused_unless_that_is_allowed(finished, tmp_path):
    workdir, recipe = finished
    other = dataclasses.replace(recipe, epochs=4, optimizer=OptimizerConfig(learning_rate=0.5))
    with pytest.raises(ValueError, match=r"optimizer.learning_rate: 0.002 -> 0.5") as error:
        train(other, workdir)
    assert "epochs: 3 -> 4" in str(error.value)
    assert "--allow-changed" in str(error.value)
    shutil.copytree(workdir, tmp_path / "copy")
    longer = dataclasses.replace(
        recipe, epochs=4, probes=ProbeConfig(every=1, kinds=("knn",)), label_smoothing=0.0
    )
    reported = []
    train(longer, tmp_path / "copy", allow_changed=True, report=reported.append)
    assert any("epochs: 3 -> 4" in line for line in reported)
    history = rows(tmp_path / "copy")
    assert [row["epoch"] for row in history] == ["1", "2", "3", "4"]
    assert history[2]["knn_top1"] == ""
    assert float(history[3]["knn_top1"]) > 0.3


def test_steps_take_the_place_of_epochs(tmp_path):
    # 6 steps an epoch, the last one filled up; saved and gone on with in the middle of the second.
    recipe = dataclasses.replace(
        quick(),
        steps=10,
        steps_per_execution=4,
        checkpoint=CheckpointConfig(every_steps=2, keep=100),
        optimizer=OptimizerConfig(ema=0.9),
    )
    whole = train(recipe, tmp_path / "run")
    assert [row["epoch"] for row in whole.history] == [1, 2]
    checkpoints = sorted(p.name for p in (tmp_path / "run" / "checkpoints").glob("epoch_*"))
    assert checkpoints == [
        "epoch_00000_step_0000004",
        "epoch_00001_step_0000000",
        "epoch_00002_step_0000000",
    ]
    for name in checkpoints[1:]:
        shutil.rmtree(tmp_path / "run" / "checkpoints" / name)
    resumed = train(recipe, tmp_path / "run")
    for a, b in zip(whole.model.get_weights(), resumed.model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    for old, new in zip(whole.history, resumed.history, strict=True):
        for name in ("loss", "top1", "val_loss", "val_top1", "gradient_norm"):
            assert new[name] == pytest.approx(old[name], abs=2e-6)


def test_a_run_that_was_stopped_before_an_evaluation_begins_with_it(finished, tmp_path):
    workdir, recipe = finished
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    last = copy / "checkpoints" / "epoch_00003_step_0000000"
    state = json.loads((last / "state.json").read_text())
    state |= {"epoch": 2, "epoch_step": 6, "history": state["history"][:2]}
    state["sha256"]["state.json"] = _digest_of_state(state)
    (last / "state.json").write_text(json.dumps(state))
    last.rename(last.with_name("epoch_00002_step_0000006"))
    before = rows(workdir)
    shutil.rmtree(copy / "tensorboard")
    reported = []
    result = train(recipe, copy, report=reported.append)
    assert [row["epoch"] for row in rows(copy)] == ["1", "2", "3"]
    assert list((copy / "tensorboard").rglob("events.out.tfevents.*"))
    assert any(line.startswith("epoch   3/3") for line in reported)
    for name in ("loss", "top1", "val_loss", "val_top1"):
        assert result.history[2][name] == pytest.approx(float(before[2][name]), abs=2e-6)


def test_a_run_goes_on_in_the_middle_of_an_epoch_with_another_batch_size(finished, tmp_path):
    workdir, recipe = finished
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    last = copy / "checkpoints" / "epoch_00003_step_0000000"
    state = json.loads((last / "state.json").read_text())
    state |= {"epoch": 2, "epoch_step": 5, "history": state["history"][:2]}
    state["sha256"]["state.json"] = _digest_of_state(state)
    (last / "state.json").write_text(json.dumps(state))
    last.rename(last.with_name("epoch_00002_step_0000005"))
    other = dataclasses.replace(recipe, batch_size=512)  # 3 steps in an epoch, 2 of them done
    reported = []
    train(other, copy, allow_changed=True, report=reported.append)
    assert "Going on after epoch 2 of 3 and step 2 of the next." in reported
    assert [row["epoch"] for row in rows(copy)] == ["1", "2", "3"]


def test_a_student_learns_from_a_teacher_through_its_token(finished, tmp_path):
    workdir, _ = finished
    recipe = dataclasses.replace(
        quick(),
        epochs=1,
        model=dataclasses.replace(
            quick().model, variant="deit_tiny_distilled_patch16_224", hidden_dim=16, depth=1
        ),
        distillation=DistillationConfig(teacher=str(workdir), kind="soft"),
    )
    student = train(recipe, tmp_path / "run").model
    heads = [student.get_layer(name).kernel for name in ("head", "distillation_head")]
    assert all(np.abs(kernel).max() > 0 for kernel in heads)
    assert np.abs(heads[0] - heads[1]).max() > 1e-4
    wrong = dataclasses.replace(recipe, distillation=DistillationConfig(teacher="no-such-file"))
    with pytest.raises((ValueError, OSError), match="no-such-file"):
        train(wrong, tmp_path / "wrong")


def test_low_rank_fine_tuning_leaves_a_plain_model(finished, tmp_path):
    workdir, _ = finished
    recipe = dataclasses.replace(
        RECIPES["lora"],
        data="digits",
        epochs=1,
        batch_size=256,
        model=ModelConfig(pretrained=str(workdir)),
        augmentation=Augmentation(),
    )
    reported = []
    result = train(recipe, tmp_path / "run", report=reported.append)
    assert result.history[0]["val_top1"] > 0.25  # ten classes; the masks differ with the cores
    (table,) = [line for line in reported if line.startswith("group")]
    assert "frozen" in table
    model = keras_vit.load_model(tmp_path / "run")
    assert not [v.path for v in model.variables if "lora" in v.path]
    images = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(model(images), result.model(images), atol=1e-5)


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(tmp_path, monkeypatch):
    write = tf.train.Checkpoint.write
    calls = []

    def full_once(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")
        return write(self, *args, **kwargs)

    monkeypatch.setattr(tf.train.Checkpoint, "write", full_once)
    reported = []
    train(quick(), tmp_path / "run", report=reported.append)
    assert any("No space left" in r and "Training goes on" in r for r in reported)
    names = {p.name for p in (tmp_path / "run" / "checkpoints").glob("epoch_*")}
    assert names == {"epoch_00001_step_0000000", "epoch_00003_step_0000000"}


def test_the_sizes_come_from_the_images(digits_folder, tmp_path):
    recipe = dataclasses.replace(
        RECIPES["folder"],
        data=f"folder:{digits_folder}",
        epochs=1,
        batch_size=8,
        model=ModelConfig(image_size="data", hidden_dim=16, depth=1, num_heads=2),
        schedule=ScheduleConfig(warmup_epochs=0),
    )
    model = train(recipe, tmp_path / "run").model
    assert (model.image_size, model.patch_size) == ((56, 56), (8, 8))


@pytest.fixture
def digits_folder(tmp_path, photo, encode):
    for name in ("cats", "dogs"):
        for index in range(10):
            path = tmp_path / "photos" / name / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(photo(61, 80, seed=index), "JPEG"))
    return tmp_path / "photos"


def test_a_batch_that_cannot_be_divided_is_refused_with_the_nearest_that_can():
    recipe = dataclasses.replace(quick(), batch_size=250, accumulation=8)
    with pytest.raises(ValueError, match=r"batch_size=250 .* --batch-size 248 is the nearest"):
        check_batch_size(recipe, replicas=1)


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


def test_the_seed_of_a_run_does_not_draw_another_test_split(tmp_path, monkeypatch):
    given = {}

    def load(spec, **options):
        given.update(options)
        raise ValueError("enough seen")

    monkeypatch.setattr("training.train.load_source", load)
    with pytest.raises(ValueError, match="enough seen"):
        train(dataclasses.replace(quick(), seed=5), tmp_path / "run")
    assert "seed" not in given  # else `keras-vit evaluate` would judge on images of the training


def test_training_leaves_the_global_policy_alone(finished):
    assert keras.config.dtype_policy().name == "float32"


def test_summaries_that_cannot_be_written_are_reported_once(tiny_model, tmp_path):
    (tmp_path / "file").write_text("a file where a directory should be")
    reported = []
    callback = WriteSummaries(tmp_path / "file" / "tensorboard", reported.append)
    model = TrainedModel(tiny_model())
    model.compile("sgd")
    callback.set_model(model)
    for epoch in range(2):
        callback.on_epoch_end(epoch, {"loss": 1.0, "val_loss": 2.0})
    assert len(reported) == 1
    assert "Training goes on" in reported[0]


@pytest.mark.parametrize(
    ("accuracies", "epoch_step", "is_written"),
    [([0.5], 0, True), ([0.5, 0.4], 0, False), ([0.4, 0.5], 0, True), ([0.5], 3, False)],
)
def test_the_best_model_is_written_when_it_is_there(
    accuracies, epoch_step, is_written, tiny_model, tmp_path
):
    model = tiny_model()
    trained = TrainedModel(model)
    trained.compile("sgd")
    history = [{"val_top1": accuracy} for accuracy in accuracies]
    (tmp_path / "checkpoints").mkdir()
    state = TrainingState(len(history), epoch_step, history)
    save_if_best(trained, model, tmp_path, state)
    assert (tmp_path / "checkpoints" / "best.keras").exists() == is_written


@pytest.mark.parametrize("kind", [tf.errors.UnavailableError, tf.errors.DeadlineExceededError])
def test_a_lost_worker_is_explained(kind, monkeypatch):
    monkeypatch.setattr("training.train.is_multiworker", lambda scope: True)
    with pytest.raises(WorkerLostError, match="same command"), _lost_workers_explained(None):
        raise kind(None, None, "RPC: /tensorflow.CoordinationService/Heartbeat")
