"""One small model of every kind that can be recorded, and cells that somebody else might have written."""

from contextlib import contextmanager

import torch
from cases import randomise
from torch import nn

from lstm_explain.nn.lstm import PeepholeLSTM, PeepholeLSTMCell
from lstm_explain.recording.cells import REGISTERED, register


class Leaky(nn.Module):
    """One state that keeps a share f of itself; f and the candidate see the input only."""

    def __init__(self, inputs, units):
        super().__init__()
        self.keep, self.read = nn.Linear(inputs, units), nn.Linear(inputs, units)

    def forward(self, x, h=None):
        f = torch.sigmoid(self.keep(x))
        return (1 - f) * torch.tanh(self.read(x)) + (0 if h is None else f * h)


def leaky(cell, x, h):
    f, g = torch.sigmoid(cell.keep(x)), torch.tanh(cell.read(x))
    return {"forget_gate": f, "candidate": g, "hidden_state": f * h + (1 - f) * g}


class NormedLSTMCell(nn.Module):
    """Layer normalisation on the pre-activations and the cell state (Ba, Kiros & Hinton 2016)."""

    def __init__(self, inputs, units):
        super().__init__()
        self.x, self.h = nn.Linear(inputs, 4 * units), nn.Linear(units, 4 * units, bias=False)
        self.over_x, self.over_h, self.over_c = nn.LayerNorm(4 * units), nn.LayerNorm(4 * units), nn.LayerNorm(units)

    def forward(self, x, state):
        h, c = state
        i, f, g, o = (self.over_x(self.x(x)) + self.over_h(self.h(h))).chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * self.over_c(c).tanh(), c


def normed(cell, x, h, c):
    z = torch.split(cell.over_x(cell.x(x)) + cell.over_h(cell.h(h)), c.shape[-1], dim=-1)
    i, f, o = (torch.sigmoid(z[at]) for at in (0, 1, 3))
    g = torch.tanh(z[2])
    after = f * c + i * g
    gates = {"input_gate": i, "forget_gate": f, "cell_candidate": g, "output_gate": o}
    return gates | {"cell_state": after, "hidden_state": o * torch.tanh(cell.over_c(after))}


class CoupledLSTMCell(nn.Module):
    """What isn't kept is read: i = 1 - f (Greff et al. 2017). Called as cell(x, h, c), it returns (output, (h, c))."""

    def __init__(self, inputs, units):
        super().__init__()
        self.z = nn.Linear(inputs + units, 3 * units)

    def forward(self, x, h, c):
        f, g, o = self.z(torch.cat([x, h], dim=-1)).chunk(3, dim=-1)
        c = f.sigmoid() * c + (1 - f.sigmoid()) * g.tanh()
        h = o.sigmoid() * c.tanh()
        return 2 * h, (h, c)


def coupled(cell, x, h, c):
    f, g, o = cell.z(torch.cat([x, h], dim=-1)).chunk(3, dim=-1)
    f, g, o = torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
    after = f * c + (1 - f) * g
    return {"forget_gate": f, "cell_candidate": g, "output_gate": o, "cell_state": after, "hidden_state": o * torch.tanh(after)}


@contextmanager
def registered(cell, equations, **options):
    """A class of cells that is known for a while."""
    register(cell, equations, **options)
    try:
        yield
    finally:
        REGISTERED.pop(cell)


class Loop(nn.Module):
    """A cell in a loop over ``(batch, time, feature)``: all hidden states, and the last state."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, x, state=None):
        outputs = []
        for step in x.unbind(1):
            state = self.cell(step, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs, dim=1), state


DEEP = {"num_layers": 2, "bidirectional": True, "batch_first": True}
LAYERS = {
    "lstm": lambda: nn.LSTM(2, 3, **DEEP),
    "projected": lambda: nn.LSTM(2, 3, proj_size=2, **DEEP),
    "gru": lambda: nn.GRU(2, 3, **DEEP),
    "rnn_tanh": lambda: nn.RNN(2, 3, **DEEP),
    "rnn_relu": lambda: nn.RNN(2, 3, nonlinearity="relu", **DEEP),
    "peephole": lambda: PeepholeLSTM(2, 3, peephole="full", **DEEP),
    "peephole_projected": lambda: PeepholeLSTM(2, 3, proj_size=2, peephole="diagonal", wiring="graves", **DEEP),
}
CELLS = {
    "lstm_cell": lambda: Loop(nn.LSTMCell(2, 3)),
    "gru_cell": lambda: Loop(nn.GRUCell(2, 3)),
    "rnn_cell": lambda: Loop(nn.RNNCell(2, 3)),
    "peephole_cell": lambda: Loop(PeepholeLSTMCell(2, 3, peephole="full")),
    "leaky": lambda: Loop(Leaky(2, 3)),
}
KINDS = [*LAYERS, *CELLS]


def model_of(kind, seed=0, dtype=torch.float64):
    """A model of a kind; `Leaky` must be registered before it is recorded."""
    return randomise((LAYERS | CELLS)[kind]().to(dtype), seed)


def inputs(batch=3, time=5, seed=0, dtype=torch.float64):
    return torch.randn(batch, time, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
