"""How many threads a server gives to an operation."""

import json

import pytest

from serving.card_file import CARD_FILE
from serving.configuration.models import ModelConfig
from serving.configuration.monitoring import MonitoringConfig
from serving.deployment.settings import Deployment
from serving.startup import Plan
from serving.tensorflow_server import _flags
from serving.threads import session_threads, version_paths


def write(base, cards):
    """Versions from 1 whose cards hold this; no card for None."""
    for number, card in enumerate(cards, start=1):
        file = base / str(number) / CARD_FILE
        file.parent.mkdir(parents=True)
        if card is not None:
            file.write_text(card)
    return version_paths(base)


@pytest.mark.parametrize(
    ("cards", "cores", "within"),
    [
        (['{"streams": 2}'], 2, 1),
        (['{"streams": 4}', '{"streams": 4}'], 4, 1),
        (['{"streams": 2}'], 4, 4),  # half of them would have nothing to do
        (['{"streams": 2}'], 1, 1),
        (['{"streams": 2}', '{"streams": 1}'], 2, 2),
        (['{"streams": 2}', None], 2, 2),
        (['{"streams": 2}', "[]"], 2, 2),
        (['{"streams": [2]}'], 2, 2),
        (["no JSON", "{}"], 2, 2),
        ([], 2, 2),
    ],
)
def test_a_thread_for_each_stream_where_there_are_as_many_cores(tmp_path, cards, cores, within):
    assert session_threads(write(tmp_path, cards), cores) == (within, cores)


def test_both_servers_are_told(tmp_path, monkeypatch):
    base = tmp_path / "m"
    write(base, [json.dumps({"streams": 2})])
    monkeypatch.setattr("serving.tensorflow_server.usable_cores", lambda: 2)

    def flags(*bases):
        models = [ModelConfig("m", str(base)) for base in bases]
        plan = Plan(models, tmp_path, 0, None, "", 1.0, None, MonitoringConfig(), None)
        return _flags(plan, tmp_path)

    wanted = {"--tensorflow_intra_op_parallelism=1", "--tensorflow_inter_op_parallelism=2"}
    assert wanted <= set(flags(base))
    # What will lie in a bucket, or in an empty directory, is not known.
    for other in ("gs://bucket/m", tmp_path / "empty"):
        assert not [flag for flag in flags(base, other) if "_op_parallelism" in flag]
    assert wanted <= set(Deployment(base, "m", cpus=1.5).server_arguments())
    shared = {"--tensorflow_intra_op_parallelism=4", "--tensorflow_inter_op_parallelism=4"}
    assert shared <= set(Deployment(base, "m", cpus=4).server_arguments())
