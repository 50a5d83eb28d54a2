"""A quick recipe and a place for the embedded data."""

import dataclasses

import pytest


@pytest.fixture(scope="session", autouse=True)
def embedded_data(tmp_path_factory):
    """Keep the data sets that tests prepare out of the user's home."""
    patch = pytest.MonkeyPatch()
    patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("tfds")))
    yield
    patch.undo()


@pytest.fixture
def quick_recipe():
    """A recipe that trains on digits in seconds."""
    from training.recipes import RECIPES

    digits = RECIPES["digits"]
    return dataclasses.replace(
        digits,
        epochs=3,
        batch_size=256,
        model=dataclasses.replace(digits.model, hidden_dim=32, depth=2, dropout_rate=0.1),
        schedule=dataclasses.replace(digits.schedule, warmup_epochs=1.0),
    )
