"""Checkpoints: whole, verified, pruned."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_vit.atomic_files import write_text
from training.checkpoints import Checkpoints, TrainingState


@pytest.fixture
def run(tmp_path):
    """A directory with two variables and their checkpoints; what was reported."""

    class Run:
        def __init__(self):
            self.directory = tmp_path / "checkpoints"
            self.a = keras.Variable(np.zeros(3, "float32"), name="a")
            self.b = keras.Variable(np.zeros([], "int64"), name="b")
            self.reported = []
            self.checkpoints = Checkpoints(
                self.directory, [self.a, self.b], report=self.reported.append
            )

        def save(self, epoch):
            self.a.assign(np.full(3, epoch))
            self.b.assign(epoch)
            return self.checkpoints.save(
                TrainingState(epoch, 0, [{"epoch": i + 1} for i in range(epoch)])
            )

        def restore(self):
            self.a.assign(np.full(3, -1))
            return self.checkpoints.restore_newest()

    return Run()


def test_nothing_to_restore(run):
    assert run.restore() is None


def test_the_newest_is_restored_and_old_ones_go(run):
    for epoch in (1, 2, 3):
        run.save(epoch)
    state = run.restore()
    assert state.epoch == 3
    assert state.history == [{"epoch": 1}, {"epoch": 2}, {"epoch": 3}]
    np.testing.assert_array_equal(run.a, [3, 3, 3])
    assert int(run.b) == 3
    assert sorted(p.name for p in run.directory.iterdir()) == [
        "epoch_00002_step_0000000",
        "epoch_00003_step_0000000",
    ]


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def change_a_digit(path):
    path.write_text(path.read_text().replace('"epoch": 2', '"epoch": 3'))


DAMAGE = {
    "flipped byte of the state": lambda d: change_a_digit(d / "state.json"),
    "flipped byte": lambda d: flip_a_byte(next(d.glob("*.data*"))),
    "truncated data": lambda d: next(d.glob("*.data*")).write_bytes(b""),
    "missing index": lambda d: next(d.glob("*.index")).unlink(),
    "missing state": lambda d: (d / "state.json").unlink(),
    "torn state": lambda d: (d / "state.json").write_text('{"epoch": 2, "hist'),
    "other state": lambda d: (d / "state.json").write_text("[]"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_and_named(run, kind):
    run.save(1)
    run.save(2)
    DAMAGE[kind](run.directory / "epoch_00002_step_0000000")
    assert run.restore().epoch == 1
    np.testing.assert_array_equal(run.a, [1, 1, 1])
    assert "epoch_00002_step_0000000 is damaged" in run.reported[0]


def test_a_damaged_one_of_the_same_name_is_written_again(run):
    run.save(1)
    flip_a_byte(next((run.directory / "epoch_00001_step_0000000").glob("*.data*")))
    assert run.save(1)
    assert run.restore().epoch == 1


def test_places_within_an_epoch_sort_by_age(run):
    names = [TrainingState(*place).name for place in ((0, 7), (0, 30), (1, 0), (1, 5), (2, 0))]
    assert names == sorted(names)


def test_a_half_written_one_is_invisible_and_removed(run):
    run.save(1)
    (run.directory / ".epoch_00002_step_0000000.123").mkdir()
    assert run.restore().epoch == 1
    assert not run.reported
    run.checkpoints.remove_leftovers()
    assert [p.name for p in run.directory.iterdir()] == ["epoch_00001_step_0000000"]


def test_a_failed_write_keeps_what_was_there(run, monkeypatch):
    run.save(1)

    def full(*_):
        message = "{{function_node __wrapped__SaveV2}} No space left on device [Op:SaveV2]"
        raise tf.errors.ResourceExhaustedError(None, None, message)

    monkeypatch.setattr(run.checkpoints._checkpoint, "write", full)
    assert not run.save(2)
    assert "(No space left on device)" in run.reported[0]
    assert "epoch_00001_step_0000000. Training goes on" in run.reported[0]
    assert [p.name for p in run.directory.iterdir()] == ["epoch_00001_step_0000000"]


def test_another_model_is_refused(run):
    run.save(1)
    other = keras.Variable(np.zeros(4, "float32"), name="a")
    with pytest.raises(ValueError, match="of another model"):
        Checkpoints(run.directory, [other, run.b]).restore_newest()
    extra = keras.Variable(0.0, name="c")
    with pytest.raises(ValueError, match="of another model"):
        Checkpoints(run.directory, [run.a, run.b, extra]).restore_newest()


def test_state_is_plain_json(run):
    run.save(1)
    content = json.loads((run.directory / "epoch_00001_step_0000000" / "state.json").read_text())
    fields = {"epoch", "epoch_step", "history", "seconds", "batch_size"}
    assert set(content) == fields | {"sha256"}


def test_write_text_leaves_one_file(tmp_path):
    write_text(tmp_path / "a.txt", "one")
    write_text(tmp_path / "a.txt", "two")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "two")]
