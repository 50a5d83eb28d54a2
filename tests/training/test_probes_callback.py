"""Features of real models, and probes while they train."""

import contextlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.data import DataSource, load_source
from training.probes import FeatureExtractor, ProbeCallback, features, run_probes


class Few(DataSource):
    """A few of the digits: the whole would take long, again and again."""

    def __init__(self):
        self._digits = load_source("digits")
        self.spec, self.labels = "few digits", self._digits.labels
        self.splits = {"train": 120, "test": 60}

    def examples(self, split):
        return self._digits.examples(split).take(self.splits[split])

    def shuffled(self, split, seed, start=0):
        raise AssertionError("probes take the examples in order")


@pytest.fixture(scope="module")
def digits():
    return Few()


def pixels_of(model, source, split, count=50):
    examples = list(source.examples(split).take(count).as_numpy_iterator())
    return tf.stack([model.preprocessing(example["image_bytes"]) for example in examples])


@pytest.mark.parametrize(
    "options",
    [
        {"num_classes": 0},
        {"num_classes": 7},
        {"num_classes": 7, "representation_size": 11},
        {"num_classes": 7, "distillation_token": True},
        {"num_classes": 3, "image_size": None, "position_grid": (4, 4)},
    ],
)
def test_features_are_what_the_head_sees(options, tiny_model, digits):
    model = tiny_model(**options)
    values, labels = features(model, digits, "test", batch_size=64)
    assert values.dtype == np.float32
    assert values.shape == (60, options.get("representation_size", 16))
    expected = [example["label"] for example in digits.examples("test").as_numpy_iterator()]
    np.testing.assert_array_equal(labels, expected)
    pixels = pixels_of(model, digits, "test")
    if not model.num_classes:
        np.testing.assert_allclose(values[:50], model(pixels), atol=1e-5)
    elif not options.get("distillation_token"):
        logits = model.get_layer("head")(values[:50])
        np.testing.assert_allclose(logits, model(pixels), atol=1e-5)
    np.testing.assert_allclose(values[:50], model.representation_model()(pixels), atol=1e-5)


def test_features_of_a_split_that_is_not_there(tiny_model, digits):
    with pytest.raises(ValueError, match="no split 'val'; it has test, train"):
        features(tiny_model(), digits, "val")
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        features(tiny_model(), digits, "test", batch_size=0)


class Rows(keras.callbacks.Callback):
    """What a callback that comes later in the list reads, and what it would find itself."""

    def __init__(self, model=None, source=None):
        super().__init__()
        self.rows, self.found = [], []
        self._extract = FeatureExtractor(model) if model else None
        self._source = source

    def on_epoch_end(self, epoch, logs=None):
        self.rows.append({name: logs[name] for name in NAMES})
        if self._extract is not None:
            splits = [self._extract(self._source, split) for split in ("train", "test")]
            self.found.append(run_probes(*splits, 10, ["knn", "fewshot"], [1], report=no_lines))


NAMES = ["knn_top1", "knn_plain_top1", "fewshot_1_top1"]


def no_lines(line):
    pass


def fit(model, source, callbacks, **options):
    """Train on a few digits."""
    model.compile(
        keras.optimizers.SGD(0.3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,  # compiling would take most of the time
    )
    labels = [example["label"] for example in source.examples("train").take(50).as_numpy_iterator()]
    pixels = np.asarray(pixels_of(model, source, "train"))
    return model.fit(pixels, np.array(labels), callbacks=callbacks, verbose=0, **options).history


def test_every_epoch_has_the_same_columns(tiny_model, digits):
    model = tiny_model(num_classes=10, depth=1)
    probe = ProbeCallback(model, digits, every=3, shots=(1,))
    probed = [0, 0, 2, 3]  # the first, every third, and the last
    rows = Rows(model, digits)
    epochs = len(probed)
    history = fit(model, digits, [probe, rows], epochs=epochs)
    # The numbers are those of the weights at the end of the epoch they were taken in.
    assert rows.rows == [rows.found[epoch] for epoch in probed]
    assert rows.found[0] != rows.found[-1]
    assert [len(history[name]) for name in NAMES] == [epochs] * 3


def test_a_run_that_goes_on_repeats_its_last_numbers(tiny_model, digits):
    model = tiny_model(num_classes=10, depth=1)
    last = dict.fromkeys(NAMES, 0.123) | {"loss": 1.0}
    rows = Rows()
    probe = ProbeCallback(model, digits, every=5, shots=(1,), last=last)
    fit(model, digits, [probe, rows], initial_epoch=3, epochs=6)
    assert [row["knn_top1"] == 0.123 for row in rows.rows] == [True, False, False]
    # A row from before there were probes does not help.
    rows = Rows()
    probe = ProbeCallback(model, digits, every=9, shots=(1,), last={"knn_top1": 0.123})
    fit(model, digits, [probe, rows], initial_epoch=3, epochs=5)
    assert all(row["knn_top1"] != 0.123 for row in rows.rows)


def test_the_rest_of_an_epoch_is_not_the_end_of_the_run(tiny_model, digits):
    last = {"knn_top1": 0.25, "knn_plain_top1": 0.125}
    model = tiny_model(num_classes=10, depth=1)
    callback = ProbeCallback(model, digits, every=3, kinds=["knn"], epochs=6, last=last)
    callback.set_params({"epochs": 5})  # what is left of epoch 5 has a `fit` of its own
    logs = {}
    callback.on_epoch_end(4, logs)
    assert logs == last
    callback.on_epoch_end(5, logs)
    assert logs != last


def test_probing_changes_no_weight(tiny_model, digits):
    weights = []
    for probing in (True, False):
        model = tiny_model(num_classes=10, depth=1, dropout_rate=0.1)
        keras.utils.set_random_seed(3)
        probe = ProbeCallback(model, digits, kinds=["knn"])
        fit(model, digits, [probe] if probing else [], epochs=2)
        weights.append([np.asarray(variable) for variable in model.variables])
    for with_probe, without in zip(*weights, strict=True):
        np.testing.assert_array_equal(with_probe, without)


def test_the_moving_average_is_judged_where_there_is_one(tiny_model, digits):
    """`TrainedModel.averaged_weights` puts it in the place of the weights for a while."""
    model = tiny_model(num_classes=10, depth=1)
    weights = [np.asarray(variable) for variable in model.variables]

    class Averaged:
        @contextlib.contextmanager
        def averaged_weights(self):
            for variable in model.trainable_variables:
                variable.assign(variable * 0)
            yield
            for variable, weight in zip(model.variables, weights, strict=True):
                variable.assign(weight)

    logs = [{}, {}]
    for trained, entry in zip((Averaged(), None), logs, strict=True):
        probe = ProbeCallback(model, digits, kinds=["knn"])
        probe.set_model(trained)
        probe.on_epoch_end(0, entry)
    assert logs[0]["knn_top1"] < logs[1]["knn_top1"]


def test_wrong_arguments_show_before_training(tiny_model, digits):
    model = tiny_model(num_classes=10, depth=1)
    for options, message in [
        ({"every": 0}, "1 epoch or more, not 0"),
        ({"kinds": ["svm"]}, "not svm"),
        ({"shots": [0]}, "1 or more, not 0"),
        ({"split": "val"}, "no split 'val'"),
    ]:
        with pytest.raises(ValueError, match=message):
            ProbeCallback(model, digits, **options)


def test_the_same_line_is_told_once(tiny_model, digits):
    lines = []
    model = tiny_model(num_classes=10, depth=1)
    callback = ProbeCallback(model, digits, kinds=["fewshot"], shots=[500], report=lines.append)
    for epoch in range(2):
        callback.on_epoch_end(epoch, {})
    assert len(lines) == 1
    assert "10 of 10 classes have fewer" in lines[0]


def test_probes_of_a_model_on_two_replicas():
    script = (
        "import numpy as np, tensorflow as tf, keras\n"
        "(cpu,) = tf.config.list_physical_devices('CPU')\n"
        "two = [tf.config.LogicalDeviceConfiguration()] * 2\n"
        "tf.config.set_logical_device_configuration(cpu, two)\n"
        "from keras_vit import VisionTransformer\n"
        "from training.data import DataSource, load_source\n"
        "from training.probes import ProbeCallback\n"
        "source = load_source('digits')\n"
        "with tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1']).scope():\n"
        "    model = VisionTransformer(8, 4, hidden_dim=16, depth=1, num_heads=2, num_classes=10)\n"
        "    model.compile('sgd', keras.losses.SparseCategoricalCrossentropy(from_logits=True))\n"
        "callback = ProbeCallback(model, source, kinds=['knn'])\n"
        "data = tf.data.Dataset.from_tensors((np.ones([8, 8, 8, 3]), np.arange(8)))\n"
        "history = model.fit(data, epochs=2, callbacks=[callback], verbose=0).history\n"
        "assert len(history['knn_top1']) == 2, history\n"
        "assert history['knn_top1'][0] > 0.2, history\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
