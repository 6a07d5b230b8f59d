"""Sums that merge."""

import math
from hashlib import blake2b

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from lstm_explain.accumulators import First, Gram, Moments, Sums, count, finite_steps, in_circle, tally, total
from lstm_explain.errors import InputError
from lstm_explain.nn.kernels import native


def test_count_and_total_equal_numpy():
    values = torch.randn(500, 7)
    np.testing.assert_array_equal(count(values > 0.3), (values > 0.3).numpy().sum(0))
    np.testing.assert_allclose(total(values), values.double().numpy().sum(0), rtol=0, atol=1e-12)


def test_totals_are_taken_in_float64():
    values = torch.full((100_000, 1), 0.1, dtype=torch.float32)
    assert total(values)[0] == pytest.approx(float(values[0, 0]) * 100_000, abs=1e-9)


BACKENDS = pytest.mark.parametrize(
    "backend",
    ["torch", pytest.param("native", marks=pytest.mark.skipif(native.backend().name == "torch", reason=native.backend().why))],
)
ASKED = {"low": (0.1, 0.05), "high": (0.9, 0.95), "edges": np.linspace(0, 1, 41), "ln": True}


@st.composite
def signals(draw):
    """A signal between 0 and 1 and a little beyond, which holds thresholds and edges, of some strides, and where it counts."""
    batch, time, units = draw(st.integers(1, 3)), draw(st.sampled_from([1, 5, 70])), draw(st.sampled_from([1, 3, 16, 37]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    values = rng.choice([*np.linspace(0, 1, 41), 0.1, 0.9, 1.01, -0.01, 1e-30, *rng.random(20)], (time, batch, 2, units))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    signal = torch.from_numpy(values).to(dtype)[:, :, draw(st.integers(0, 1))].transpose(0, 1)
    return signal, torch.from_numpy(rng.random((batch, time)) < 0.8)


def assert_is_numpys(found, signal, valid):
    values = signal[valid].numpy()
    finite = np.isfinite(values)
    counted = np.where(finite, values, 0).astype(np.float64)
    np.testing.assert_array_equal(found.nonfinite, (~finite).sum(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        ends = (
            [(values < values.dtype.type(low)).sum(0) for low in ASKED["low"]],
            [(values > values.dtype.type(high)).sum(0) for high in ASKED["high"]],
        )
        logarithms = np.log(values.astype(np.float64)).sum(0)
    for sides, expected in zip((found.below, found.above), ends, strict=True):
        np.testing.assert_array_equal(sides, np.array(expected))
    np.testing.assert_array_equal(found.histogram, np.histogram(values[finite], 40, (0.0, 1.0))[0])
    np.testing.assert_allclose(found.total, counted.sum(0), rtol=1e-13, atol=1e-12)
    np.testing.assert_allclose(found.squares, (counted**2).sum(0), rtol=1e-13, atol=1e-12)
    np.testing.assert_allclose(found.ln, logarithms, rtol=1e-12, atol=1e-12)


@BACKENDS
@given(drawn=signals())
def test_a_tally_equals_numpys(backend, drawn):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LSTM_EXPLAIN_BACKEND", backend)
        assert_is_numpys(tally(*drawn, **ASKED), *drawn)


@BACKENDS
@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, 1e-45])
def test_what_is_not_finite_is_counted_and_left_out_and_a_logarithm_says_so(backend, value, monkeypatch):
    monkeypatch.setenv("LSTM_EXPLAIN_BACKEND", backend)
    signal = torch.full((2, 130, 18), 0.9)
    signal[1, 77, 17] = value
    signal[0, 3] = 1e-45
    assert_is_numpys(tally(signal, torch.ones(2, 130, dtype=torch.bool), **ASKED), signal, torch.ones(2, 130, dtype=torch.bool))


@BACKENDS
def test_a_product_of_very_small_numbers_has_a_logarithm(backend, monkeypatch):
    monkeypatch.setenv("LSTM_EXPLAIN_BACKEND", backend)
    valid = torch.ones(1, 200, dtype=torch.bool)
    for dtype, small in ((torch.float32, 1e-38), (torch.float64, 1e-300), (torch.float64, 5e-324)):
        signal = torch.full((1, 200, 3), small, dtype=dtype)
        np.testing.assert_allclose(tally(signal, valid, ln=True).ln, 200 * math.log(float(signal[0, 0, 0])), rtol=1e-12)


@BACKENDS
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bins", [3, 49, 1000])
@pytest.mark.parametrize("ends", [(0.0, 1.0), (-2.0, 6.0)])
def test_values_at_the_edges_of_bins_fall_where_numpy_has_them(ends, bins, dtype, backend, monkeypatch):
    monkeypatch.setenv("LSTM_EXPLAIN_BACKEND", backend)
    edges = np.linspace(*ends, bins + 1)
    at = edges.astype(dtype)
    values = np.concatenate([at, np.nextafter(at, dtype(9)), np.nextafter(at, dtype(-9)), np.resize(at, 32)])
    for units in (1, 16):  # alone, and side by side
        signal = torch.from_numpy(values[: len(values) // units * units].reshape(1, -1, units))
        found = tally(signal, torch.ones(signal.shape[:2], dtype=torch.bool), edges=edges)
        np.testing.assert_array_equal(found.histogram, np.histogram(signal.numpy(), bins, ends)[0])


@BACKENDS
def test_threads_share_the_units(backend, monkeypatch):
    monkeypatch.setenv("LSTM_EXPLAIN_BACKEND", backend)
    signal, valid = torch.rand(3, 200, 50), torch.ones(3, 200, dtype=torch.bool)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert_is_numpys(tally(signal, valid, **ASKED), signal, valid)
    finally:
        torch.set_num_threads(threads)


@given(st.lists(st.integers(0, 60), max_size=4), st.permutations(range(5)))
def test_any_split_in_any_order_merges_to_the_same_counts(cuts, order):
    values = torch.rand(60, 3, generator=torch.Generator().manual_seed(1))
    bounds = [0, *sorted(cuts), 60]
    parts = [values[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
    sums = Sums()
    for at in [at for at in order if at < len(parts)]:
        counted = Sums()
        counted.add("n", count(parts[at] > 0.5))
        sums.merge(counted)
    np.testing.assert_array_equal(sums["n"], count(values > 0.5))


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


@given(st.lists(st.integers(0, 50), unique=True), st.integers(1, 9), st.randoms())
def test_the_first_are_the_same_in_any_order_and_split(keys, count, random):
    streams = [First(count) for _ in range(3)]
    for key in keys:
        random.choice(streams).add((key, "key"), str(key))
    one, two, three = random.sample(streams, 3)
    two.merge(three)
    one.merge(two)
    assert list(one) == [str(key) for key in sorted(keys)[:count]]
    assert one.admits((-1, "key")) and one.admits((99, "key")) == (len(keys) < count)


def test_a_circle_goes_round():
    series = np.arange(12).reshape(2, 6)
    assert in_circle(series, np.array([0, 3])).tolist() == [[0, 1, 2, 3, 4, 5], [9, 10, 11, 6, 7, 8]]
    assert in_circle(series, np.array([5, 1])).tolist() == [[5, 0, 1, 2, 3, 4], [7, 8, 9, 10, 11, 6]]


def test_moments_are_numpys_about_any_reference():
    rng = np.random.default_rng(0)
    sequences = [rng.normal(size=(n, 4)) + 100 for n in (9, 1, 30, 14)]
    whole, one, other = (Moments(3, seed=1) for _ in range(3))
    for at, steps in enumerate(sequences):
        whole.update(steps)
        (one if at % 2 else other).update(steps)
    one.merge(Moments(3, seed=1))
    one.merge(other)
    everything = np.concatenate(sequences)
    for found in (whole, one):
        np.testing.assert_allclose(found.mean, everything.mean(0), rtol=0, atol=1e-12)
        np.testing.assert_allclose(found.covariance, np.cov(everything.T, bias=True), rtol=0, atol=1e-12)
        assert found.n == 54 and (found.low == everything.min(0)).all() and (found.high == everything.max(0)).all()
    empty = Moments()
    empty.update(np.zeros((0, 4)))
    assert empty.n == 0


def test_from_ten_sequences_on_units_are_turned_upside_down_in_some_of_them():
    rng = np.random.default_rng(0)
    sequences = [rng.normal(size=(n, 4)) + rng.normal(size=4) + 3 for n in rng.integers(1, 9, 10)]
    whole, one, other = (Moments(3, seed=1) for _ in range(3))
    for at, steps in enumerate(sequences):
        assert not at or whole.by_chance.shape == (0, 4, 4)
        whole.update(steps)
        (one if at % 2 else other).update(steps)
    other.merge(one)
    everything = np.concatenate(sequences)
    by = [int.from_bytes(blake2b(steps.tobytes(), digest_size=16).digest()) for steps in sequences]
    signs = [np.where(np.random.default_rng([1, one]).random((3, 4)) < 0.5, -1, 1) for one in by]
    for draw in range(3):
        turned = []
        for own, steps in zip(signs, sequences, strict=True):
            # Less the mean of all steps, one of means that vary alike keeps (1 - w)² of its variance and gets w² of each other one's.
            others = np.array([len(one) for one in sequences if one is not steps]) / len(everything)
            apart = (steps.mean(0) - everything.mean(0)) / np.sqrt((1 - len(steps) / len(everything)) ** 2 + (others**2).sum())
            turned.append(own[draw] * (steps - steps.mean(0) + apart))
        # About its own mean, and with each unit's own variance.
        whole_turned = np.concatenate(turned)
        whole_turned *= everything.std(0) / whole_turned.std(0)
        for found in (whole, other):
            np.testing.assert_allclose(found.by_chance[draw], np.cov(whole_turned.T, bias=True), rtol=0, atol=1e-12)


def test_moments_know_what_never_changed():
    moments = Moments()
    for value in (0.1, 0.1):
        moments.update(np.array([[value, 1.0], [0.1, 2.0]]))
    assert moments.constant.tolist() == [True, False]


def test_what_does_not_go_together_is_refused():
    one, other = Moments(), Moments()
    one.update(np.ones((2, 3)))
    other.update(np.ones((2, 4)))
    for call, message in [
        (lambda: one.update(np.ones((2, 4))), "needed 3 units as before, got 4"),
        (lambda: one.merge(other), "needed 3 units as before, got 4"),
        (lambda: one.merge(Moments(1)), "needed streams with the same draws and seed"),
        (lambda: one.merge(Moments(seed=1)), "needed streams with the same draws and seed"),
        (
            lambda: finite_steps(torch.tensor([[1.0], [math.nan]]), torch.tensor([True, True]), "l0 f"),
            "needed finite values of l0 f, got 1",
        ),
    ]:
        with pytest.raises(InputError, match=message):
            call()
    assert finite_steps(torch.tensor([[1.0], [math.nan]]), torch.tensor([True, False]), "l0 f").tolist() == [[1.0]]
