"""Finding batching parameters on a running server."""

import pytest

from serving.bench.run import Bench
from serving.bench.tune import candidates, tune
from serving.configuration.batching import BatchingParameters


@pytest.mark.slow
def test_every_candidate_is_served_and_measured(base):
    bench = Bench("nowhere:1", "colours", loads=(8,), warmup=0.3, duration=1.0)
    parameters = BatchingParameters(max_batch_size=8, batch_timeout_micros=20_000)
    seen = []
    trials = tune(base, bench, [parameters], seen.append)
    assert [trial.parameters for trial in seen] == [None, parameters]
    assert all(trial.level.ok > 0 and not trial.level.errors for trial in trials)
    assert trials[0].level.images_per_second >= trials[1].level.images_per_second
    batched = seen[1].level.batches
    assert batched.mean_size > 1
    assert set(batched.by_size) <= set(range(1, 9))


def test_a_server_that_does_not_start_says_why(tmp_path):
    with pytest.raises(RuntimeError, match="is not a directory"):
        tune(tmp_path / "nowhere", Bench("nowhere:1", "a", loads=(1,)), [])


def test_one_load_is_needed(tmp_path):
    with pytest.raises(ValueError, match="one load"):
        tune(tmp_path, Bench("nowhere:1", "a", loads=(1, 2)), candidates())
