"""Saturation and timescales of layers that aren't LSTMs: a GRU's gates against plain NumPy, and an RNN that has none."""

import math

import numpy as np
import pytest
import torch
from cases import randomise
from recordings import refused
from torch import nn

import lstm_explain as lx
from lstm_explain.analyses.timescale import LAGS

LENGTHS = [13, 4, 9, 1]
X = torch.randn(4, 13, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3


class Mixed(nn.Module):
    """An LSTM, a GRU and an RNN side by side, a GRU cell in a loop after them."""

    def __init__(self):
        super().__init__()
        options = {"batch_first": True, "dtype": torch.float64}
        self.lstm = randomise(nn.LSTM(2, 3, **options), 1)
        self.gru = randomise(nn.GRU(2, 5, bidirectional=True, **options), 2)
        self.rnn = randomise(nn.RNN(2, 4, **options), 3)
        self.cell = randomise(nn.GRUCell(3 + 10 + 4, 2, dtype=torch.float64), 4)

    def forward(self, x):
        read, h = torch.cat([layer(x)[0] for layer in (self.lstm, self.gru, self.rnn)], dim=2), None
        for t in range(x.shape[1]):
            h = self.cell(read[:, t], h)
        return h


GATES = {
    "lstm.l0": ("input_gate", "forget_gate", "output_gate"),
    "gru.l0": ("reset_gate", "update_gate"),
    "gru.l0_reverse": ("reset_gate", "update_gate"),
    "cell": ("reset_gate", "update_gate"),
}


@pytest.fixture(scope="module")
def recording():
    model = Mixed()
    with torch.no_grad(), lx.record(model, lengths=LENGTHS) as recording:
        model(X)
    assert list(recording) == ["lstm.l0", "gru.l0", "gru.l0_reverse", "rnn.l0", "cell"]
    return recording


def valid_steps(signal):
    return np.concatenate([signal[b, :length].numpy() for b, length in enumerate(LENGTHS)])


@pytest.mark.parametrize("name", GATES)
def test_saturation_of_every_layer_with_gates_is_that_of_numpy(recording, name):
    result = lx.saturation(recording)
    layer = result.layers[name]
    assert layer.gates == GATES[name] and layer.steps == sum(LENGTHS) and not layer.nonfinite.any()
    for at, gate in enumerate(GATES[name]):
        values = valid_steps(recording[name].signals[gate])
        for k, (low, high) in enumerate(result.thresholds):
            np.testing.assert_array_equal(layer.left[at, k], (values < low).mean(0))
            np.testing.assert_array_equal(layer.right[at, k], (values > high).mean(0))
        np.testing.assert_allclose(layer.mean[at], values.mean(0), rtol=0, atol=1e-12)
        np.testing.assert_array_equal(layer.histogram[at], np.histogram(values, result.edges)[0])


@pytest.mark.parametrize("name", GATES)
def test_survival_of_every_layer_that_keeps_is_that_of_numpy(recording, name):
    layer = lx.timescale(recording).layers[name]
    gate = "forget_gate" if name == "lstm.l0" else "update_gate"
    keep, values = recording[name].signals[gate].numpy(), valid_steps(recording[name].signals[gate])
    assert layer.gate == gate and layer.lags.tolist() == [lag for lag in LAGS if lag <= 13]
    for at, lag in enumerate(layer.lags):
        runs = [keep[b, t : t + lag].prod(0) for b, n in enumerate(LENGTHS) for t in range(n - lag + 1)]
        np.testing.assert_allclose(layer.survival[at], np.mean(runs, axis=0), rtol=0, atol=1e-12)
        assert layer.runs[at] == len(runs)
    np.testing.assert_allclose(layer.timescale, -1 / np.log(values).mean(0), rtol=1e-12)
    np.testing.assert_array_equal(layer.reset_rate, (values < 0.1).mean(0))
    for mean in (layer.forget_mean, layer.retention):
        np.testing.assert_allclose(mean, values.mean(0), rtol=0, atol=1e-12)
    assert layer.off_diagonal_share == 0 and not layer.off_diagonal.any()


def test_a_layer_without_gates_is_left_out_beside_others(recording):
    assert list(lx.saturation(recording).layers) == list(lx.timescale(recording).layers) == list(GATES)


def test_the_gates_of_all_layers_are_counted_each_under_its_name(recording):
    result = lx.saturation(recording)
    assert result.gates == ("input_gate", "forget_gate", "output_gate", "reset_gate", "update_gate") and result.keeps == "forget_gate"
    for gate, layers, units in (("forget_gate", ["lstm.l0"], 3), ("update_gate", list(GATES)[1:], 5 + 5 + 2)):
        left = sum(int((np.mean(valid_steps(recording[name].signals[gate]) < 0.1, axis=0) > 0.2).sum()) for name in layers)
        assert result.units_saturated("left", gate, more_than=0.2) == (left, units)


@pytest.mark.parametrize("tau", [2.0, 20.0])
def test_a_gru_that_keeps_a_known_share_has_its_known_timescale(tau):
    # z = e^(-1/τ) at every step, whatever comes in: the share that is kept.
    gru = nn.GRU(2, 1, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        for parameter in gru.parameters():
            parameter.zero_()
        gru.bias_ih_l0[1] = -math.log(math.exp(1 / tau) - 1)
        gru.weight_ih_l0[2] = 1.0
        with lx.record(gru) as recording:
            output, _ = gru(torch.cat([torch.ones(1, 1, 2), torch.zeros(1, 199, 2)], dim=1).double())
    layer = lx.timescale(recording).layers["l0"]
    np.testing.assert_allclose(layer.timescale, tau, rtol=1e-9)
    np.testing.assert_allclose(layer.half_life, math.log(2) * tau, rtol=1e-9)
    np.testing.assert_allclose(layer.survival[:, 0], np.exp(-layer.lags / tau), rtol=1e-9, atol=1e-12)
    # And the state that the first step wrote decays by just that.
    np.testing.assert_allclose(output[0, layer.lags, 0] / output[0, 0, 0], layer.survival[:, 0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("cell", [False, True], ids=["layer", "cell"])
def test_an_rnn_alone_is_refused_in_one_line(cell, nonlinearity):
    model = (nn.RNNCell if cell else nn.RNN)(2, 4, nonlinearity=nonlinearity, dtype=torch.float64)
    with lx.record(model) as recording:
        model(X[:, 0] if cell else X)
    name = "cell" if cell else "l0"
    assert refused(lx.InputError, lambda: lx.saturation(recording)) == f"needed at least one layer with gates, got {name}, which has none"
    assert refused(lx.InputError, lambda: lx.timescale(recording)).endswith(f"a forget or update gate, got {name}")


def test_streams_of_mixed_models_are_the_whole(recording):
    saturation, timescale, model = lx.Saturation(), lx.Timescale(), Mixed()
    with torch.no_grad(), lx.record(model, into=[saturation, timescale]) as streamed:
        for rows in (slice(0, 1), slice(1, 4)):
            streamed.annotate(lengths=LENGTHS[rows])
            model(X[rows])
    for stream, whole in ((saturation, lx.saturation(recording)), (timescale, lx.timescale(recording))):
        for name, layer in stream.compute().layers.items():
            for field, value in vars(layer).items():
                expected = getattr(whole.layers[name], field)
                if isinstance(value, np.ndarray):
                    np.testing.assert_allclose(value, expected, rtol=1e-11, atol=1e-12)
                else:
                    assert value == expected
