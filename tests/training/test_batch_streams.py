"""Parts of a batch side by side, and the threads for them."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from keras_vit import VisionTransformer
from training.data import load_source
from training.probes import extraction
from training.streams import in_streams, streams_of_batch


@pytest.mark.parametrize(
    ("dtype", "cores", "streams"),
    [("float32", 2, 2), ("float32", 1, 1), ("float32", 4, 1), ("bfloat16", 2, 1)],
)
def test_a_batch_has_streams_where_each_has_a_core(monkeypatch, dtype, cores, streams):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cores)), raising=False)
    assert streams_of_batch(dtype) == streams
    several = SimpleNamespace(num_replicas_in_sync=2)
    monkeypatch.setattr(tf.distribute, "get_strategy", lambda: several)
    assert streams_of_batch(dtype) == 1


@pytest.mark.parametrize("started", [False, True])
def test_each_stream_gets_a_thread_where_tensorflow_has_not_started(started):
    script = (
        "import tensorflow as tf\n"
        "from training.streams import give_each_stream_a_thread\n"
        "threads = tf.config.threading\n"
        f"tf.zeros([]) if {started} else None\n"
        "give_each_stream_a_thread(2)\n"
        "tf.zeros([])\n"
        "print(threads.get_intra_op_parallelism_threads(),"
        " threads.get_inter_op_parallelism_threads())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, stdout=subprocess.PIPE, text=True
    )
    assert done.stdout.split() == (["0", "0"] if started else ["1", "2"])


def test_what_comes_out_of_streams_is_what_goes_in():
    images = tf.reshape(tf.range(10.0), [5, 2])
    outputs = in_streams(lambda x: {"sum": tf.reduce_sum(x, -1), "shape": x}, images, 2)
    np.testing.assert_array_equal(outputs["sum"], [1, 5, 9, 13, 17])
    np.testing.assert_array_equal(outputs["shape"], images)


def test_features_are_the_same_in_streams(monkeypatch):
    model = VisionTransformer(8, 4, hidden_dim=16, depth=1, num_heads=2, num_classes=10)
    found = []
    for streams in (1, 2):
        monkeypatch.setattr(extraction, "streams_of_batch", lambda dtype, count=streams: count)
        found.append(extraction.features(model, load_source("digits"), "test", batch_size=50))
    np.testing.assert_allclose(found[0].values, found[1].values, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found[0].labels, found[1].labels)
