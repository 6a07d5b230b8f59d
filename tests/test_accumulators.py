"""Sums that merge."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lstm_explain.accumulators import Histogram, Sums, count, total


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
