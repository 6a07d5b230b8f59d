"""Every kind of layer and cell that can be recorded, a model around it, and its equations once more by hand."""

from functools import partial

import torch
from cases import randomise
from torch import nn

from lstm_explain.nn.lstm import PeepholeLSTM, PeepholeLSTMCell

LAYERS = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "rnn": nn.RNN,
    "relu": partial(nn.RNN, nonlinearity="relu"),
    "peephole": PeepholeLSTM,
}
CELLS = {
    "lstm_cell": nn.LSTMCell,
    "gru_cell": nn.GRUCell,
    "rnn_cell": nn.RNNCell,
    "relu_cell": partial(nn.RNNCell, nonlinearity="relu"),
    "peephole_cell": PeepholeLSTMCell,
}
ALL = [*LAYERS, *CELLS]
SIZES = {"in": 2, "out": 3}


def is_cell(kind):
    return kind in CELLS


def made(kind, *, dtype=torch.float64, seed=0, **options):
    """A layer or cell with 2 features and 3 units."""
    return randomise((LAYERS | CELLS)[kind](SIZES["in"], SIZES["out"], dtype=dtype, **options), seed)


def inputs(time=5, batch=4, *, dtype=torch.float64, seed=0):
    """``(time, batch, feature)``."""
    return torch.randn(time, batch, SIZES["in"], generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def suffixed(kind, name):
    """A weight's name in a layer's first direction, or in a cell."""
    return name if is_cell(kind) else f"{name}_l0"


def key_of(kind, path=""):
    """The name in a recording of a layer's first direction, or of a cell."""
    return path or "cell" if is_cell(kind) else f"{path}.l0".strip(".")


def weights_of(kind, module):
    """What the weights are now, by their short names."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_ch")
    found = {name: getattr(module, suffixed(kind, name), None) for name in names}
    return {name: weight.detach().clone() for name, weight in found.items() if weight is not None}


def run(kind, module, x, state=None):
    """A layer called once, or a cell once for each step: every hidden state ``(time, batch, unit)``, and the last state."""
    if not is_cell(kind):
        return module(x, state)
    steps = []
    for x_t in x:
        state = module(x_t, state)
        steps.append(state[0] if isinstance(state, tuple) else state)
    return torch.stack(steps), state


class Model(nn.Module):
    """A layer or cell somewhere inside, and layers around it."""

    def __init__(self, kind, module=None, **options):
        super().__init__()
        self.kind = kind
        module = made(kind, **options) if module is None else module
        dtype = next(module.parameters()).dtype
        self.before = randomise(nn.Linear(SIZES["in"], SIZES["in"], dtype=dtype), 1)
        self.inner = module
        self.after = randomise(nn.Linear(SIZES["out"], 1, dtype=dtype), 2)

    def forward(self, x, state=None):
        return self.after(run(self.kind, self.inner, self.before(x), state)[0])


def by_hand(kind, weights, x, state=None):
    """Every signal ``(batch, time, unit)`` by name, from ``x (time, batch, feature)`` and weights by their short names."""
    x, weights = x.detach().double(), {name: weight.double() for name, weight in weights.items()}
    W_x, W_h, b_x, b_h = (weights[name] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    h = c = torch.zeros(x.shape[1], SIZES["out"], dtype=torch.float64)
    if state is not None:
        h, c = (part.detach().double().reshape(h.shape) for part in (state if isinstance(state, tuple) else (state, state)))
    steps = []
    for x_t in x:
        read, kept = x_t @ W_x.T + b_x, h @ W_h.T + b_h
        if "lstm" in kind or "peephole" in kind:
            z = read + kept + (c @ weights["weight_ch"].T if "weight_ch" in weights else 0)
            i, f, g, o = z.chunk(4, dim=1)
            i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
            c = f * c + i * g
            h = o * torch.tanh(c)
            now = {"input_gate": i, "forget_gate": f, "cell_candidate": g, "output_gate": o, "cell_state": c}
        elif "gru" in kind:
            (r_x, z_x, n_x), (r_h, z_h, n_h) = read.chunk(3, dim=1), kept.chunk(3, dim=1)
            r, z = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
            n = torch.tanh(n_x + r * n_h)
            h = (1 - z) * n + z * h
            now = {"reset_gate": r, "update_gate": z, "candidate": n}
        else:
            h, now = (read + kept).clamp(min=0) if "relu" in kind else torch.tanh(read + kept), {}
        steps.append(now | {"hidden_state": h})
    return {name: torch.stack([step[name] for step in steps], dim=1) for name in steps[0]}


def assert_is(trajectory, expected):
    """A trajectory has these signals, to the rounding of what it was computed in."""
    assert set(trajectory.signals) == set(expected)
    for name, signal in trajectory.signals.items():
        atol = 1e-12 if signal.dtype == torch.float64 else 1e-5
        torch.testing.assert_close(signal.double(), expected[name], rtol=0, atol=atol)


def train(model, x, kind):
    """One step down some loss."""
    model.zero_grad()
    run(kind, model, x)[0].sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.1 * parameter.grad
