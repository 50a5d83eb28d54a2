"""Mixup and CutMix: shares, boxes and partners."""

import numpy as np
import pytest
import tensorflow as tf

from training.augmentation.config import Augmentation
from training.augmentation.mixing import mix_batch, mix_pairs, mixup


def over_seeds(function, count):
    """function(seed) for many seeds, in a tf.data graph."""
    dataset = tf.data.Dataset.range(count).map(lambda i: function(tf.stack([11, i])))
    return list(dataset.as_numpy_iterator())


# === The mixup of big_vision ===


def mixed(beta, seed, batch=4):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch, 6, 5, 3)).astype(np.float32)
    targets = np.eye(batch, dtype=np.float32)
    new = mixup(images, targets, tf.constant([2, seed], tf.int64), beta)
    return images, targets, *(part.numpy() for part in new)


@pytest.mark.parametrize("seed", range(5))
def test_mixup_blends_with_the_neighbour_images_and_targets_alike(seed):
    images, targets, new_images, new_targets = mixed(1.0, seed)
    a = new_targets[0, 0]
    assert 0.5 <= a < 1
    np.testing.assert_allclose(new_targets.sum(axis=1), 1, atol=1e-6)
    for i in range(4):
        expected = a * images[i] + (1 - a) * images[i - 1]
        np.testing.assert_allclose(new_images[i], expected, atol=1e-6)
        np.testing.assert_allclose(
            new_targets[i], a * targets[i] + (1 - a) * targets[i - 1], atol=1e-6
        )


def shares(beta, count=2000):
    images, targets = tf.zeros([2, 1, 1, 3]), tf.eye(2)
    return np.array(over_seeds(lambda seed: mixup(images, targets, seed, beta)[1][0, 0], count))


@pytest.mark.parametrize("beta", [0.2, 1.0])
def test_the_share_follows_the_folded_beta_distribution(beta):
    from scipy import stats

    # a = max(b, 1 - b) for b ~ Beta: P(a <= t) = P(1 - t <= b <= t).
    distribution = stats.beta(beta, beta)
    result = stats.kstest(
        shares(beta), lambda t: distribution.cdf(t) - distribution.cdf(1 - np.asarray(t))
    )
    assert result.pvalue > 0.001


def test_a_share_is_a_number_for_the_smallest_beta():
    a = shares(1e-4, 300)
    assert np.isfinite(a).all()
    assert ((a >= 0.5) & (a <= 1)).all()


def test_mixup_of_the_same_seed_is_the_same_and_of_another_is_another():
    first, again, other = (mixed(0.5, seed)[2] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


# === Pairs, after timm ===


def pairs(count=1, batch=4, size=(20, 30), **options):
    """Images of one level each, their place in the batch, and one-hot targets."""
    images = np.broadcast_to(np.arange(batch)[:, None, None, None], (batch, *size, 3))
    images, targets = tf.constant(images, tf.float32), tf.eye(batch)
    options = {"mixup_beta": 0.0, "cutmix_beta": 0.0} | options
    return over_seeds(lambda seed: mix_pairs(images, targets, seed, **options), count)


def partner_of(i, batch):
    return min(i ^ 1, batch - 1)


@pytest.mark.parametrize("batch", [1, 2, 5, 8])
@pytest.mark.parametrize("kind", ["mixup_beta", "cutmix_beta"])
def test_neighbours_are_mixed_and_an_odd_one_stays(kind, batch):
    for images, targets in pairs(8, batch=batch, **{kind: 1.0}):
        np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
        for i in range(batch):
            other = partner_of(i, batch)
            mean = images[i].mean()
            share = targets[i, i]
            if other == i:
                assert share == 1
                np.testing.assert_allclose(images[i], i, rtol=1e-6)
            else:
                assert share + targets[i, other] == pytest.approx(1, abs=1e-6)
                assert mean == pytest.approx(share * i + (1 - share) * other, abs=1e-4)


def test_a_cutmix_takes_one_box_of_the_partner():
    for images, targets in pairs(60, cutmix_beta=1.0):
        assert set(np.unique(images[0])) <= {0.0, 1.0}
        box = images[0, :, :, 0] == 1
        np.testing.assert_array_equal(images[0], np.repeat(box[..., None], 3, axis=-1))
        np.testing.assert_array_equal(images[1, :, :, 0] == 0, box)  # the same place, both ways
        in_rows, in_columns = box.any(axis=1), box.any(axis=0)
        np.testing.assert_array_equal(box, in_rows[:, None] & in_columns)  # a rectangle
        for line in (in_rows, in_columns):
            assert (np.diff(np.flatnonzero(line)) == 1).all()
        assert targets[0, 0] == pytest.approx(1 - box.mean(), abs=1e-6)  # the area itself


def test_cutmix_boxes_follow_the_formula():
    # lambda ~ Beta(1, 1), sides by sqrt(1 - lambda), a centre anywhere, cut off at the border.
    rng = np.random.default_rng(0)
    height, width, count = 20, 30, 4000
    ratio = np.sqrt(1 - rng.uniform(size=count))
    kept = []
    for h, w in zip((height * ratio).astype(int), (width * ratio).astype(int), strict=True):
        y, x = rng.integers(height), rng.integers(width)
        rows = min(y + (h + 1) // 2, height) - max(y - h // 2, 0)
        columns = min(x + (w + 1) // 2, width) - max(x - w // 2, 0)
        kept.append(1 - rows * columns / (height * width))
    from scipy import stats

    ours = [targets[0, 0] for _, targets in pairs(1500, batch=2, cutmix_beta=1.0)]
    assert stats.ks_2samp(ours, kept).pvalue > 0.001


@pytest.mark.parametrize("beta", [0.2, 0.8])
def test_a_mixup_share_follows_the_beta_distribution(beta):
    from scipy import stats

    shares = [targets[0, 0] for _, targets in pairs(1500, batch=2, size=(1, 1), mixup_beta=beta)]
    assert stats.kstest(shares, stats.beta(beta, beta).cdf).pvalue > 0.001


def is_cut(images):
    return set(np.unique(images)) <= {0.0, 1.0, 2.0, 3.0}


@pytest.mark.parametrize("switch_prob", [0.0, 0.3, 1.0])
def test_cutmix_takes_the_place_of_mixup_as_often_as_told(switch_prob):
    results = pairs(400, mixup_beta=0.8, cutmix_beta=1.0, switch_prob=switch_prob)
    cut = np.mean([is_cut(images) for images, _ in results])
    assert cut == pytest.approx(switch_prob, abs=0.08)


@pytest.mark.parametrize("options", [{"mixup_beta": 1.0}, {"cutmix_beta": 1.0}])
def test_a_batch_is_mixed_as_often_as_told(options):
    results = pairs(400, prob=0.25, **options)
    plain = np.mean([np.array_equal(targets, np.eye(4)) for _, targets in results])
    assert plain == pytest.approx(0.75, abs=0.08)
    for images, targets in results:
        if np.array_equal(targets, np.eye(4)):
            assert (images == np.arange(4)[:, None, None, None]).all()


def test_an_even_part_of_a_batch_is_mixed_as_in_the_whole():
    images, targets = tf.random.normal([6, 8, 8, 3], seed=1), tf.eye(6)
    seed = tf.constant([3, 4], tf.int64)
    options = {"mixup_beta": 0.8, "cutmix_beta": 1.0}
    whole = mix_pairs(images, targets, seed, **options)
    part = mix_pairs(images[2:], targets[2:], seed, **options)
    for a, b in zip(whole, part, strict=True):
        np.testing.assert_allclose(a[2:], b, atol=1e-6)


def test_pairs_without_anything_to_do_are_refused():
    with pytest.raises(ValueError, match="mixup_beta or a cutmix_beta above 0"):
        mix_pairs(tf.zeros([2, 4, 4, 3]), tf.eye(2), [0, 1], mixup_beta=0.0, cutmix_beta=0.0)


# === By the settings ===


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_the_settings_choose_the_kind(batch):
    images, targets = tf.random.normal([batch, 8, 8, 3], seed=1), tf.eye(batch)
    seed = tf.constant([3, 4], tf.int64)
    expected = {
        Augmentation(): (images, targets),
        Augmentation(mixup=0.5): mixup(images, targets, seed, 0.5),
        Augmentation(mixup=0.5, mixup_kind="timm"): mix_pairs(
            images, targets, seed, mixup_beta=0.5, cutmix_beta=0.0
        ),
        Augmentation(cutmix=0.5, mix_prob=0.9, mixup_kind="timm"): mix_pairs(
            images, targets, seed, mixup_beta=0.0, cutmix_beta=0.5, prob=0.9
        ),
    }
    for settings, results in expected.items():
        for ours, theirs in zip(mix_batch(images, targets, seed, settings), results, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_batch_of_unknown_size_is_mixed():
    dataset = tf.data.Dataset.from_tensor_slices((tf.zeros([5, 4, 4, 3]), tf.eye(5))).batch(4)
    settings = Augmentation(mixup=0.8, cutmix=1.0, mixup_kind="timm")
    seed = tf.constant([3, 4], tf.int64)
    dataset = dataset.map(lambda x, y: mix_batch(x, y, seed, settings))
    assert [y.shape[0] for _, y in dataset] == [4, 1]


@pytest.mark.parity
def test_the_share_of_a_box_is_that_of_timm():
    import peers

    peers.timm()
    from timm.data.mixup import cutmix_bbox_and_lam

    np.random.seed(0)  # noqa: NPY002 (timm draws from it)
    theirs = [
        cutmix_bbox_and_lam((2, 3, 20, 30), lam)[1]
        for lam in np.random.default_rng(1).uniform(size=3000)
    ]
    from scipy import stats

    ours = [targets[0, 0] for _, targets in pairs(1500, batch=2, cutmix_beta=1.0)]
    assert stats.ks_2samp(ours, theirs).pvalue > 0.001
