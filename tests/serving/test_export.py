"""The export: what it holds, how it answers, and that a bad one never appears."""

import collections
import json
import subprocess
import sys
from pathlib import Path

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

import keras_vit
import serving.export
from keras_vit.lora import add_lora
from serving.card_file import load_card
from serving.configuration.batching import BatchingParameters
from serving.export import export_model, serving_copy
from serving.export_check import CheckResult, check_export, check_images
from serving.flat_graph import bodies, flatten
from serving.saved_model import write_saved_model
from serving.version_directory import list_versions, staging_directory

ROOT = Path(__file__).parents[2]
LABELS = ["ape", "bee", "cat", "dog", "elk"]


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = keras_vit.VisionTransformer(
        16, 4, hidden_dim=16, depth=2, num_heads=2, num_classes=5, labels=LABELS
    )
    rng = np.random.default_rng(1)
    for variable in model.trainable_variables:
        variable.assign(variable + rng.normal(0, 0.3, variable.shape))
    return model


@pytest.fixture(scope="module")
def base(model, tmp_path_factory):
    base = tmp_path_factory.mktemp("served") / "animals"
    export_model(model, base)
    return base


@pytest.fixture(scope="module")
def ask(base):
    """Call a signature through the TF1 Session loader, the path of TF Serving."""
    graph = tf.Graph()
    with graph.as_default():
        session = tf.compat.v1.Session()
        meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], str(base / "1"))

    def call(signature, value):
        info = meta_graph.signature_def[signature]
        (feed,) = info.inputs.values()
        fetches = {name: output.name for name, output in info.outputs.items()}
        return session.run(fetches, {feed.name: value})

    call.signatures = meta_graph.signature_def
    yield call
    session.close()


def encoded(values):
    array = np.empty(len(values), object)
    array[:] = values
    return array


def probabilities(model, images):
    pixels = tf.stack([model.preprocessing(data) for data in images])
    return np.asarray(keras.ops.softmax(model(pixels)))


def test_contract(ask):
    outputs = {
        "serving_default": {"classes", "scores", "valid"},
        "probabilities": {"probabilities", "valid"},
        "embed": {"embedding", "valid"},
        "attention": {"attention", "valid"},
        "images": {"classes", "scores"},
        "classify": {"classes", "scores"},
    }
    inputs = {"images": "images", "classify": "inputs"}
    names = {name for name in ask.signatures if not name.startswith("__")}
    assert names == set(outputs)
    for name in names:
        assert set(ask.signatures[name].outputs) == outputs[name]
        assert set(ask.signatures[name].inputs) == {inputs.get(name, "image_bytes")}
        for output in ask.signatures[name].outputs.values():
            assert output.tensor_shape.dim[0].size == -1


def test_answers_are_the_keras_models(ask, model, photo, encode):
    images = [encode(photo(40, 50, seed), form) for seed, form in enumerate(["PNG", "JPEG", "BMP"])]
    expected = probabilities(model, images)
    answer = ask("probabilities", encoded(images))
    assert answer["valid"].all()
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-6)
    answer = ask("serving_default", encoded(images))
    order = np.argsort(-expected, axis=-1)
    np.testing.assert_array_equal(answer["classes"].astype(str), np.array(LABELS)[order])
    np.testing.assert_allclose(answer["scores"], -np.sort(-expected, axis=-1), atol=1e-6)
    embedding = model.representation_model()(
        tf.stack([model.preprocessing(data) for data in images])
    )
    np.testing.assert_allclose(
        ask("embed", encoded(images))["embedding"], embedding, rtol=1e-4, atol=1e-5
    )


def test_raw_pixels_and_examples_give_the_same_answer(ask, photo, encode):
    pixels = np.stack([photo(40, 50, seed) for seed in range(3)])
    images = [encode(image) for image in pixels]
    from_bytes = ask("serving_default", encoded(images))
    from_pixels = ask("images", pixels)
    examples = []
    for data in images:
        value = tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))
        features = tf.train.Features(feature={"image/encoded": value})
        examples.append(tf.train.Example(features=features).SerializeToString())
    classified = ask("classify", encoded([*examples, b"no example"]))
    for other in (from_pixels, {name: value[:3] for name, value in classified.items()}):
        np.testing.assert_array_equal(other["classes"], from_bytes["classes"])
        np.testing.assert_allclose(other["scores"], from_bytes["scores"], atol=1e-6)
    assert not classified["scores"][3].any()
    assert set(classified["classes"][3]) == {b""}


@pytest.mark.parametrize("signature", ["serving_default", "probabilities", "embed", "attention"])
def test_bad_images_change_nothing_for_their_neighbours(ask, photo, encode, signature):
    good = [encode(photo(40, 50, seed), "JPEG") for seed in range(5)]
    batch = [good[0], b"garbage" * 9, good[1], good[2], b"", good[3], good[3][:-300], good[4]]
    alone = ask(signature, encoded(good))
    mixed = ask(signature, encoded(batch))
    valid = [True, False, True, True, False, True, False, True]
    assert mixed["valid"].tolist() == valid
    assert alone["valid"].all()
    for name in set(mixed) - {"valid"}:
        np.testing.assert_array_equal(mixed[name][valid], alone[name])  # bit for bit
        blank = b"" if mixed[name].dtype == object else 0
        assert (mixed[name][np.logical_not(valid)] == blank).all()


def test_batches_of_bad_images_only_and_empty_ones(ask):
    answer = ask("serving_default", encoded([b"", b"x"]))
    assert not answer["valid"].any()
    assert answer["classes"].shape == (2, 5)
    for signature, batch in [
        ("serving_default", encoded([])),
        ("probabilities", encoded([])),
        ("embed", encoded([])),
        ("attention", encoded([])),
        ("classify", encoded([])),
        ("images", np.zeros([0, 4, 4, 3], np.uint8)),
    ]:
        assert all(len(value) == 0 for value in ask(signature, batch).values()), signature


def test_each_weight_is_stored_once(base, model):
    variables = tf.train.list_variables(str(base / "1" / "variables" / "variables"))
    stored = sum(np.prod(shape) for _, shape in variables)
    # Scales and biases of the blocks are constants of the graph.
    matrices = sum(np.prod(v.shape) for v in model.weights if len(v.shape) > 1)
    assert matrices <= stored <= model.count_params()


def test_functions_are_written_out_without_repetitions(tmp_path, monkeypatch):
    """And weights are written from where they are: a session would copy them."""
    variables = [tf.Variable(float(number)) for number in range(5)]
    spec = [tf.TensorSpec([], name="x")]

    @tf.function(input_signature=spec, autograph=False)
    def total_and_one(x):
        first, second = (tf.add_n([x, *variables, *tf.unstack(tf.ones([2]))]) for _ in range(2))
        return first + second, x + 1

    @tf.function(input_signature=spec, autograph=False)
    def signature(x):
        total, one = total_and_one(x * 2)
        tf.debugging.assert_positive(x)  # what is returned waits for this, and for the calls
        return {"total": total, "one": one * total_and_one(x)[1]}

    monkeypatch.setattr(tf.compat.v1.Session, "run", None)
    function = signature.get_concrete_function()
    called = [total_and_one.get_concrete_function()]
    write_saved_model(tmp_path, {"sums": function}, "0" * 12, called)
    monkeypatch.undo()
    values = tf.train.load_checkpoint(str(tmp_path / "variables" / "variables"))
    names = values.get_variable_to_shape_map()
    assert sorted(float(values.get_tensor(name)) for name in names) == [0, 1, 2, 3, 4]
    with tf.Graph().as_default() as graph, tf.compat.v1.Session() as session:
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path))
        outputs = loaded.signature_def["sums"].outputs
        fetches = {key: info.name for key, info in outputs.items()}
        given = loaded.signature_def["sums"].inputs["x"].name
        assert session.run(fetches, {given: 3.0}) == {"total": 36, "one": 7 * 4}
    kinds = collections.Counter(op.type for op in graph.get_operations() if "sums" in op.name)
    assert not [kind for kind in kinds if "Call" in kind]
    assert kinds["AddN"] == 2  # one for each call
    assert kinds["ReadVariableOp"] == 2 * 5


def test_a_call_that_waits_for_something_is_not_written_out():
    spec = [tf.TensorSpec([], name="x")]
    double = tf.function(lambda x: 2 * x, input_signature=spec).get_concrete_function()

    @tf.function(input_signature=spec)
    def waits(x):
        with tf.control_dependencies([tf.identity(x, name="first")]):
            return double(x)

    definition = waits.get_concrete_function().graph.as_graph_def()
    with pytest.raises(ValueError, match=r"waits for \^first.*leave its function a function"):
        flatten(definition, bodies([double]))


@pytest.fixture
def empty_versions(monkeypatch):
    """What is in a version does not matter: nothing is written, and nothing is checked."""
    monkeypatch.setattr(serving.export.ServedModel, "signatures", lambda self: {})
    monkeypatch.setattr(serving.export, "write_saved_model", lambda *_: None)
    monkeypatch.setattr(serving.export, "write_warmup", lambda *_: None)
    monkeypatch.setattr(serving.export, "check_export", lambda *_: CheckResult(0.0, 0.0))


@pytest.mark.usefixtures("empty_versions")
def test_versions_follow_and_are_never_overwritten(model, tmp_path):
    base = tmp_path / "deep" / "base"
    assert export_model(model, base).version == 1
    assert export_model(model, base, version=7).path == base / "7"
    (base / "not-a-version").mkdir()
    assert export_model(model, base).version == 8
    assert sorted(list_versions(str(base))) == [1, 7, 8]
    with pytest.raises(ValueError, match="Version 7 exists already"):
        export_model(model, base, version=7)
    assert sorted(p.name for p in base.iterdir()) == ["1", "7", "8", "not-a-version"]


@pytest.mark.usefixtures("empty_versions")
def test_two_exports_at_once_take_two_numbers(model, tmp_path, monkeypatch):
    base = tmp_path / "base"

    def check_while_another_publishes(*_):
        (base / "1" / "variables").mkdir(parents=True, exist_ok=True)
        return CheckResult(0.0, 0.0)

    monkeypatch.setattr(serving.export, "check_export", check_while_another_publishes)
    assert export_model(model, base).version == 2
    (base / "1").rename(base / "3")
    with pytest.raises(ValueError, match="Version 1 exists already"):
        export_model(model, base, version=1)
    assert sorted(p.name for p in base.iterdir()) == ["1", "2", "3"]
    (base / "9").write_text("TF Serving takes this for a version too")
    assert export_model(model, base).version == 10


@pytest.mark.usefixtures("empty_versions")
def test_what_a_killed_export_left_goes_with_the_next_one(model, tmp_path):
    with staging_directory(tmp_path) as running:
        (tmp_path / ".tmp-killed" / "variables").mkdir(parents=True)
        version = export_model(model, tmp_path)
        assert sorted(p.name for p in tmp_path.iterdir()) == [running.name, "1"]
    assert [p.name for p in tmp_path.iterdir()] == ["1"]
    assert version.path.stat().st_mode & 0o777 == 0o755


def test_a_wrong_export_is_never_published(model, tmp_path, monkeypatch):
    served = serving.export.serving_copy

    def broken_copy(model, dtype):
        copy = served(model, dtype)
        copy.get_layer("head").bias.assign(np.arange(5))
        return copy

    monkeypatch.setattr(serving.export, "serving_copy", broken_copy)
    with pytest.raises(RuntimeError, match="signature probabilities: probabilities differ"):
        export_model(model, tmp_path / "base")
    assert list((tmp_path / "base").iterdir()) == []


def test_the_check_sees_wrong_labels(base, model):
    renamed = serving_copy(model, "float32")
    renamed.labels = list(reversed(LABELS))
    with pytest.raises(RuntimeError, match="labels have other scores"):
        check_export(base / "1", renamed, "float32")


def test_the_check_refuses_python_operations(tmp_path, model):
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def serve(image_bytes):
        return {"n": tf.py_function(len, [image_bytes], tf.int32)}

    tf.saved_model.save(module, str(tmp_path), signatures={"embed": serve})
    with pytest.raises(RuntimeError, match="EagerPyFunc"):
        check_export(tmp_path, model, "float32")


@pytest.mark.parametrize(
    ("instructions", "compute_dtype", "tolerance"),
    [("avx2 avx512_bf16", "bfloat16", 5e-2), ("avx2 avx512f", "float32", 5e-3)],
)
def test_bfloat16(model, base, tmp_path, monkeypatch, instructions, compute_dtype, tolerance):
    """Weights are half as large in the file, and computed in what the processor is faster in."""
    monkeypatch.setattr("serving.processor.instructions", lambda: {*instructions.split()})
    half = export_model(model, tmp_path, dtype="bfloat16")
    assert half.compute_dtype == load_card(half.path)["compute_dtype"] == compute_dtype
    assert load_card(half.path)["dtype"] == "bfloat16"
    variables = [
        path / "variables/variables.data-00000-of-00001" for path in (base / "1", half.path)
    ]
    sizes = [path.stat().st_size for path in variables]
    assert sizes[1] < 0.6 * sizes[0]
    assert half.largest_difference < tolerance
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.saved_model.load(session, ["serve"], str(half.path))
        loaded = session.run(tf.compat.v1.global_variables())
    for weight in loaded:
        assert weight.dtype == compute_dtype
        if weight.ndim > 1:
            np.testing.assert_array_equal(weight, weight.astype(ml_dtypes.bfloat16))


def test_the_dtype_of_the_computation_may_be_said(model, tmp_path, monkeypatch):
    monkeypatch.setattr("serving.processor.instructions", lambda: {"amx_bf16"})
    float32 = export_model(model, tmp_path, dtype="bfloat16", compute_dtype="float32")
    assert float32.compute_dtype == "float32"
    assert float32.largest_difference < 5e-3


def test_a_lora_model_is_exported_merged(model, tmp_path):
    lora = serving_copy(model, "float32")
    add_lora(lora, rank=2)
    for variable in lora.trainable_variables:
        variable.assign(variable + 0.1)
    assert export_model(lora, tmp_path / "base").largest_difference < 1e-5
    assert (
        np.abs(probabilities(lora, check_images()) - probabilities(model, check_images())).max()
        > 1e-3
    )


def test_a_model_without_a_head_serves_embeddings(tmp_path, tiny_model):
    export = export_model(tiny_model(num_classes=0), tmp_path / "base")
    assert export.signatures == ("attention", "embed")


def test_wrong_arguments(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        export_model(model, tmp_path / "file")
    with pytest.raises(ValueError, match="positive"):
        export_model(model, tmp_path / "base", version=0)
    with pytest.raises(ValueError, match="of 64 bits"):
        export_model(model, tmp_path / "base", version=2**63)
    with pytest.raises(ValueError, match="dtype"):
        export_model(model, tmp_path / "base", dtype="float16")
    with pytest.raises(ValueError, match="compute_dtype must be one of"):
        export_model(model, tmp_path / "base", compute_dtype="float16")
    with pytest.raises(ValueError, match="give dtype='bfloat16' with it"):
        export_model(model, tmp_path / "base", compute_dtype="bfloat16")
    with pytest.raises(ValueError, match="top_k"):
        export_model(model, tmp_path / "base", top_k=0)
    assert not (tmp_path / "base").exists()


def test_a_version_says_what_it_is(base, model):
    version = base / "1"
    card = json.loads((version / "assets.extra" / "model_card.json").read_text())
    assert card["parameters"] == model.count_params()
    assert card["preprocessing_fingerprint"] == model.preprocessing.fingerprint
    assert keras_vit.VisionTransformer(**card["architecture"]).count_params() == card["parameters"]
    labels = (version / "assets.extra" / "labels.txt").read_text().splitlines()
    assert labels == LABELS
    batching = BatchingParameters.parse((version / "batching_params.pbtxt").read_text())
    assert batching.allowed_batch_sizes == (1, 2, 4, 8)


def test_the_fingerprint_is_in_the_names_of_the_outputs(ask, model):
    for name, signature in ask.signatures.items():
        for output in () if name.startswith("__") else signature.outputs.values():
            assert output.name.startswith(
                f"preprocessing_{model.preprocessing.fingerprint}/{name}/"
            )


def test_warm_up_asks_every_signature_at_every_batch_size(base):
    asked = set()
    file = base / "1" / "assets.extra" / "tf_serving_warmup_requests"
    for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        if log.HasField("classify_log"):
            examples = log.classify_log.request.input.example_list.examples
            asked.add(("classify", len(examples)))
        else:
            (tensor,) = log.predict_log.request.inputs.values()
            signature = log.predict_log.request.model_spec.signature_name
            asked.add((signature, tensor.tensor_shape.dim[0].size))
    names = ["serving_default", "probabilities", "images", "embed", "attention", "classify"]
    assert asked == {(name, size) for name in names for size in (1, 2, 4, 8)}


def test_attention_is_the_rollout(ask, model, photo, encode):
    images = [encode(photo(40, 50, seed)) for seed in range(3)]
    pixels = tf.stack([model.preprocessing(data) for data in images])
    answer = ask("attention", encoded(images))["attention"]
    np.testing.assert_allclose(answer, keras_vit.attention_rollout(model, pixels), atol=1e-6)
    assert answer.shape == (3, 4, 4)


def test_more_images_than_a_request_may_hold_are_refused(ask, photo, encode):
    data = encode(photo(8, 8))
    with pytest.raises(tf.errors.InvalidArgumentError, match="256 images"):
        ask("serving_default", encoded([data] * 257))
    with pytest.raises(tf.errors.InvalidArgumentError, match="256 images"):
        ask("images", np.zeros([257, 1, 1, 3], np.uint8))
    with pytest.raises(tf.errors.InvalidArgumentError, match="max_pixels"):
        ask("images", np.zeros([1, 1, 70_000, 3], np.uint8))


MIRRORED = """
import sys, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras_vit
from serving.export import export_model
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    model = keras_vit.VisionTransformer(16, 4, hidden_dim=16, depth=2, num_heads=2, num_classes=5)
export_model(model, sys.argv[1], batch_sizes=[1])
print(len(model.weights))
"""


def test_a_model_of_several_replicas_leaves_no_trace_of_them(tmp_path):
    command = [sys.executable, "-c", MIRRORED, str(tmp_path / "base")]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    version = tmp_path / "base" / "1"
    saved_model = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes())
    graph = saved_model.meta_graphs[0].graph_def
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    assert {node.device for node in nodes} <= {"", "/device:CPU:0", "/device:CPU:*"}
    assert not [node.name for node in nodes if "replica" in node.name.lower()]
    names = [name for name, _ in tf.train.list_variables(str(version / "variables/variables"))]
    assert 2 * 4 < len(names) <= int(run.stdout.split()[-1])
    assert not [name for name in names if "replica" in name.lower()]


def test_batch_sizes_that_cannot_be(model, tmp_path):
    for sizes, message in [([], "batch_sizes"), ([4, 2], "increase"), ([512], "256 images")]:
        with pytest.raises(ValueError, match=message):
            export_model(model, tmp_path / "base", batch_sizes=sizes)
