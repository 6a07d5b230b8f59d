"""`compare_attributions`, against SciPy, slow definitions, and attributions that agree or don't by construction."""

import json
from dataclasses import FrozenInstanceError, replace
from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from cases import Case, close, torch_lstm
from scipy.stats import binom, spearmanr

import lstm_explain as lx
from lstm_explain.verdicts.agreement import counts, overlap, spearman

ENDS = [9, 4, 7, 9]
VALID = np.arange(9) < np.array(ENDS)[:, None]
METHODS = ("integrated_gradients", "occlusion", "saliency")


@pytest.fixture(scope="module")
def results():
    model = torch_lstm(Case("batch_first", (9,) * 4))
    inputs = torch.randn(4, 9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return {method: lx.attribute(model, inputs, target=(-1, 1), lengths=ENDS, method=method) for method in METHODS}


def test_rank_correlation_is_scipys_over_valid_steps(results):
    found = lx.compare_attributions(results)
    for one, first in enumerate(results.values()):
        for other, second in enumerate(results.values()):
            for row, end in enumerate(ENDS):
                a, b = first.by_step[row, :end], second.by_step[row, :end]
                close(found.signed.by_sequence[one, other, row], spearmanr(a, b).statistic)
                close(found.size.by_sequence[one, other, row], spearmanr(np.abs(a), np.abs(b)).statistic)
            close(found.signed.median[one, other], np.median(found.signed.by_sequence[one, other]))


def test_ties_are_ranked_as_scipy_ranks_them_and_a_constant_has_no_order():
    first, second = np.array([[0.0, 0, 1, 1, 2], [1, 1, 1, 1, 1]]), np.array([[3.0, 1, 1, 2, 2], [1, 2, 3, 4, 5]])
    found = spearman(first, second, np.ones((2, 5), bool))
    close(found[0], spearmanr(first[0], second[0]).statistic)
    assert np.isnan(found[1])


def firsts(values, k):
    """The k largest by size, in every order that ties allow."""
    orders = permutations(range(5))
    return [order[:k] for order in orders if all(abs(values[a]) >= abs(values[b]) for a, b in pairwise(order))]


def test_the_first_steps_in_common_are_those_of_all_orders_of_ties():
    first, second = np.array([3.0, -2, 2, 2, 0]), np.array([0.0, 1, 1, -5, 1])

    for k in (1, 2, 3, 4):
        # Every order of ties is as likely as any other.
        one, other = ([step in order for order in firsts(values, k) for step in range(5)] for values in (first, second))
        chances = [np.reshape(each, (-1, 5)).mean(0) for each in (one, other)]
        found, chance = overlap(first[None], second[None], np.ones((1, 5), bool), k / 5)
        close(found[0], chances[0] @ chances[1] / k)
        assert chance[0] == k / 5


def test_a_fraction_of_steps_is_rounded_up_and_never_none():
    valid = np.arange(100) < np.array([1, 3, 10, 20, 30, 100])[:, None]
    assert counts(0.1, valid).tolist() == [1, 1, 1, 2, 3, 10] and counts(0.05, valid).tolist() == [1, 1, 1, 1, 2, 5]
    assert counts(0.07, valid)[-1] == 7, "0.07 * 100 is 7.000000000000001"
    assert counts(1.0, valid).tolist() == [1, 3, 10, 20, 30, 100]


def test_an_attribution_agrees_with_itself_and_not_with_its_opposite(results):
    first = results["integrated_gradients"]
    turned = replace(first, attributions=-first.attributions)
    found = lx.compare_attributions({"it": first, "again": first, "turned": turned})
    close(found.signed.median, np.array([[1.0, 1, -1], [1, 1, -1], [-1, -1, 1]]))
    close(found.size.median, np.ones((3, 3)))


def test_random_attributions_have_in_common_what_chance_says():
    rng = np.random.default_rng(0)
    model = torch.nn.LSTM(1, 1, batch_first=True)
    why = lx.attribute(model, torch.zeros(400, 20, 1), target=(-1, 0), lengths=[20] * 400, method="occlusion")
    one, other = (replace(why, attributions=rng.normal(size=(400, 20))) for _ in range(2))
    found = lx.compare_attributions({"one": one, "other": other}, fraction=0.25)
    assert found.chance == 0.25 and abs(found.overlap.by_sequence[0, 1].mean() - 0.25) < 0.03
    assert found.signed.low[0, 1] < 0 < found.signed.high[0, 1]


@pytest.mark.parametrize(("sequences", "rank"), [(6, 0), (12, 2), (40, 13), (5, None)])
def test_intervals_are_order_statistics_that_miss_the_median_at_most_one_time_in_twenty(sequences, rank):
    rng = np.random.default_rng(0)
    why = lx.attribute(torch.nn.LSTM(1, 1, batch_first=True), torch.zeros(sequences, 9, 1), target=(-1, 0), method="occlusion")
    one, other = (replace(why, attributions=rng.normal(size=(sequences, 9))) for _ in range(2))
    found = lx.compare_attributions({"one": one, "other": other})
    if rank is None:
        assert np.isnan(found.signed.low[0, 1]) and "[too few sequences]" in repr(found)
        return
    ordered = np.sort(found.signed.by_sequence[0, 1])
    # Both of these ends miss where at most `rank` of the values lie beyond the true median, which is a matter of coins.
    assert 2 * binom.cdf(rank, sequences, 0.5) <= 0.05 < 2 * binom.cdf(rank + 1, sequences, 0.5)
    close(np.array([found.signed.low[0, 1], found.signed.high[0, 1]]), ordered[[rank, -1 - rank]])


def test_each_comes_with_its_residual(results):
    found = lx.compare_attributions(results)
    close(found.residual[:2], [results[name].relative_delta.max() for name in METHODS[:2]])
    close(found.residual_median[:2], [np.median(results[name].relative_delta) for name in METHODS[:2]])
    assert np.isnan(found.residual[2]) and np.isnan(found.residual_median[2]) and found.converged == (4, None, None)
    assert "within tolerance for 4 of 4" in found.check(0) and found.check(2) == "doesn't claim to add up"


def test_the_result_is_frozen_says_what_it_found_and_exports(results):
    found = lx.compare_attributions(list(results.values()))
    assert found.names == METHODS and repr(found).startswith("<Comparison of integrated_gradients, occlusion, saliency: ")
    with pytest.raises(FrozenInstanceError):
        found.seed = 1
    exported = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert exported["signed"]["median"][0][1] == found.signed.median[0, 1] and exported["residual"][2] is None
    frame = found.to_frame()
    assert len(frame) == VALID.sum()
    np.testing.assert_array_equal(frame["occlusion"], results["occlusion"].by_step[VALID])
    html = replace(found, names=("<i>", "b", "c"))._repr_html_()
    assert "<i>" not in html and "by chance" in html


def test_a_constant_attribution_is_said_to_have_no_order(results):
    first = results["integrated_gradients"]
    flat = replace(first, attributions=np.zeros_like(first.attributions))
    found = lx.compare_attributions({"it": first, "flat": flat})
    assert np.isnan(found.signed.median[0, 1]) and "nan" in repr(found)
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda r: {"it": r["occlusion"]}, "at least two"),
        (lambda r: [r["occlusion"], r["occlusion"]], "one twice"),
        (lambda r: {"a": r["occlusion"], "b": {}}, "got dict"),
        (lambda r: [r["occlusion"], 3], "got int"),
        (lambda r: 3, "got int"),
        (lambda r: {"a": r["occlusion"], "b": replace(r["saliency"], valid=np.ones((4, 9), bool))}, "same steps"),
        (lambda r: {"a": r["occlusion"], "b": replace(r["saliency"], explained=("output[1]",) * 4)}, "output[1]"),
        (lambda r: {"a": r["occlusion"], "b": replace(r["saliency"], output=np.ones(4))}, "differ"),
        (lambda r: {"a": r["occlusion"], "b": replace(r["saliency"], attributions=np.full((4, 9, 2), np.nan))}, "finite"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(results, given, said):
    with pytest.raises(lx.InputError) as refused:
        lx.compare_attributions(given(results))
    assert said in str(refused.value) and "\n" not in str(refused.value) and str(refused.value).startswith("needed ")


@pytest.mark.parametrize("options", [{"fraction": 0}, {"fraction": 1.1}, {"fraction": True}])
def test_options_that_are_none_are_refused(results, options):
    with pytest.raises(lx.InputError, match=next(iter(options))):
        lx.compare_attributions(results, **options)
