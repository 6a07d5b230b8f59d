"""Correlations between units: NumPy's and SciPy's, beside what units turned upside down have by chance."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import randomise
from hypothesis import given, settings
from hypothesis import strategies as st
from mechanisms import blank
from scipy.cluster.hierarchy import average, fcluster, leaves_list
from scipy.spatial.distance import squareform
from torch import nn

import lstm_explain as lx
from lstm_explain.accumulators import Moments


def recorded(model, inputs, **options):
    with torch.no_grad(), lx.record(model, **options) as recording:
        model(inputs)
    return recording


def of(values, lengths=None, name="l0"):
    """A recording of one layer whose cell state is what is given, ``(batch, time, unit)``."""
    values = torch.as_tensor(values, dtype=torch.float64)
    lengths = [values.shape[1]] * len(values) if lengths is None else lengths
    zeros = torch.zeros(*values.shape[:2], 1, dtype=torch.float64)
    trajectory = recorded(blank(1, values.shape[2]), zeros, lengths=lengths)["l0"]
    return {name: replace(trajectory, name=name, signals={"cell_state": values})}


LENGTHS = [50, 12, 1, 33, 50, 40, 9, 50, 27, 3, 50, 18]


def mixed(seed=0, units=7):
    """Units that have something in common, the third one not."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(12, 50, units)) + rng.normal(size=(12, 50, 1)) * rng.normal(size=units)
    values[:, :, 2] = rng.normal(size=(12, 50))
    return values + 3


def stacked(values, lengths=LENGTHS):
    return np.concatenate([row[:length] for row, length in zip(values, lengths, strict=True)])


def test_they_are_numpys_without_padding():
    values = mixed()
    result = lx.correlations(of(values, LENGTHS))
    np.testing.assert_allclose(result.correlations, np.corrcoef(stacked(values).T), rtol=0, atol=1e-12)
    assert (result.steps, result.sequences, result.padding) == (sum(LENGTHS), 12, "known")
    assert result.units == tuple(("l0", unit) for unit in range(7)) and set(result.signals) == {"cell_state"}


def test_units_of_several_layers_are_correlated_with_each_other():
    recording = recorded(
        randomise(nn.LSTM(2, 4, 2, batch_first=True).double()), torch.randn(3, 20, 2, dtype=torch.float64), lengths=[20, 9, 4]
    )
    result = lx.correlations(recording, signal="hidden_state", units=[3, 1])
    both = torch.cat([recording[name].steps("hidden_state")[:, [3, 1]] for name in ("l0", "l1")], 1).numpy()
    np.testing.assert_allclose(result.correlations, np.corrcoef(both.T), rtol=0, atol=1e-12)
    assert result.units == (("l0", 3), ("l0", 1), ("l1", 3), ("l1", 1))
    assert lx.correlations(recording, layers="l1").units[0] == ("l1", 0) and len(lx.correlations(recording, layers=["l1"]).units) == 4


def test_a_unit_that_hardly_moves_around_a_large_value_keeps_its_digits():
    values = np.random.default_rng(0).normal(size=(4, 60, 3))
    near = values * 1e-6 + [50.0, -1000.0, 3.0]
    expected = np.corrcoef((near - near.mean((0, 1))).reshape(-1, 3).T)
    one, other = lx.Correlations(), lx.Correlations()
    one.update(of(near[:1]))
    other.update(of(near[1:]))
    one.merge(other)
    np.testing.assert_allclose(one.compute().correlations, expected, rtol=0, atol=1e-8)


@settings(deadline=None, max_examples=15)
@given(st.permutations(range(12)), st.integers(1, 11), st.booleans())
def test_any_split_in_any_order_is_the_whole(order, cut, merged):
    values = mixed()
    whole, recording = lx.correlations(of(values, LENGTHS), draws=5, seed=3), of(values, LENGTHS)
    parts = [lx.Correlations(draws=5, seed=3) for _ in range(2)]
    for part, sequences in zip(parts if merged else parts[:1] * 2, (order[:cut], order[cut:]), strict=True):
        part.update({"l0": recording["l0"].select(sequences)})
    parts[0].merge(parts[1])
    found = parts[0].compute()
    for name in ("correlations", "largest_by_chance"):
        np.testing.assert_allclose(getattr(found, name), getattr(whole, name), rtol=0, atol=1e-12)
    assert (found.steps, found.sequences, found.clusters.tolist()) == (whole.steps, whole.sequences, whole.clusters.tolist())


def test_a_pair_is_held_against_the_largest_by_chance():
    result, moments = lx.correlations(of(mixed(), LENGTHS), draws=12, seed=2), Moments(12, seed=2)
    for row, length in zip(mixed(), LENGTHS, strict=True):
        moments.update(row[:length])
    deviation = np.sqrt(np.diag(moments.covariance))
    expected = [np.abs((one / np.outer(deviation, deviation))[np.triu_indices(7, 1)]).max() for one in moments.by_chance]
    np.testing.assert_allclose(result.largest_by_chance, expected, rtol=0, atol=1e-12)
    p = result.p_values_family
    for one, other in [(0, 1), (2, 3), (5, 6)]:
        assert p[one, other] == pytest.approx((1 + sum(e >= abs(result.correlations[one, other]) for e in expected)) / 13)
    assert (lx.correlations(of(mixed(), LENGTHS), draws=12).largest_by_chance != result.largest_by_chance).all()


def drifting(rng, batch, time, units=24):
    """Units that have nothing to do with each other: AR(0.95)."""
    x = rng.normal(size=(batch, time + 100, units))
    for t in range(1, time + 100):
        x[:, t] += 0.95 * x[:, t - 1]
    return x[:, 100:]


@pytest.mark.parametrize("judge", ["correlations", "components"])
@pytest.mark.parametrize("batch, time", [(10, 60), (24, 20)])
def test_units_that_only_drift_are_rarely_shown(judge, batch, time):
    rng, shown, large = np.random.default_rng(0), 0, 0
    for seed in range(60):
        recording = of(drifting(rng, batch, time))
        found = getattr(lx, judge)(recording, seed=seed)
        shown += found.verdict == "shown" if judge == "correlations" else found.layers["l0"].above_chance > 0
        large += judge == "correlations" and abs(found.pairs(1)[0].correlation) > 0.25
    assert shown <= 9  # of 60 at 1 in 20: more with a chance of 0.1 %
    # As independent steps nearly all would be: r = 0.25 over 480 of them has p < 0.0000001.
    assert large > 50 or judge == "components"


def test_of_few_sequences_nothing_is_claimed_and_it_says_what_it_takes():
    values, lengths = mixed()[:9], LENGTHS[:9]
    values[:, :, 1] = values[:, :, 0]
    result = lx.correlations(of(values, lengths))
    takes = "needed 10 sequences, got 9: record more, or long ones in pieces, each much longer than units remember"
    assert result.verdict == "not controlled" and result.missing == takes and takes in repr(result) and takes in result._repr_html_()
    assert np.isnan(result.p_values_family).all() and result.to_dict()["largest_by_chance"] == []
    # One more, and the two units that are the same are shown.
    values = np.concatenate([values, values[:1] + 1])
    result = lx.correlations(of(values, [*lengths, 50]))
    assert result.verdict == "shown" and not result.missing and result.pairs(1)[0].p_family == 0.05


def test_planted_units_are_found_in_one_cluster():
    lstm = randomise(nn.LSTM(3, 10, batch_first=True).double())
    with torch.no_grad():
        for weight in lstm.parameters():
            by_gate = weight.view(4, 10, -1)
            by_gate[:, 6] = by_gate[:, 1]
            by_gate[:, 8] = by_gate[:, 1]
            by_gate[2, 8] *= -1  # the candidate's sign, and so the cell's
    x = torch.randn(12, 80, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    recording = recorded(lstm, x, lengths=[80] * 12)
    result = lx.correlations(recording, threshold=0.95)
    assert result.members(0) == (("l0", 1), ("l0", 6), ("l0", 8)) and result.verdict == "shown"
    np.testing.assert_allclose(result.correlations[[1, 1, 6], [6, 8, 8]], [1, -1, -1], rtol=0, atol=1e-12)
    at = [result.order.index(unit) for unit in (1, 6, 8)]
    assert max(at) - min(at) == 2
    assert {frozenset((pair.first[1], pair.second[1])) for pair in result.pairs(3)} == {frozenset(p) for p in ((1, 6), (1, 8), (6, 8))}


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.4, 0.6, 0.99, 1.0])
def test_order_and_clusters_are_scipys(threshold):
    values = mixed(1, 12)
    result = lx.correlations(of(values, LENGTHS), threshold=threshold, draws=0)
    distance = 1 - np.abs(np.corrcoef(stacked(values).T))
    np.fill_diagonal(distance, 0)
    tree = average(squareform(distance, checks=False))
    assert result.order == tuple(leaves_list(tree).tolist())
    expected = fcluster(tree, 1 - threshold, "distance")
    np.testing.assert_array_equal(result.clusters[:, None] == result.clusters, expected[:, None] == expected)
    sizes = np.bincount(result.clusters)
    assert (np.diff(sizes) <= 0).all() and len(sizes) == len(set(expected))


def test_rounding_does_not_keep_apart_what_is_the_same():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(12, 50, 1)) * rng.normal(size=12) + rng.normal(size=12)
    result = lx.correlations(of(values, LENGTHS), threshold=1.0, draws=0)
    assert (np.abs(result.correlations) < 1).any() and not result.clusters.any()


def test_units_that_never_change_are_said_and_left_out():
    values = mixed()
    values[:, :, 3] = 0.1
    result = lx.correlations(of(values, LENGTHS))
    assert result.constant == (3,) and result.order[-1] == 3 and result.clusters[3] == -1 and "1 constant" in repr(result)
    assert np.isnan(result.correlations[3]).all() and np.isnan(result.p_values_family[3]).all()
    others = [0, 1, 2, 4, 5, 6]
    np.testing.assert_allclose(result.correlations[np.ix_(others, others)], np.corrcoef(stacked(values)[:, others].T), rtol=0, atol=1e-12)
    assert len(result.pairs(100)) == 15 and all(("l0", 3) not in pair[:2] for pair in result.pairs(100))
    json.dumps(result.to_dict(), allow_nan=False)


def test_a_unit_that_changes_too_little_for_its_square_is_constant():
    values = mixed()
    values[:, :, 3] = 0.0
    values[0, 5, 3] = 1e-200
    assert lx.correlations(of(values, LENGTHS)).constant == (3,)


def test_without_draws_nothing_is_shown():
    result = lx.correlations(of(mixed(), LENGTHS), draws=0)
    assert result.verdict == "not controlled" and "(not controlled: needed draws from 1, got 0)" in repr(result)
    assert "not controlled: needed draws from 1, got 0" in result._repr_html_()
    assert np.isnan(result.p_values_family).all() and len(result.largest_by_chance) == 0


def test_the_result_reads_and_exports():
    result = lx.correlations(of(mixed(), LENGTHS), threshold=0.5)
    assert repr(result).startswith("<Correlations of 7 units over 343 steps: largest |r| 0.") and "by chance at most 0." in repr(result)
    assert "padding known" in repr(result)
    frame = result.to_frame()
    assert len(frame) == 21 and (frame["correlation"].abs().diff().dropna() <= 0).all()
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["steps"] == 343 and "<table>" in result._repr_html_()


def test_streams_are_fed_while_the_model_runs():
    model, stream = randomise(nn.LSTM(2, 4, 2, batch_first=True).double()), lx.Correlations(draws=3)
    x = torch.randn(6, 15, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), lx.record(model, into=[stream], lengths=[15] * 3):
        model(x[:3])
        model(x[3:])
    expected = lx.correlations(recorded(model, x, lengths=[15] * 6), draws=3)
    np.testing.assert_allclose(stream.compute().correlations, expected.correlations, rtol=0, atol=1e-12)
    assert stream.compute().sequences == 6


@pytest.mark.parametrize(
    "options, message",
    [
        ({"layers": "l1"}, "needed layers of l0, got 'l1'"),
        ({"signal": "forget"}, "needed the signal forget of l0"),
        ({"units": [7]}, "needed units from 0 to 6 of l0 cell_state, got 7"),
        ({"units": [1, 1]}, "needed units as whole numbers, each once"),
        ({"threshold": 1.5}, "needed threshold from 0 to 1, an .r., got 1.5"),
        ({"draws": -1}, "needed draws from 0, got -1"),
        ({"units": [2]}, "needed at least two units that change, got 1 of 1"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(options, message):
    with pytest.raises(lx.InputError, match=message) as refused:
        lx.correlations(of(mixed(), LENGTHS), **options)
    assert "\n" not in str(refused.value)


def test_what_does_not_go_together_is_refused():
    bad = mixed()
    bad[3, 4, 1] = np.nan
    bad[4, 40, 2] = np.inf
    stream, other, seeded = lx.Correlations(), lx.Correlations(), lx.Correlations(draws=1)
    stream.update(of(mixed(), LENGTHS))
    other.update(of(mixed()[:, :, :5]))
    for call, message in [
        (lambda: lx.correlations(of(bad, LENGTHS)), "needed finite values of l0 cell_state, got 1 NaN or infinite ones in a sequence"),
        (
            lambda: lx.correlations(of(mixed()) | of(mixed(), LENGTHS, name="l1")),
            "needed layers that read the same steps, got others in l1",
        ),
        (lambda: lx.correlations({}), "needed at least one recorded layer, got none"),
        (lambda: lx.Correlations().compute(), "needed at least one recording, got none"),
        (lambda: stream.merge(other), "needed the 7 units of l0 cell_state as before, got 5 of l0 cell_state"),
        (lambda: stream.merge(seeded), "needed streams with the same draws and seed"),
        (lambda: stream.compute().members(99), "needed cluster from 0 to"),
    ]:
        with pytest.raises(lx.InputError, match=message):
            call()
    assert stream.compute().steps == sum(LENGTHS)
