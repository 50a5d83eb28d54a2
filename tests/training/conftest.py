"""A place for the data sets that tests prepare."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def embedded_data(tmp_path_factory):
    """Keep the data sets that tests prepare out of the user's home."""
    patch = pytest.MonkeyPatch()
    patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("tfds")))
    yield
    patch.undo()
