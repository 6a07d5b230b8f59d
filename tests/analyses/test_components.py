"""Principal components: scikit-learn's, beside what units turned upside down have by chance."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import randomise
from hypothesis import given, settings
from hypothesis import strategies as st
from mechanisms import blank
from sklearn.decomposition import PCA
from torch import nn

import lstm_explain as lx
from lstm_explain.accumulators import Moments


def recorded(model, inputs, **options):
    with torch.no_grad(), lx.record(model, **options) as recording:
        model(inputs)
    return recording


def of(values, lengths=None):
    """A recording of one layer whose cell state is what is given, ``(batch, time, unit)``."""
    values = torch.as_tensor(values, dtype=torch.float64)
    lengths = [values.shape[1]] * len(values) if lengths is None else lengths
    zeros = torch.zeros(*values.shape[:2], 1, dtype=torch.float64)
    trajectory = recorded(blank(1, values.shape[2]), zeros, lengths=lengths)["l0"]
    return {"l0": replace(trajectory, signals={"cell_state": values})}


LENGTHS = [60, 12, 1, 33, 60, 40, 9, 60, 27, 3, 60, 18]


def mixed(seed=0, units=6):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(12, 60, units)) @ rng.normal(size=(units, units)) + rng.normal(size=units) * 4


def stacked(values):
    return np.concatenate([row[:length] for row, length in zip(values, LENGTHS, strict=True)])


def test_they_are_scikit_learns():
    values, recording = mixed(), of(mixed(), LENGTHS)
    result = lx.components(recording)
    layer, pca = result.layers["l0"], PCA(svd_solver="full").fit(stacked(values))
    np.testing.assert_allclose(layer.variance, pca.explained_variance_, rtol=0, atol=1e-10)
    np.testing.assert_allclose(layer.ratio, pca.explained_variance_ratio_, rtol=0, atol=1e-10)
    np.testing.assert_allclose(layer.directions, pca.components_, rtol=0, atol=1e-10)
    np.testing.assert_allclose(layer.mean, pca.mean_, rtol=0, atol=1e-10)
    paths = result.project(recording["l0"])
    valid = recording["l0"].valid.numpy()
    np.testing.assert_allclose(paths[valid], pca.transform(stacked(values)), rtol=0, atol=1e-10)
    assert np.isnan(paths[~valid]).all() and layer.steps == sum(LENGTHS) and result.padding == "known"
    np.testing.assert_allclose(paths[valid].var(0, ddof=1), layer.variance, rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", range(6))
def test_shares_are_counted_whatever_the_rounding(seed):
    layer = lx.components(of(mixed(seed, 12)), draws=0).layers["l0"]
    covariance = np.cov(mixed(seed, 12).reshape(-1, 12).T)
    assert layer.participation_ratio == pytest.approx(np.trace(covariance) ** 2 / np.trace(covariance @ covariance), rel=1e-12)
    for count in range(1, 13):
        assert layer.needed(min(sum(layer.ratio[:count][::-1].tolist()), 1.0)) == count


@pytest.mark.parametrize("seed", range(6))
def test_of_each_direction_the_furthest_entry_is_positive(seed):
    directions = lx.components(of(mixed(seed))).layers["l0"].directions
    assert (directions[np.arange(6), np.abs(directions).argmax(1)] > 0).all()
    np.testing.assert_allclose(directions @ directions.T, np.eye(6), rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=15)
@given(st.permutations(range(12)), st.integers(1, 11))
def test_any_split_in_any_order_is_the_whole(order, cut):
    recording = of(mixed(), LENGTHS)
    whole = lx.components(recording, draws=4, seed=3).layers["l0"]
    parts = [lx.Components(draws=4, seed=3) for _ in range(2)]
    for part, sequences in zip(parts, (order[:cut], order[cut:]), strict=True):
        part.update(recording["l0"].select(sequences))
    parts[0].merge(parts[1])
    found = parts[0].compute().layers["l0"]
    for name in ("mean", "directions", "variance", "by_chance"):
        np.testing.assert_allclose(getattr(found, name), getattr(whole, name), rtol=0, atol=1e-10)
    assert found.steps == whole.steps


def test_chance_is_the_variances_of_units_turned_upside_down():
    layer, moments = lx.components(of(mixed(), LENGTHS), draws=3, seed=2).layers["l0"], Moments(3, seed=2)
    for row, length in zip(mixed(), LENGTHS, strict=True):
        moments.update(row[:length])
    for variances, covariance in zip(layer.by_chance, moments.by_chance, strict=True):
        expected = np.linalg.eigvalsh(covariance * sum(LENGTHS) / (sum(LENGTHS) - 1))[::-1]
        np.testing.assert_allclose(variances, expected, rtol=0, atol=1e-10)
    assert (lx.components(of(mixed(), LENGTHS), draws=3).layers["l0"].by_chance != layer.by_chance).any()


def test_planted_directions_are_counted():
    rng = np.random.default_rng(0)
    waves = np.stack([np.sin(np.arange(200) * speed + rng.random() * 6) for speed in (0.13, 0.41)], 1)
    values = waves @ rng.normal(size=(2, 20)) * 3 + rng.normal(size=(12, 200, 20))
    layer = lx.components(of(values)).layers["l0"]
    assert layer.above_chance == 2 and layer.ratio[:2].sum() > 0.6 and layer.needed(layer.ratio[:2].sum()) == 2


def test_units_that_drift_by_themselves_have_a_large_first_component_and_none_above_chance():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(10, 560, 40))
    for t in range(1, 560):
        values[:, t] += 0.99 * values[:, t - 1]
    layer = lx.components(of(values[:, 500:])).layers["l0"]
    # Of as many independent steps it would be a fortieth and little more.
    assert layer.ratio[0] > 0.15 and layer.above_chance == 0


def test_of_few_sequences_nothing_is_claimed_and_it_says_what_it_takes():
    result = lx.components(of(mixed()[:9], LENGTHS[:9]))
    layer, takes = (
        result.layers["l0"],
        "needed 10 sequences, got 9: record more, or long ones in pieces, each much longer than units remember",
    )
    assert layer.above_chance is None and layer.missing == takes and layer.by_chance.shape == (0, 6)
    assert f"not controlled: {takes}" in repr(result) and f"not controlled: {takes}" in result._repr_html_()
    layer = lx.components(of(mixed()[:10], LENGTHS[:10])).layers["l0"]
    assert layer.above_chance > 0 and not layer.missing and (layer.sequences, layer.by_chance.shape) == (10, (19, 6))


def test_the_participation_ratio_counts_directions_of_equal_variance():
    axes = np.concatenate([np.eye(8), -np.eye(8)])[None]
    layer = lx.components(of(axes[:, :, :8]), draws=0).layers["l0"]
    assert layer.participation_ratio == pytest.approx(8, abs=1e-12) and layer.needed(1.0) == 8 and layer.needed(0.5) == 4
    axes[:, :, 3:] = 0
    layer = lx.components(of(axes), draws=0).layers["l0"]
    assert layer.participation_ratio == pytest.approx(3, abs=1e-12) and layer.above_chance is None and (layer.variance >= 0).all()


def test_every_layer_has_its_own_and_a_recording_is_projected_whole():
    recording = recorded(
        randomise(nn.LSTM(2, 4, 2, batch_first=True).double()), torch.randn(3, 20, 2, dtype=torch.float64), lengths=[20, 9, 4]
    )
    result = lx.components(recording, signal="hidden_state")
    paths = result.project(recording)
    assert list(paths) == ["l0", "l1"] and paths["l1"].shape == (3, 20, 4)
    np.testing.assert_array_equal(paths["l1"], result.project(recording["l1"]))
    assert list(lx.components(recording, layer="l1").layers) == ["l1"]
    stream = lx.Components(signal="hidden_state")
    for name in ("l1", "l0"):
        stream.update(recording[name])
    np.testing.assert_array_equal(stream.compute().layers["l0"].variance, result.layers["l0"].variance)


def test_the_result_reads_and_exports():
    result = lx.components(of(mixed(), LENGTHS))
    assert repr(result).startswith("<Components: l0 ") and "above chance; padding known>" in repr(result)
    assert "not controlled: needed draws from 1, got 0" in repr(lx.components(of(mixed()), draws=0)) and "<table>" in result._repr_html_()
    assert "not controlled: needed draws from 1, got 0" in lx.components(of(mixed()), draws=0)._repr_html_()
    frame = result.to_frame()
    assert len(frame) == 6 and frame["ratio"].sum() == pytest.approx(1)
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert data["layers"]["l0"]["participation_ratio"] == result.layers["l0"].participation_ratio


def test_what_does_not_fit_is_refused():
    bad = mixed()
    bad[0, 3, 2] = np.nan
    stream, other = lx.Components(), lx.Components(signal="hidden_state")
    stream.update(of(mixed())["l0"])
    result = stream.compute()
    for call, message in [
        (lambda: lx.components({}), "needed at least one recorded layer, got none"),
        (lambda: lx.components(of(mixed()), layer="l1"), "needed layer as one of l0, got 'l1'"),
        (lambda: lx.components(of(mixed()), signal="forget"), "needed the signal forget of l0"),
        (lambda: lx.components(of(mixed()), draws=-1), "needed draws from 0, got -1"),
        (lambda: lx.components(of(bad)), "needed finite values of l0 cell_state, got 1 NaN or infinite ones in a sequence"),
        (lambda: lx.components(of(np.ones((2, 3, 4)))), "needed a unit of l0 cell_state that changes, got 4 constant ones over 6 steps"),
        (lambda: lx.components(of(np.ones((1, 1, 4)))), "needed a unit of l0 cell_state that changes, got 4 constant ones over 1 steps"),
        (lambda: stream.update(of(mixed(units=3))["l0"]), "needed 6 units as before, got 3"),
        (lambda: stream.merge(other), "needed streams of the same signal, None, got hidden_state"),
        (lambda: result.project(replace(of(mixed())["l0"], name="l7")), "needed a trajectory of l0, got 'l7'"),
        (lambda: result.project(of(mixed(units=3))["l0"]), "needed 6 units of l0 cell_state, got 3"),
        (lambda: result.layers["l0"].needed(0), "needed share between 0 and 1, got 0"),
    ]:
        with pytest.raises(lx.InputError, match=message) as refused:
            call()
        assert "\n" not in str(refused.value)
