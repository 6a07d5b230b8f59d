"""Networks with weights set by hand, whose gates and memories are known in closed form."""

import math

import torch
from torch import nn

OPEN = 20.0
"""A bias that opens a gate to 1 - 2e-9."""


def blank(inputs, units):
    """An LSTM in float64 with all weights at zero."""
    lstm = nn.LSTM(inputs, units, batch_first=True).double()
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.zero_()
    return lstm


def rows(lstm, gate):
    """The rows of one gate's bias."""
    n = lstm.hidden_size
    at = "ifgo".index(gate)
    return lstm.bias_ih_l0[at * n : (at + 1) * n]


def leaky_bank(timescales):
    """One unit for each timescale: f = e^(-1/τ) at every step, input and output gates open."""
    lstm = blank(1, len(timescales))
    with torch.no_grad():
        rows(lstm, "i").fill_(OPEN)
        rows(lstm, "o").fill_(OPEN)
        rows(lstm, "f").copy_(torch.tensor([-math.log(math.exp(1 / tau) - 1) for tau in timescales], dtype=torch.float64))
        lstm.weight_ih_l0[2 * lstm.hidden_size : 3 * lstm.hidden_size] = 1e-3
    return lstm


def counter():
    """One unit that counts a's up and b's down (one-hot inputs): c = tanh(4) (#a - #b); i, f and o stay open."""
    lstm = blank(2, 1)
    with torch.no_grad():
        for gate in "ifo":
            rows(lstm, gate).fill_(OPEN)
        lstm.weight_ih_l0[2] = torch.tensor([4.0, -4.0], dtype=torch.float64)
    return lstm


def adding():
    """One unit that adds up the values that are marked (inputs: value, marker): 1000 h = Σ marker * value to 1e-6; only i moves."""
    lstm = blank(2, 1)
    with torch.no_grad():
        rows(lstm, "i").fill_(-OPEN)
        rows(lstm, "f").fill_(OPEN)
        rows(lstm, "o").fill_(OPEN)
        lstm.weight_ih_l0[0, 1] = 2 * OPEN
        lstm.weight_ih_l0[2, 0] = 1e-3
    return lstm


def gates_by_input(units=1):
    """Every gate's pre-activation is the input: i, f and o are σ(x)."""
    lstm = blank(1, units)
    with torch.no_grad():
        lstm.weight_ih_l0.fill_(1.0)
    return lstm
