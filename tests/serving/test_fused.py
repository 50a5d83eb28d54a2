"""The served graph's own form of the model, against the Keras model."""

import collections
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from keras_vit import VisionTransformer, attention_rollout
from serving.card_file import load_card
from serving.export import export_model
from serving.fused import fuse, layers

BASE = {"hidden_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5, "mlp_dim": 40}
OPTIONS = {
    "plain": {},
    "one block": {"depth": 1},
    "not square": {"image_size": (32, 16)},
    "distillation": {"distillation_token": True},
    "one head of two tokens": {"distillation_token": True, "distillation_head": False},
    "registers": {"register_tokens": 3, "pooling": "avg"},
    "no prefix": {"class_token": False, "pooling": "avg"},
    "token and mean": {"pooling": "token_avg"},
    "largest": {"pooling": "avgmax", "fc_norm": True},
    "map": {"pooling": "map", "class_token": False},
    "post norm": {"block": "post_norm", "init_values": 0.3},
    "parallel": {"block": "parallel", "init_values": 0.3},
    "twin": {"block": "twin", "init_values": 0.3},
    "layer scale": {"init_values": 0.3},
    "layer scale, pooled by mean": {"init_values": 0.3, "pooling": "avg"},
    "query and key norm": {"qk_norm": True},
    "more norms": {"scale_attn_norm": True, "scale_mlp_norm": True},
    "gated": {"gated_mlp": True, "activation": "silu"},
    "rms norm": {"norm": "rms_norm"},
    "tanh": {"activation": "gelu_tanh"},
    "quick": {"activation": "quick_gelu"},
    "differential": {"attention": "differential", "hidden_dim": 32},
    "differential twin": {"attention": "differential", "hidden_dim": 32, "block": "twin"},
    "no biases": {"qkv_bias": False, "proj_bias": False, "patch_bias": False},
    "pre-norm, representation": {"pre_norm": True, "representation_size": 12},
    "any size": {"image_size": None, "position_grid": (4, 4)},
    "no head": {"num_classes": 0},
    "own scale": {"qk_scale": 0.7},
    "an MLP of whole pages": {"mlp_dim": 1024},
    "a gated MLP of whole pages": {"mlp_dim": 1024, "gated_mlp": True, "activation": "silu"},
    "a normed MLP of half a page": {"mlp_dim": 512, "scale_mlp_norm": True},
}


def make(options):
    """A model whose every weight is random, so that none can be forgotten."""
    model = VisionTransformer(**{"image_size": 32, "patch_size": 8, **BASE, **options})
    random = np.random.default_rng(0)
    for variable in model.weights:
        start = 1.0 if "gamma" in variable.path or variable.path.endswith("scale") else 0.0
        variable.assign(start + 0.3 * random.normal(size=variable.shape))
    return model


def images(model, count=3):
    height, width = model.image_size or (32, 48)
    return tf.random.stateless_normal([count, height, width, 3], [1, 2])


def computed_operands(graph):
    """Products whose second operand depends on the images: `PACK_WEIGHTS` would keep the first."""
    ops = graph.get_operations()
    dependent = {graph.inputs[0].op.name}  # the images; the other inputs are weights
    for op in ops:  # in the order they were made: inputs first
        if any(value.op.name in dependent for value in op.inputs):
            dependent.add(op.name)
    products = [op for op in ops if op.type in ("MatMul", "Conv2D")]
    return [op.name for op in products if op.inputs[1].op.name in dependent]


@pytest.mark.parametrize(
    ("options", "streams"),
    [*((options, 2) for options in OPTIONS.values()), (OPTIONS["plain"], 1)],
    ids=[*OPTIONS, "one stream"],
)
def test_it_equals_the_model(options, streams):
    model = make(options)
    parts, given = fuse(model, streams=streams), images(model)
    spec = [tf.TensorSpec([None, *(model.image_size or (None, None)), 3])]
    served = tf.function(
        lambda x: (*parts.answer(x), parts.rollout(x)), input_signature=spec, autograph=False
    )
    assert not computed_operands(served.get_concrete_function().graph)
    of_keras = model.representation_model()(given), model(given), attention_rollout(model, given)
    for answer, expected in zip(served(given), of_keras, strict=True):
        scale = max(1.0, float(np.abs(expected).max()))
        assert answer.shape == expected.shape
        np.testing.assert_allclose(answer / scale, expected / scale, atol=2e-5)


@pytest.mark.parametrize("options", [{}, {"pooling": "avg"}, {"qk_norm": True, "block": "twin"}])
def test_long_sequences_go_image_by_image(options, monkeypatch):
    model = make(options)
    given = images(model)
    expected = model(given)
    monkeypatch.setattr(layers, "LONG_SEQUENCE", 4)
    spec = [tf.TensorSpec([None, 32, 32, 3])]
    answer = tf.function(fuse(model, streams=3).logits, input_signature=spec)
    np.testing.assert_allclose(answer(given), expected, atol=2e-5)
    names = {node.op for node in answer.get_concrete_function().graph.as_graph_def().node}
    assert {"While", "StatelessWhile"} & names


def _rows_of_products(model):
    spec = [tf.TensorSpec([3, 32, 32, 3])]
    graph = tf.function(fuse(model).logits, input_signature=spec).get_concrete_function().graph
    return [op.outputs[0].shape[0] for op in graph.get_operations() if op.type == "MatMul"]


def test_tokens_that_the_head_does_not_see_cost_nothing():
    """The last block has one row for each image, where keys are normed all but for those."""
    seen, tokens = 3 * 1, 3 * 17
    first = [3 * 16, *[tokens] * 4]
    assert _rows_of_products(make({})) == [*first, *[seen] * 5]
    rows = _rows_of_products(make({"qk_norm": True}))
    assert rows == [*first, tokens, seen, *[seen] * 4]


@pytest.mark.parametrize(
    "options", [{}, {"pooling": "token"}, {"gated_mlp": True}, {"scale_mlp_norm": True}]
)
@pytest.mark.parametrize("width", [512, 256])
def test_no_kernel_has_rows_that_collide(options, width):
    """They are read several times more slowly, unless they are longer; what is more is cut off."""
    sizes = {"hidden_dim": width, "mlp_dim": 1024, "num_classes": 1000}
    model = make({"pooling": "avg", **sizes, **options})
    spec = [tf.TensorSpec([None, 32, 32, 3])]
    served = tf.function(fuse(model).logits, input_signature=spec)
    graph = served.get_concrete_function().graph
    products = [op for op in graph.get_operations() if op.type == "MatMul"]
    assert len(products) == 1 + 2 * 4 + 1  # the first makes the patches, the last is the head
    for rows, columns in (product.inputs[1].shape for product in products):
        assert columns % (256 if rows >= 512 else 512)
    expected = model(images(model))
    np.testing.assert_allclose(served(images(model)), expected, atol=2e-5 * np.abs(expected).max())


def optimised_nodes(path):
    """What TensorFlow makes of the signature of pixels when it runs."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], str(path))
        signature = meta_graph.signature_def["images"]
        options = tf.compat.v1.RunOptions(output_partition_graphs=True)
        seen = tf.compat.v1.RunMetadata()
        feed = {signature.inputs["images"].name: np.zeros([2, 32, 32, 3], np.uint8)}
        session.run(signature.outputs["scores"].name, feed, options, seen)
    return [node for graph in seen.partition_graphs for node in graph.node]


@pytest.mark.parametrize(
    ("dtype", "weights", "streams"),
    [("float32", "trained", 1), ("bfloat16", "trained", 1), ("float32", "fresh", 2)],
)
def test_the_optimiser_joins_what_it_can(tmp_path, dtype, weights, streams):
    """With oneDNN: bias, GELU and residual in the products, and each layer norm in one kernel.

    Also where every bias is still zero, which the optimiser would remove.
    """
    options = {"pooling": "avg"}
    fresh = VisionTransformer(**{"image_size": 32, "patch_size": 8, **BASE, **options})
    model = make(options) if weights == "trained" else fresh
    export = export_model(
        model, tmp_path, dtype=dtype, compute_dtype=dtype, batch_sizes=[2], streams=streams
    )
    assert load_card(export.path)["streams"] == streams
    nodes = optimised_nodes(export.path)
    kernels = collections.Counter(node.op for node in nodes)
    if "_MklMatMul" not in kernels and "_MklNativeFusedMatMul" not in kernels:
        pytest.skip(f"no oneDNN for {dtype} here")
    norms = [node.attr["T"].type for node in nodes if node.op == "_MklLayerNorm"]
    assert norms == [tf.as_dtype(dtype).as_datatype_enum] * 4 * streams, (
        "casts stand around layer norms"
    )
    assert kernels["_MklSoftmax"] == 2 * streams + 1  # the last is of the classes
    of_block = 4 if streams == 1 else 5  # queries apart from keys and values
    assert kernels["_MklNativeFusedMatMul"] == (1 + 2 * of_block) * streams + 1
    assert not {"MatMul", "_MklMatMul", "BiasAdd", "Erf", "Erfc"} & set(kernels)


PACKED = """
import os, sys
if sys.argv[3] == "packed":
    from serving.startup import PACK_WEIGHTS
    os.environ[PACK_WEIGHTS] = "1"
import numpy as np, tensorflow as tf
answers, given_pixels, given_bytes = [], {}, {}
for seed in (1, 2):
    shape = [1 + seed, 32, 32, 3]
    given_pixels[seed] = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    given_bytes[seed] = [tf.io.encode_png(image).numpy() for image in given_pixels[seed]]
with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], sys.argv[1])
    for seed in (1, 2, 1):
        for name in ("images", "embed", "attention"):
            signature = meta_graph.signature_def[name]
            (given,) = signature.inputs.values()
            images = (given_pixels if name == "images" else given_bytes)[seed]
            outputs = [output.name for output in signature.outputs.values()]
            for value in session.run(outputs, {given.name: images}):
                if value.dtype == np.float32:
                    answers.append(value)
np.savez(sys.argv[2], *answers)
"""


def test_packed_weights_give_the_same_answers(tmp_path):
    """With `PACK_WEIGHTS` the second operand of a product is taken for a constant: it has to be."""
    path = export_model(make({}), tmp_path / "model", batch_sizes=[2]).path
    for kind in ("packed", "plain"):
        command = [sys.executable, "-c", PACKED, str(path), str(tmp_path / kind), kind]
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
    packed, plain = (np.load(tmp_path / f"{kind}.npz") for kind in ("packed", "plain"))
    assert len(plain.files) == 9
    for name in plain.files:
        np.testing.assert_allclose(packed[name], plain[name], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "streams"),
    [
        ({}, 3),
        ({"stem": {"type": "conv", "filters": [8], "strides": [2]}, "patch_size": 4}, 1),
        ({"attention": "differential", "hidden_dim": 32}, 1),
        ({"image_size": None, "position_grid": (4, 4)}, 1),
    ],
)
def test_where_something_is_one_stream_everything_is(options, streams):
    """A server gives one thread to each kernel only where no kernel has all the work."""
    assert fuse(make(options), streams=3).streams == streams


def test_streams_wait_for_each_other_once_in_a_block():
    """The longest way through two blocks, counted in products: no stream waits twice."""
    model = make({"pooling": "avg"})
    spec = [tf.TensorSpec([None, 32, 32, 3])]
    for streams in (1, 2):
        fused = tf.function(fuse(model, streams=streams).logits, input_signature=spec)
        ops = fused.get_concrete_function().graph.get_operations()
        products = [op for op in ops if op.type == "MatMul"]
        of_block = 4 if streams == 1 else 5  # queries apart, while others compute their keys
        assert len(products) == streams * (1 + 2 * of_block) + 1
        # Products that do not depend on each other run at the same time.
        depth = {}
        for op in ops:
            before = max((depth[value.op.name] for value in op.inputs), default=0)
            depth[op.name] = before + (op.type == "MatMul")
        assert max(depth.values()) == 1 + 2 * 4 + 1
