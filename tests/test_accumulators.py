"""Sums that merge."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from lstm_explain.accumulators import Gram, Histogram, Sums, count, total


def test_count_and_total_equal_numpy():
    values = torch.randn(500, 7)
    np.testing.assert_array_equal(count(values > 0.3), (values > 0.3).numpy().sum(0))
    np.testing.assert_allclose(total(values), values.double().numpy().sum(0), rtol=0, atol=1e-12)


def test_totals_are_taken_in_float64():
    values = torch.full((100_000, 1), 0.1, dtype=torch.float32)
    assert total(values)[0] == pytest.approx(float(values[0, 0]) * 100_000, abs=1e-9)


@given(st.lists(st.integers(0, 60), max_size=4), st.permutations(range(5)))
def test_any_split_in_any_order_merges_to_the_same_counts(cuts, order):
    values = torch.rand(60, 3, generator=torch.Generator().manual_seed(1))
    edges = np.linspace(0, 1, 11)
    whole = Histogram(edges)
    whole.update(values)
    bounds = [0, *sorted(cuts), 60]
    parts = [values[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
    merged, sums = Histogram(edges), Sums()
    for at in [at for at in order if at < len(parts)]:
        part, counted = Histogram(edges), Sums()
        part.update(parts[at])
        counted.add("n", count(parts[at] > 0.5))
        merged.merge(part)
        sums.merge(counted)
    np.testing.assert_array_equal(merged.counts, whole.counts)
    np.testing.assert_array_equal(sums["n"], count(values > 0.5))


def test_a_histogram_equals_numpys_and_leaves_out_what_is_not_finite():
    values = torch.tensor([0.0, 0.05, 0.1, 0.999, 1.0, float("nan"), float("inf")])
    histogram = Histogram(np.linspace(0, 1, 11))
    histogram.update(values)
    np.testing.assert_array_equal(histogram.counts, np.histogram(values[:5].numpy(), 10, (0, 1))[0])


def test_histograms_with_different_edges_do_not_add():
    with pytest.raises(ValueError, match="different edges"):
        Histogram(np.linspace(0, 1, 3)).merge(Histogram(np.linspace(0, 1, 4)))


def test_what_is_added_later_does_not_change_the_array_that_was_given():
    given_array, sums = np.ones(2), Sums()
    sums.add("x", given_array)
    sums.add("x", given_array)
    assert given_array.tolist() == [1, 1] and sums["x"].tolist() == [2, 2]


def gram_of(features, target, **options):
    gram = Gram()
    gram.update(features, target, **options)
    return gram


def same_sums(one, other):
    assert one.n == other.n
    for name in ("x", "y", "xx", "xy", "yy"):
        expected = np.asarray(getattr(other, name))
        # Relative to the largest, which is what rounding is relative to.
        np.testing.assert_allclose(getattr(one, name), expected, rtol=0, atol=1e-12 * np.abs(expected).max(initial=0), err_msg=name)


def test_a_gram_is_sums_of_products():
    rng = np.random.default_rng(0)
    features, target = rng.normal(size=(30, 4)), rng.normal(size=30)
    gram = gram_of(features, target)
    assert gram.n == 30
    for i, one in enumerate(features.T):
        assert gram.x[i] == pytest.approx(sum(one), abs=1e-12) and gram.xy[i] == pytest.approx(sum(one * target), abs=1e-12)
        for j, other in enumerate(features.T):
            assert gram.xx[i, j] == pytest.approx(sum(one * other), abs=1e-12)
    assert gram.y == pytest.approx(sum(target), abs=1e-12) and gram.yy == pytest.approx(sum(target**2), abs=1e-12)
    same_sums(gram_of(features, target, products=Gram.products(features)), gram)


@pytest.mark.parametrize("penalty", [1e-6, 1e-2, 100.0])
def test_ridge_from_a_gram_equals_scikit_learns_on_standardised_features(penalty):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 6)) * np.logspace(-2, 2, 6) + 3
    target = features[:, 1] * 20 - features[:, 4] / 5 + rng.normal(size=200) + 7
    gram = gram_of(features[:80], target[:80])
    gram.merge(gram_of(features[80:], target[80:]))
    mean = gram.x / gram.n
    scale = np.sqrt(np.diag(gram.xx) / gram.n - mean**2)
    covariance = (gram.xx / gram.n - np.outer(mean, mean)) / np.outer(scale, scale)
    weights = np.linalg.solve(covariance + penalty * np.eye(6), (gram.xy / gram.n - mean * gram.y / gram.n) / scale)
    standard = StandardScaler().fit(features)
    ridge = Ridge(alpha=penalty * 200).fit(standard.transform(features), target)
    np.testing.assert_allclose(weights, ridge.coef_, rtol=0, atol=1e-8)
    w, b = weights / scale, gram.y / gram.n - weights / scale @ mean
    error = gram.yy - 2 * (w @ gram.xy + b * gram.y) + w @ gram.xx @ w + 2 * b * (w @ gram.x) + gram.n * b**2
    assert error == pytest.approx(((target - ridge.predict(standard.transform(features))) ** 2).sum(), rel=1e-8)


@given(st.lists(st.integers(0, 60), max_size=4), st.permutations(range(5)))
def test_grams_of_any_split_in_any_order_add_up_to_the_whole(cuts, order):
    rng = np.random.default_rng(0)
    features, target = rng.normal(size=(60, 3)) + 5, rng.normal(size=60)
    bounds = [0, *sorted(cuts), 60]
    parts = [slice(a, b) for a, b in zip(bounds, bounds[1:], strict=False)]
    merged, updated = Gram(), Gram()
    for at in [at for at in order if at < len(parts)]:
        merged.merge(gram_of(features[parts[at]], target[parts[at]]))
        updated.update(features[parts[at]], target[parts[at]])
    whole = gram_of(features, target)
    same_sums(merged, whole)
    same_sums(updated, whole)


def test_a_feature_that_comes_later_was_zero_before():
    rng = np.random.default_rng(0)
    features, target = rng.normal(size=(40, 5)), rng.normal(size=40)
    features[:25, 3:] = 0
    for first, second in ((features[:25, :3], features[25:]), (features[25:], features[:25, :3])):
        gram = gram_of(first, target[:25] if len(first) == 25 else target[25:])
        gram.update(second, target[25:] if len(second) == 15 else target[:25])
        same_sums(gram, gram_of(features, target))
    merged = gram_of(features[:25, :3], target[:25])
    merged.merge(gram_of(features[25:], target[25:]))
    same_sums(merged, gram_of(features, target))
    merged.pad(7)
    assert merged.x.shape == merged.xy.shape == (7,) and merged.xx.shape == (7, 7)
    assert not merged.xx[5:].any() and not merged.xx[:, 5:].any()
    merged.pad(2)
    assert merged.x.shape == (7,)


def test_sparse_features_give_the_same_sums_as_dense_ones():
    rng = np.random.default_rng(0)
    features, target = (rng.random((50, 8)) < 0.2).astype(np.float64), rng.normal(size=50)
    sparse = gram_of(csr_array(features), target)
    same_sums(sparse, gram_of(features, target))
    same_sums(gram_of(csr_array(features), target, products=Gram.products(csr_array(features))), sparse)
    assert all(isinstance(getattr(sparse, name), np.ndarray) for name in ("x", "xy", "xx"))


def test_merging_leaves_the_other_gram_as_it_is():
    rng = np.random.default_rng(0)
    one, other = (gram_of(rng.normal(size=(9, 2)), rng.normal(size=9)) for _ in range(2))
    before = other.xx.copy(), other.x.copy(), other.n
    one.merge(other)
    one.update(rng.normal(size=(9, 4)), rng.normal(size=9))
    assert (other.xx == before[0]).all() and (other.x == before[1]).all() and other.n == 9
