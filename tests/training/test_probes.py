"""Probes on features, against float64 references that take other ways to the same numbers."""

import numpy as np
import pytest

from training.probes import Features, few_shot, linear_probe, neighbour_scores, neighbours
from training.probes.few_shot_regression import draw_orders, fit_regression
from training.probes.linear import hold_out
from training.probes.run import probe_names, run_probes


def clusters(size, dimensions=24, num_classes=5, noise=2.0, seed=0, centres_seed=0):
    """Features around a centre for each class, with offsets and scales as real ones have."""
    centres = np.random.default_rng(centres_seed).normal(size=[num_classes, dimensions])
    rng = np.random.default_rng(seed + 100)
    labels = rng.integers(0, num_classes, size)
    values = centres[labels] + noise * rng.normal(size=[size, dimensions])
    values = values * np.linspace(0.01, 30, dimensions) + np.linspace(-5, 5, dimensions)
    return Features(values.astype("float32"), labels)


TRAIN, TEST = clusters(400), clusters(150, seed=1)


# === Few shots ===


def big_vision_weights(x, y, num_classes, l2=1024.0):
    """As `fewshot_lsr` computes them, by eigenvectors: mean, deviation and weights."""
    x = np.asarray(x, np.float64)
    mean, deviation = x.mean(0, keepdims=True), x.std(0, keepdims=True) + 1e-5
    x = np.pad((x - mean) / deviation, ((0, 0), (0, 1)), constant_values=100.0)
    y = 2.0 * np.eye(num_classes)[y] - 1.0
    if x.shape[0] >= x.shape[1]:
        eigenvalues, q = np.linalg.eigh(x.T @ x)
        left, right = q, q.T @ (x.T @ y)
    else:
        eigenvalues, q = np.linalg.eigh(x @ x.T)
        left, right = x.T @ q, q.T @ y
    return mean, deviation, (left / (eigenvalues + l2)) @ right


def big_vision_accuracy(train, test, num_classes, shots, seed):
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(np.where(train.labels == c)[0]) for c in range(num_classes)]
    drawn = np.concatenate([order[:shots] for order in orders])
    mean, deviation, weights = big_vision_weights(
        train.values[drawn], train.labels[drawn], num_classes
    )
    x = (test.values.astype(np.float64) - mean) / deviation
    x = np.pad(x, ((0, 0), (0, 1)), constant_values=100.0)
    return np.mean((x @ weights).argmax(1) == test.labels)


@pytest.mark.parametrize("size", [1, 2, 12, 24, 25, 26, 400])
def test_regression_equals_the_reference(size):
    """Fewer examples than dimensions, as many, one more for the bias, and many more."""
    values, labels = TRAIN.values[:size], TRAIN.labels[:size]
    mean, deviation, weights = big_vision_weights(values, labels, 5)
    model = fit_regression(values, labels, 5)
    np.testing.assert_allclose(model.weights, weights, rtol=0, atol=1e-6)
    x = np.pad((TEST.values.astype(np.float64) - mean) / deviation, ((0, 0), (0, 1)))
    x[:, -1] = 100
    np.testing.assert_allclose(model.scores(TEST.values), x @ weights, rtol=1e-6, atol=1e-6)


def test_both_forms_solve_the_same_equations():
    for size in (10, 300):
        values = TRAIN.values[:size].astype(np.float64)
        x = (values - values.mean(0)) / (values.std(0) + 1e-5)
        x = np.hstack([x, np.full([size, 1], 100.0)])
        y = np.where(TRAIN.labels[:size, None] == np.arange(5), 1.0, -1.0)
        weights = fit_regression(TRAIN.values[:size], TRAIN.labels[:size], 5).weights
        np.testing.assert_allclose(x.T @ (x @ weights - y) + 1024 * weights, 0, atol=1e-6)


def test_few_shot_equals_the_reference():
    result = few_shot(TRAIN, TEST, 5)
    assert list(result.accuracies) == [1, 5, 10, 25]
    for shots, accuracies in result.accuracies.items():
        expected = [big_vision_accuracy(TRAIN, TEST, 5, shots, seed) for seed in (0, 1, 2)]
        assert accuracies == pytest.approx(expected, abs=1e-12)
        assert result.top1(shots) == pytest.approx(np.mean(expected))
    assert result.top1(25) > result.top1(1) > 0.2
    assert result == few_shot(TRAIN, TEST, 5)
    assert result.accuracies[5] != few_shot(TRAIN, TEST, 5, seeds=(7, 8, 9)).accuracies[5]


def test_shots_are_examples_of_their_class():
    orders = draw_orders(TRAIN.labels, 5, seed=3)
    assert [set(TRAIN.labels[order]) for order in orders] == [{0}, {1}, {2}, {3}, {4}]
    assert sorted(np.concatenate(orders)) == list(range(400))


def test_a_class_with_fewer_examples_gives_all_it_has():
    keep = (TRAIN.labels != 2) | (np.cumsum(TRAIN.labels == 2) <= 3)
    train = Features(
        TRAIN.values[keep & (TRAIN.labels != 4)], TRAIN.labels[keep & (TRAIN.labels != 4)]
    )
    result = few_shot(train, TEST, 5, shots=[1, 3, 5])
    assert result.short_classes == {1: 1, 3: 1, 5: 2}  # there is no 4, and only three of 2
    expected = [big_vision_accuracy(train, TEST, 5, 5, seed) for seed in (0, 1, 2)]
    assert result.accuracies[5] == pytest.approx(expected)
    lines = []
    run_probes(train, TEST, 5, kinds=["fewshot"], shots=[3, 5], report=lines.append)
    assert lines[1].startswith("5 shots: 2 of 5 classes have fewer training examples")


def test_large_test_sets_go_in_parts(monkeypatch):
    whole = few_shot(TRAIN, TEST, 5)
    monkeypatch.setattr("training.probes.few_shot_regression._ROWS", 7)
    assert few_shot(TRAIN, TEST, 5) == whole


# === Neighbours ===


def votes(train, test, num_classes, k, temperature):
    """One test example after the other."""
    x = train.values.astype(np.float64)
    x = x / np.sqrt((x**2).sum(1))[:, None]
    weighted, plain = np.zeros([2, len(test.values), num_classes])
    for index, value in enumerate(test.values.astype(np.float64)):
        similarity = x @ (value / np.sqrt((value**2).sum()))
        nearest = sorted(range(len(x)), key=lambda place: -similarity[place])[:k]
        for place in nearest:
            weighted[index, train.labels[place]] += np.exp(similarity[place] / temperature)
            plain[index, train.labels[place]] += 1
    return weighted / weighted.sum(1, keepdims=True), plain / k


@pytest.mark.parametrize("chunks", [(512, 32_768), (7, 11), (1, 400), (150, 1)])
@pytest.mark.parametrize("k", [1, 20, 400])
def test_neighbours_equal_the_reference(k, chunks, monkeypatch):
    monkeypatch.setattr("training.probes.nearest_neighbours._TEST_ROWS", chunks[0])
    monkeypatch.setattr("training.probes.nearest_neighbours._TRAIN_ROWS", chunks[1])
    expected = votes(TRAIN, TEST, 5, k, 0.07)
    for given, wanted in zip(neighbour_scores(TRAIN, TEST, 5, k), expected, strict=True):
        np.testing.assert_allclose(given, wanted, rtol=0, atol=1e-6)
    result = neighbours(TRAIN, TEST, 5, k)
    assert result.top1 == pytest.approx(np.mean(expected[0].argmax(1) == TEST.labels))
    assert result.plain_top1 == pytest.approx(np.mean(expected[1].argmax(1) == TEST.labels))


def test_neighbours_ignore_length_and_find_themselves():
    longer = Features(TRAIN.values * np.linspace(0.1, 9, 400)[:, None], TRAIN.labels)
    for given, wanted in zip(
        neighbour_scores(longer, TEST, 5), neighbour_scores(TRAIN, TEST, 5), strict=True
    ):
        np.testing.assert_allclose(given, wanted, atol=1e-5)
    assert neighbours(TRAIN, TRAIN, 5, k=1).top1 == 1.0
    cold, _ = neighbour_scores(TRAIN, TRAIN, 5, temperature=1e-4)  # only the nearest counts
    assert (cold.argmax(1) == TRAIN.labels).all()
    assert np.isfinite(cold).all()


def test_features_of_zeros_vote_and_are_voted_on():
    train = Features(np.zeros([3, 4], "float32"), np.array([0, 1, 1]))
    weighted, plain = neighbour_scores(train, train, 2, k=3)
    np.testing.assert_allclose(weighted, [[1 / 3, 2 / 3]] * 3)
    np.testing.assert_allclose(plain, weighted)


# === Linear ===


def regression_loss(parameters, x, y, num_classes, l2):
    """Mean cross-entropy and penalty, and the gradient."""
    weights = parameters.reshape(x.shape[1] + 1, num_classes)
    logits = x @ weights[:-1] + weights[-1]
    logits = logits - logits.max(1, keepdims=True)
    log_shares = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    loss = -log_shares[np.arange(len(y)), y].mean() + l2 / 2 * (weights[:-1] ** 2).sum()
    error = (np.exp(log_shares) - np.eye(num_classes)[y]) / len(y)
    gradient = np.vstack([x.T @ error + l2 * weights[:-1], error.sum(0)])
    return loss, gradient.ravel()


def accuracy_of_regression(train, test, num_classes, l2):
    from scipy.optimize import minimize

    values = train.values.astype(np.float64)
    mean, deviation = values.mean(0), values.std(0)
    found = minimize(
        regression_loss,
        np.zeros([train.values.shape[1] + 1, num_classes]).ravel(),
        args=((values - mean) / deviation, train.labels, num_classes, l2),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 5000, "gtol": 1e-9, "ftol": 1e-14},
    )
    weights = found.x.reshape(-1, num_classes)
    logits = (test.values.astype(np.float64) - mean) / deviation @ weights[:-1] + weights[-1]
    return np.mean(logits.argmax(1) == test.labels)


def test_linear_probe_equals_the_reference():
    penalties = (0.01, 0.1, 1.0)
    result = linear_probe(TRAIN, TEST, 5, penalties)
    held_out = hold_out(TRAIN.labels, seed=0)
    part = Features(TRAIN.values[~held_out], TRAIN.labels[~held_out])
    rest = Features(TRAIN.values[held_out], TRAIN.labels[held_out])
    for l2 in penalties:
        expected = accuracy_of_regression(part, rest, 5, l2)
        assert result.held_out[l2] == pytest.approx(expected, abs=1.01 / len(rest.labels))
    assert result.held_out[result.l2] == max(result.held_out.values())
    expected = accuracy_of_regression(TRAIN, TEST, 5, result.l2)
    assert result.top1 == pytest.approx(expected, abs=1.01 / len(TEST.labels))
    assert result.converged
    assert result == linear_probe(TRAIN, TEST, 5, penalties)


def test_the_test_split_takes_no_part_in_the_choice():
    wrong = Features(TEST.values, (TEST.labels + 1) % 5)
    ours, theirs = linear_probe(TRAIN, TEST, 5), linear_probe(TRAIN, wrong, 5)
    assert (ours.l2, ours.held_out) == (theirs.l2, theirs.held_out)
    assert ours.top1 > theirs.top1


def test_a_fifth_of_each_class_is_held_out():
    labels = np.repeat([0, 1, 2, 3], [50, 10, 2, 1])
    for seed in (0, 1):
        chosen = hold_out(labels, seed)
        assert np.bincount(labels[chosen], minlength=4).tolist() == [10, 2, 1, 0]
    assert (hold_out(labels, 0) != hold_out(labels, 1)).any()


def test_of_equal_penalties_the_strongest_is_taken():
    train = Features(np.eye(3, dtype="float32")[np.arange(60) % 3], np.arange(60) % 3)
    result = linear_probe(train, train, 3, penalties=[1e-3, 0.1, 1e-2])
    assert result.l2 == 0.1


def test_classes_without_training_examples():
    keep = TRAIN.labels != 1
    train = Features(TRAIN.values[keep], TRAIN.labels[keep])
    result = linear_probe(train, TEST, 5, penalties=[0.1])
    assert result.top1 < 1 - np.mean(TEST.labels == 1) + 1e-9


# === What is refused ===


@pytest.mark.parametrize("probe", [few_shot, neighbours, linear_probe])
def test_features_that_do_not_fit(probe):
    empty = Features(np.zeros([0, 24], "float32"), np.zeros(0, int))
    for train, test, message in [
        (empty, TEST, "train features have the shape"),
        (TRAIN, Features(TEST.values, TEST.labels[1:]), "test features have the shape"),
        (Features(TRAIN.values * np.nan, TRAIN.labels), TEST, "train features hold numbers"),
        (
            TRAIN,
            Features(TEST.values[:, 1:], TEST.labels),
            "24 dimensions and the test features 23",
        ),
        (Features(TRAIN.values, TRAIN.labels + 1), TEST, "go from 1 to 5: expected are 0 to 4"),
    ]:
        with pytest.raises(ValueError, match=message):
            probe(train, test, 5)


def test_arguments_out_of_range():
    for call, message in [
        (lambda: few_shot(TRAIN, TEST, 5, shots=[0]), "1 or more, not 0"),
        (lambda: few_shot(TRAIN, TEST, 5, shots=[]), "not nothing"),
        (lambda: few_shot(TRAIN, TEST, 5, seeds=[]), "no seed"),
        (lambda: few_shot(TRAIN, TEST, 5, l2=0), "l2 must be above 0"),
        (lambda: neighbours(TRAIN, TEST, 5, k=401), "choose from 1 to 400"),
        (lambda: neighbours(TRAIN, TEST, 5, k=0), "choose from 1 to 400"),
        (lambda: neighbours(TRAIN, TEST, 5, temperature=0), "temperature must be above 0"),
        (lambda: linear_probe(TRAIN, TEST, 5, penalties=[0.0]), "penalties must be above 0"),
        (lambda: linear_probe(TRAIN, TEST, 5, penalties=[]), "not nothing"),
        (lambda: linear_probe(Features(TRAIN.values[:1], TRAIN.labels[:1]), TEST, 5), "one class"),
        (
            lambda: linear_probe(Features(TRAIN.values[:2], np.array([0, 1])), TEST, 5),
            "no class with two of them",
        ),
        (lambda: probe_names(["svm"]), "fewshot, knn, linear: choose some of these, not svm"),
        (lambda: probe_names([]), "not nothing"),
        (lambda: probe_names(["fewshot"], [0]), "1 or more, not 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


def test_run_probes_gives_the_names_in_the_order_that_was_asked_for():
    kinds, shots = ["linear", "fewshot", "knn"], [5, 1]
    numbers = run_probes(TRAIN, TEST, 5, kinds, shots)
    assert list(numbers) == probe_names(kinds, shots)
    assert numbers["knn_top1"] == pytest.approx(neighbours(TRAIN, TEST, 5).top1, abs=1e-6)
    assert numbers["fewshot_5_top1"] == pytest.approx(few_shot(TRAIN, TEST, 5).top1(5), abs=1e-6)
    assert numbers["linear_top1"] == pytest.approx(linear_probe(TRAIN, TEST, 5).top1, abs=1e-6)
