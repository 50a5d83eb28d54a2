"""Recipes are data: checked, compared, and light to import."""

import dataclasses
import json
import subprocess
import sys

import pytest

from training.augmentation.config import Augmentation
from training.config import (
    CheckpointConfig,
    DistillationConfig,
    OptimizerConfig,
    Recipe,
    ScheduleConfig,
    SharpnessConfig,
    difference,
)
from training.recipes import RECIPES


def test_importing_recipes_is_light():
    script = (
        "import sys, training.recipes\n"
        "heavy = {'tensorflow', 'keras', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_json(name):
    recipe = RECIPES[name]
    assert difference(json.loads(json.dumps(recipe.to_dict())), recipe.to_dict()) == []


def test_difference_names_every_change():
    old, new = Recipe(), Recipe(epochs=7, optimizer=OptimizerConfig(learning_rate=0.1))
    assert difference(old.to_dict(), new.to_dict()) == [
        "epochs: 100 -> 7",
        "optimizer.learning_rate: 0.001 -> 0.1",
    ]
    assert difference({"a": 1}, {"b": 2}) == ["a: 1 -> None", "b: None -> 2"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, "epochs must be positive"),
        ({"batch_size": -1}, "batch_size must be positive"),
        ({"steps": 0}, "steps must be positive"),
        ({"accumulation": 0}, "accumulation must be positive"),
        ({"checkpoint": CheckpointConfig(every_steps=0)}, "checkpoint.every_steps"),
        ({"distillation": DistillationConfig(weight=2)}, "distillation.weight"),
        ({"sharpness": SharpnessConfig(rho=-1)}, "sharpness.rho"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"seed": -1}, "seed must be from 0"),
        ({"seed": 2**31}, "seed must be from 0"),
        ({"loss": "bce", "label_smoothing": 0.1}, "set label_smoothing to 0"),
        ({"schedule": ScheduleConfig(warmup_epochs=101)}, "warmup_epochs"),
    ],
)
def test_wrong_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**fields)


def test_recipes_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RECIPES["digits"].augmentation.flip = True
    assert Augmentation().crop == "none"
