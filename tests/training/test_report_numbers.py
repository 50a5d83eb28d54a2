"""The statistics of the report against numpy and scipy, and its markup."""

import numpy as np
import pytest
from scipy import stats

from training.evaluation.calibration import calibration_bins, calibration_error
from training.report.charts import reliability_chart, scatter_chart
from training.report.embedding import EmbeddingMap, embedding_map
from training.report.html import Html, join, tag
from training.report.significance import difference_interval, mcnemar, wilson_interval


def answers(both, only_first, only_second, none):
    """Who is right about so many images each."""
    counts = [both, only_first, only_second, none]
    return np.repeat([1, 1, 0, 0], counts) == 1, np.repeat([1, 0, 1, 0], counts) == 1


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (0, 6), (3, 3), (1, 7), (2, 22), (12, 12)])
def test_mcnemar_of_few_is_the_binomial_test(b, c):
    test = mcnemar(*answers(50, b, c, 5))
    assert test[:2] == (b, c)
    assert test.is_exact
    expected = stats.binomtest(b, b + c).pvalue if b + c else 1.0
    assert test.p_value == pytest.approx(expected)


@pytest.mark.parametrize(("b", "c"), [(13, 12), (5, 20), (25, 0), (19, 50), (300, 402), (40, 40)])
def test_mcnemar_of_many_is_chi_square_with_edwards_correction(b, c):
    test = mcnemar(*answers(50, b, c, 5))
    assert not test.is_exact
    statistic = max(abs(b - c) - 1, 0) ** 2 / (b + c)
    assert test.p_value == pytest.approx(stats.chi2.sf(statistic, df=1), rel=1e-9)


def test_mcnemar_refuses_other_images():
    with pytest.raises(ValueError, match=r"not \[3\] and \[2\]"):
        mcnemar(np.ones(3), np.ones(2))


def test_the_interval_of_a_difference_is_that_of_paired_answers():
    first, second = answers(60, 10, 20, 10)
    difference = second.astype(float) - first
    mean, half = difference.mean(), 1.959964 * difference.std() / np.sqrt(100)
    expected = (mean, mean - half, mean + half)
    assert difference_interval(10, 20, 100) == pytest.approx(expected, abs=1e-6)
    assert difference_interval(0, 0, 1) == (0, 0, 0)
    with pytest.raises(ValueError, match="differ on 3 \\+ 3 images, but there are 5"):
        difference_interval(3, 3, 5)


@pytest.mark.parametrize(("right", "examples"), [(0, 10), (10, 10), (9, 10), (7812, 10_000)])
def test_the_interval_of_an_accuracy(right, examples):
    expected = stats.binomtest(right, examples).proportion_ci(method="wilson")
    assert wilson_interval(right, examples) == pytest.approx(tuple(expected), abs=1e-9)


def test_an_accuracy_that_cannot_be():
    for right, examples in ((1, 0), (0, 0), (-1, 3), (4, 3)):
        with pytest.raises(ValueError, match="cannot be right"):
            wilson_interval(right, examples)


@pytest.mark.parametrize("shape", [(50, 7), (20, 64), (9, 9), (2, 5), (5, 2)])
def test_the_map_is_that_of_the_singular_values(shape):
    features = np.random.default_rng(0).normal(3, 1, shape).astype("float32")
    found = embedding_map(features)
    centred = features.astype("float64") - features.astype("float64").mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    expected = (u * s)[:, :2]
    np.testing.assert_allclose(np.abs(found.points), np.abs(expected), atol=1e-6)
    np.testing.assert_allclose(found.explained, (s**2 / (s**2).sum())[:2], atol=1e-9)
    for column in found.points.T:
        assert column[np.abs(column).argmax()] >= 0


def test_maps_of_next_to_nothing():
    for features in (np.full([30, 5], 7.3), np.ones([1, 4]), np.zeros([3, 1])):
        found = embedding_map(features)
        np.testing.assert_array_equal(found.points, np.zeros([len(features), 2]))
        np.testing.assert_array_equal(found.explained, [0, 0])
    line = embedding_map(np.arange(4.0)[:, None])
    np.testing.assert_allclose(np.abs(line.points), [[1.5, 0], [0.5, 0], [0.5, 0], [1.5, 0]])
    np.testing.assert_allclose(line.explained, [1, 0])
    with pytest.raises(ValueError, match=r"not of \[0, 4\]"):
        embedding_map(np.ones([0, 4]))
    with pytest.raises(ValueError, match="not finite"):
        embedding_map(np.array([[np.nan, 1.0], [0.0, 1.0]]))


def test_bins_agree_with_their_error():
    rng = np.random.default_rng(0)
    confidences = rng.uniform(0.2, 1, 500)
    correct = rng.uniform(size=500) < confidences**2
    bins = calibration_bins(confidences, correct)
    assert bins.counts.sum() == 500
    for index in range(15):
        inside = (confidences > index / 15) & (confidences <= (index + 1) / 15)
        assert bins.counts[index] == inside.sum()
        if inside.any():
            assert bins.accuracies[index] == pytest.approx(correct[inside].mean())
            assert bins.confidences[index] == pytest.approx(confidences[inside].mean())
        else:
            assert np.isnan(bins.accuracies[index])
    full = bins.counts > 0
    gaps = np.abs(bins.accuracies - bins.confidences)[full]
    expected = (gaps * bins.counts[full]).sum() / 500
    assert calibration_error(confidences, correct) == pytest.approx(expected)


def test_charts_of_one_example():
    bins = calibration_bins(np.array([1.0]), np.array([False]))
    chart = reliability_chart(bins, '<"model">')
    assert "&lt;&quot;model&quot;&gt;" in chart
    assert "accuracy 0.000" in chart
    point = scatter_chart(
        EmbeddingMap(np.zeros([1, 2]), np.zeros(2)), np.zeros(1, int), np.zeros(1, bool), ["a<b"],
        [(0, "<i>")], "m",
    )  # fmt: skip
    assert 'cx="280.0"' in point
    assert "a&lt;b" in point
    assert "&lt;i&gt;" in point
    assert "nan" not in point + chart


def test_markup_escapes_all_but_markup():
    assert tag("p", "<", Html("<hr>"), None, title='"&') == '<p title="&quot;&amp;">&lt;<hr></p>'
    assert tag("img", alt="") == '<img alt="">'
    assert tag("p", tag("b", "x & y")) == "<p><b>x &amp; y</b></p>"
    assert join(["a>b", Html("<br>")], "\n") == "a&gt;b\n<br>"
