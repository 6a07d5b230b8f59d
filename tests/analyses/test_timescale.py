"""How long cells remember, where that is known."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mechanisms import blank, gates_by_input, leaky_bank, rows

import lstm_explain as lx
from lstm_explain.analyses.timescale import LAGS, half_life
from lstm_explain.nn.equations import step
from lstm_explain.nn.layers import weights_of

FORMS = [("full", "previous"), ("full", "graves"), ("diagonal", "previous"), ("diagonal", "graves"), (None, "previous")]


def recorded(lstm, inputs, **options):
    with torch.no_grad(), lx.record(lstm, **options) as recording:
        lstm(inputs)
    return recording


def test_the_leaky_bank_has_the_timescales_that_were_planted():
    taus = np.array([2, 5, 20, 100])
    layer = lx.timescale(recorded(leaky_bank(taus), torch.randn(3, 700, 1, dtype=torch.float64))).layers["l0"]
    np.testing.assert_allclose(layer.timescale, taus, rtol=1e-6)
    np.testing.assert_allclose(layer.half_life, math.log(2) * taus, rtol=1e-6)
    np.testing.assert_allclose(layer.survival, np.exp(-layer.lags[:, None] / taus), rtol=1e-6, atol=1e-12)
    np.testing.assert_array_equal(layer.retention, layer.forget_mean)
    assert layer.off_diagonal_share == 0 and (layer.reset_rate == 0).all()


def test_a_cell_that_never_forgets_is_beyond_every_lag():
    lstm = blank(1, 1)
    with torch.no_grad():
        rows(lstm, "f").fill_(800.0)
    result = lx.timescale(recorded(lstm, torch.zeros(1, 40, 1, dtype=torch.float64)))
    layer = result.layers["l0"]
    assert layer.half_life[0] == np.inf and layer.timescale[0] == np.inf and "beyond" in repr(result)
    exported = result.to_dict()["layers"]["l0"]
    assert exported["half_life"] == [None] and "32 steps" in exported["half_life_none"]
    json.dumps(exported, allow_nan=False)


def test_a_gate_that_is_zero_breaks_nothing():
    lstm = blank(1, 1)
    with torch.no_grad():
        rows(lstm, "f").fill_(-800.0)
    layer = lx.timescale(recorded(lstm, torch.zeros(1, 40, 1, dtype=torch.float64))).layers["l0"]
    assert layer.timescale[0] == 0 and (layer.survival == 0).all() and layer.reset_rate[0] == 1 and 0 <= layer.half_life[0] < 1


def test_a_reset_shows_in_the_survival_curve():
    # f is 1 but for every tenth step, where it is 0: a run of k survives where it meets no reset.
    inputs = torch.full((1, 400, 1), 800.0, dtype=torch.float64)
    inputs[0, ::10] = -800.0
    layer = lx.timescale(recorded(gates_by_input(), inputs)).layers["l0"]
    for lag, survival, runs in zip(layer.lags, layer.survival[:, 0], layer.runs, strict=True):
        alive = [not any((t + j) % 10 == 0 for j in range(lag)) for t in range(400 - lag + 1)]
        assert survival == pytest.approx(np.mean(alive), abs=1e-12) and runs == len(alive)
    assert layer.reset_rate[0] == 0.1


@pytest.mark.parametrize("reverse", [False, True])
def test_survival_equals_a_loop_over_all_runs(reverse):
    lstm = torch.nn.LSTM(2, 3, batch_first=True, bidirectional=True).double()
    lengths = [9, 4, 13, 1]
    trajectory = recorded(lstm, torch.randn(4, 13, 2, dtype=torch.float64), lengths=lengths)["l0_reverse" if reverse else "l0"]
    stream = lx.Timescale()
    stream.update(trajectory)
    layer = stream.compute().layers[trajectory.name]
    f = trajectory.forget_gate.numpy()
    for at, lag in enumerate(layer.lags):
        products = [f[b, t : t + lag].prod(0) for b, n in enumerate(lengths) for t in range(n - lag + 1)]
        np.testing.assert_allclose(layer.survival[at], np.mean(products, axis=0), rtol=0, atol=1e-12)
        assert layer.runs[at] == len(products)
    assert layer.lags.tolist() == [lag for lag in LAGS if lag <= 13]


@pytest.mark.parametrize("peephole, wiring", FORMS)
def test_retention_is_the_diagonal_of_the_jacobian(peephole, wiring):
    model = lx.PeepholeLSTM(3, 5, 2, batch_first=True, peephole=peephole, wiring=wiring, dtype=torch.float64)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("weight_ch"):
                torch.nn.init.normal_(parameter)
    recording = recorded(model, torch.randn(2, 6, 3, dtype=torch.float64), lengths=[6, 4])
    trajectory, below = recording["l1"], recording["l0"].hidden_state
    weights = weights_of(model, "l1")
    jacobians = []
    for b, t in trajectory.valid.nonzero().tolist():
        h, c = trajectory.before("hidden_state")[b, t], trajectory.before("cell_state")[b, t]

        def c_next(c, x=below[b, t], h=h):
            return step(x[None], h[None], c[None], weights, model.form).cell_state[0]

        jacobians.append(torch.autograd.functional.jacobian(c_next, c).detach().numpy())
    J = np.stack(jacobians)
    on = J * np.eye(5)
    off = J - on
    layer = lx.timescale(recording).layers["l1"]
    np.testing.assert_allclose(layer.retention, on.sum(2).mean(0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(layer.off_diagonal, np.sqrt((off**2).sum((0, 2)) / (J**2).sum((0, 2))), rtol=0, atol=1e-12)
    assert layer.off_diagonal_share == pytest.approx(np.sqrt((off**2).sum() / (J**2).sum()), abs=1e-12)


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(1, 8), max_size=3, unique=True), st.randoms())
def test_any_split_into_whole_sequences_in_any_order_is_the_whole(cuts, random):
    model = lx.PeepholeLSTM(2, 4, 2, bidirectional=True, batch_first=True)
    lengths = torch.tensor([17, 3, 5, 17, 1, 9, 2, 7, 12])
    recording = recorded(model, torch.randn(9, 17, 2), lengths=lengths)
    bounds = [0, *sorted(cuts), 9]
    parts = [range(a, b) for a, b in zip(bounds, bounds[1:], strict=False)]
    random.shuffle(parts)
    merged = lx.Timescale()
    for part in parts:
        stream = lx.Timescale()
        for trajectory in recording.values():
            stream.update(trajectory.select(part))
        merged.merge(stream)
    whole, split = lx.timescale(recording), merged.compute()
    for name, layer in whole.layers.items():
        for field, value in vars(layer).items():
            if field in ("gate", "lags", "runs", "reset_rate", "steps"):
                np.testing.assert_array_equal(getattr(split.layers[name], field), value)
            else:
                # Sums agree to 1e-12; a timescale or a half-life divides by their logarithm.
                np.testing.assert_allclose(getattr(split.layers[name], field), value, rtol=1e-11, atol=1e-12)


def test_half_life_interpolates_in_the_logarithm_and_takes_the_first_crossing():
    lags = np.array([1, 2, 4])
    curves = np.array([[0.9, 0.5, 0.6, np.nan], [0.8, 0.4, 0.3, 0.2], [0.2, 0.1, 0.7, 0.1]])
    expected = [2 + 2 * math.log(0.8 / 0.5) / math.log(0.8 / 0.2), 1.0, 1 + math.log(0.6 / 0.5) / math.log(0.6 / 0.3)]
    found = half_life(lags, curves)
    np.testing.assert_allclose(found[:3], expected, rtol=0, atol=1e-12)
    assert np.isnan(found[3])


def test_the_result_reads_and_exports():
    result = lx.timescale(recorded(leaky_bank([2, 100]), torch.zeros(1, 300, 1, dtype=torch.float64), lengths=[300]))
    assert "\n" not in repr(result) and "padding none" in repr(result) and "<script" not in result._repr_html_()
    frame = result.to_frame()
    assert frame["layer"].tolist() == ["l0", "l0"] and frame["timescale"].round(3).tolist() == [2, 100]
    with pytest.raises(lx.InputError, match="needed at least one recorded layer"):
        lx.Timescale().compute()
