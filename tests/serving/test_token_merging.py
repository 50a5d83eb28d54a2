"""Token merging: against the authors' algorithm in numpy, and where it must change nothing."""

import json

import numpy as np
import pytest
import tensorflow as tf
from test_fused import images, make

from keras_vit import VisionTransformer
from keras_vit_cli import main
from serving.export import export_model
from serving.fused import TokenMerging, fuse
from serving.fused.token_merging import merge, spread, unmerged


def reference(x, metric, sizes, prefix, count):
    """`bipartite_soft_matching` and `merge_wavg` of facebookresearch/ToMe, for one image."""
    patches = range(prefix, len(x))
    b, a = list(patches)[::2], list(patches)[1::2]  # one class token: the authors' own split
    metric = metric / np.linalg.norm(metric, axis=-1, keepdims=True)
    scores = metric[a] @ metric[b].T
    order = np.argsort(-scores.max(axis=1), kind="stable")
    leaving, staying = order[:count], np.sort(order[count:])
    sums, total = x[b] * sizes[b, None], sizes[b].copy()
    origin = {b[j]: [b[j]] for j in range(len(b))}
    for i in leaving:
        j = scores[i].argmax()
        sums[j] += x[a[i]] * sizes[a[i]]
        total[j] += sizes[a[i]]
        origin[b[j]].append(a[i])
    kept = [a[i] for i in staying]
    tokens = np.concatenate([x[:prefix], x[kept], sums / total[:, None]])
    sizes = np.concatenate([sizes[:prefix], sizes[kept], total])
    groups = [[i] for i in range(prefix)] + [[i] for i in kept] + [origin[j] for j in b]
    return tokens, sizes, groups


@pytest.mark.parametrize("prefix", [0, 1, 3])
@pytest.mark.parametrize(("length", "count"), [(17, 3), (14, 4), (11, 40)])
def test_it_merges_what_the_authors_merge(prefix, length, count):
    random = np.random.default_rng(length)
    x, metric = random.normal(size=(2, 2, length + prefix, 5))
    merged = unmerged(tf.constant(x))
    (tokens,), merged = merge(tf.constant(x), tf.constant(metric), merged, prefix, count)
    second = random.normal(size=(2, tokens.shape[1], 5))
    parts, merged = merge(tokens, tf.constant(second), merged, prefix, 2, streams=3)
    assert len(parts) == 3
    tokens = tf.concat(parts, axis=1)
    for i in range(2):
        sizes = np.ones(length + prefix)
        expected, sizes, groups = reference(x[i], metric[i], sizes, prefix, min(count, length // 2))
        expected, sizes, again = reference(expected, second[i], sizes, prefix, 2)
        np.testing.assert_allclose(tokens[i], expected, atol=1e-12)
        np.testing.assert_allclose(merged.sizes[i], sizes)
        for token, parts in enumerate(again):
            for original in (original for part in parts for original in groups[part]):
                assert merged.places[i, original] == token
    assert np.bincount(merged.places[0]).tolist() == merged.sizes[0].numpy().tolist()
    assert spread(tokens, merged).shape == x.shape


@pytest.mark.parametrize("count", [1, 6])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pooling": "avg", "class_token": False},
        {"pooling": "avg", "register_tokens": 3},
        {"pooling": "map", "class_token": False},
        {"distillation_token": True, "init_values": 0.3},
        {"image_size": (48, 32), "qk_norm": True},
    ],
)
def test_where_all_patches_are_equal_nothing_changes(options, count):
    """A token of three equal patches must weigh as much as the three did, and so in the mean."""
    model = make(options)
    for variable in model.weights:
        if "position" in variable.path:
            variable.assign(tf.zeros_like(variable))
    patch = tf.random.stateless_normal([2, 8, 8, 3], [1, 2])
    given = tf.tile(patch, [1, model.image_size[0] // 8, model.image_size[1] // 8, 1])
    parts = fuse(model, TokenMerging(count), streams=2)
    np.testing.assert_allclose(parts.logits(given), model(given), atol=2e-5, rtol=1e-5)
    expected = model.representation_model()(given)
    np.testing.assert_allclose(parts.representation(given), expected, atol=2e-5, rtol=1e-5)


def test_each_block_computes_fewer_tokens():
    model = make({"depth": 4})  # 17 tokens, of which the last block computes one
    parts = fuse(model, TokenMerging(3, "decreasing"))  # 6, 4, 2, 0
    spec = [tf.TensorSpec([2, 32, 32, 3])]
    graph = tf.function(parts.logits, input_signature=spec).get_concrete_function().graph
    products = [op for op in graph.get_operations() if op.type == "MatMul"]
    hidden = [op.outputs[0].shape[0] for op in products if op.outputs[0].shape[1] == 40]
    assert hidden == [2 * 11, 2 * 7, 2 * 5, 2]
    given = images(model)
    assert np.abs(parts.logits(given) - model(given)).max() > 1e-4  # it does merge
    np.testing.assert_array_equal(parts.rollout(given), fuse(model).rollout(given))


def test_counts_of_the_blocks():
    assert TokenMerging(8).counts(12) == (8,) * 12
    # parse_r(12, (8, -1)) of the authors
    assert TokenMerging(8, "decreasing").counts(12) == (16, 14, 13, 11, 10, 8, 7, 5, 4, 2, 1, 0)
    for arguments in ((0,), (-1,), (8, "rising")):
        with pytest.raises(ValueError, match=r"at least 1|schedule must be"):
            TokenMerging(*arguments)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"block": "parallel"}, "ParallelBlock"),
        ({"attention": "differential", "hidden_dim": 32}, "without token_merging"),
        ({"image_size": None, "position_grid": (4, 4)}, "give image_size"),
    ],
)
def test_models_whose_tokens_cannot_be_merged(options, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        export_model(make(options), tmp_path / "served", token_merging=TokenMerging(2))
    assert not (tmp_path / "served").exists()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_export_with_merged_tokens(dtype, tmp_path, capsys):
    model = VisionTransformer(32, 8, hidden_dim=16, depth=2, num_heads=2, num_classes=3)
    model.save(tmp_path / "model.keras")
    command = ["export", tmp_path / "model.keras", tmp_path / "served", "--token-merging", 2]
    main([*map(str, command), "--dtype", dtype, "--batch-sizes", "1"])
    assert "token merging" in capsys.readouterr().out
    card = json.loads((tmp_path / "served/1/assets.extra/model_card.json").read_text())
    assert card["token_merging"] == {"count": 2, "schedule": "constant"}


def test_the_table_of_accuracy_and_speed(tmp_path, capsys):
    model = VisionTransformer(8, 2, hidden_dim=16, depth=2, num_heads=2, num_classes=10)
    model.save(tmp_path / "model.keras")
    command = ["bench", "token-merging", tmp_path / "model.keras", "--data", "digits"]
    options = ["--counts", 5, "--rounds", 2, "--json", tmp_path / "table.json"]
    main([*map(str, command), *map(str, options)])
    rows = json.loads((tmp_path / "table.json").read_text())["results"]
    assert [row["count"] for row in rows] == [0, 5]
    assert rows[0]["speedup"] == rows[0]["agreement"] == 1
    assert all(row["images"] == 360 and 0 <= row["top1"] <= 1 for row in rows)
    assert "same as without" in capsys.readouterr().out
