"""Layers and models to record, and what a recording of them must be."""

import numpy as np
import pytest
import torch
from cases import (
    FORMS,
    LENGTHS,
    WITHOUT_CELL,
    Case,
    close,
    last_states,
    peephole_lstm,
    randomise,
    slowly,
    torch_lstm,
    without_cell,
)
from cases import sequences_and_state as drawn
from scalar import GRU_SIGNALS, RNN_SIGNALS, SIGNALS, stepper, walk
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from lstm_explain.nn.lstm import PeepholeLSTMCell

KINDS = ["torch", *FORMS]
ALL_KINDS = [*KINDS, *WITHOUT_CELL]
DEEP = {"num_layers": 2, "bidirectional": True, "initial_state": True}


def name_of(kind):
    """A kind as a trajectory has it."""
    return kind if kind in WITHOUT_CELL else "lstm" if kind == "torch" else "peephole_lstm"


def signals_of(kind):
    return {"gru": GRU_SIGNALS, "rnn_tanh": RNN_SIGNALS, "rnn_relu": RNN_SIGNALS}.get(kind, SIGNALS)


def layer_of(kind, case, dtype=torch.float64, **options):
    if kind in WITHOUT_CELL:
        return without_cell(kind, case, dtype, **options)
    return torch_lstm(case, dtype, **options) if kind == "torch" else peephole_lstm(case, *kind, dtype=dtype, **options)


def of_layout(layout, **options):
    return Case(layout=layout, lengths=LENGTHS[layout], **options)


class Classifier(nn.Module):
    """A recurrent layer somewhere inside, and layers around it."""

    def __init__(self, lstm):
        super().__init__()
        self.before = nn.Linear(2, 2, dtype=torch.float64)
        self.encoder = nn.ModuleDict({"lstm": lstm})
        self.after = nn.Linear(len(lstm.weight_hh_l0[0]) * (1 + lstm.bidirectional), 1, dtype=torch.float64)

    def forward(self, x, hx=None):
        return self.after(self.encoder["lstm"](self.before(x), hx)[0])


def classifier(kind="torch", **options):
    return Classifier(layer_of(kind, Case(**options)))


def tensors_of(returned):
    output, states = returned
    return [output.data if isinstance(output, PackedSequence) else output, *last_states(states)]


def assert_recorded(case, layer, recording, checked="certified"):
    """One call of the case, signal by signal, in the order of the input; returns the largest difference."""
    time, worst = max(case.lengths), 0.0
    zeros = torch.zeros(len(case.suffixes), len(case.lengths), case.hidden_size, dtype=torch.float64)
    initial = drawn(case)[1] or (zeros[..., : case.proj_size or case.hidden_size], zeros)
    expected = slowly(case, layer)
    assert list(recording) == case.suffixes
    for at, suffix in enumerate(case.suffixes):
        trajectory = recording[suffix]
        reverse = suffix.endswith("_reverse")
        for b, (signals, *_) in enumerate(expected):
            assert set(trajectory.signals) == set(signals[suffix])
            for name, signal in signals[suffix].items():
                found = trajectory.signals[name][b, : case.lengths[b]]
                close(found, signal)
                worst = max(worst, float((found - torch.as_tensor(signal)).abs().max()))
        assert trajectory.valid.tolist() == [[t < length for t in range(time)] for length in case.lengths]
        assert trajectory.first_step.tolist() == [length - 1 if reverse else 0 for length in case.lengths]
        assert trajectory.reverse is reverse and trajectory.name == suffix
        assert trajectory.padding == ("unknown" if not case.packed else "none" if trajectory.valid.all() else "known")
        carried = ("hidden_state", "cell_state") if "cell_state" in signals[suffix] else ("hidden_state",)
        assert tuple(trajectory.initial) == carried
        for name, state in zip(carried, initial, strict=False):
            close(trajectory.initial[name], state[at].view(len(case.lengths), -1))
        assert trajectory.residual() <= 1e-12 and not trajectory.edited().any()
        assert all(not signal.requires_grad for signal in trajectory.signals.values())
    assert recording.certificate.state == checked and recording.certificate.worst.worst <= 1e-12
    return worst


def refused(error, call):
    with pytest.raises(error) as caught:
        call()
    assert "\n" not in str(caught.value) and str(caught.value).startswith("needed ")
    return str(caught.value)


def cell_of(kind, bias=True, seed=0, dtype=torch.float64, sizes=(2, 3)):
    """The cell of a kind."""
    options = {"bias": bias, "dtype": dtype}
    if kind == "torch":
        cell = nn.LSTMCell(*sizes, **options)
    elif kind == "gru":
        cell = nn.GRUCell(*sizes, **options)
    elif kind in WITHOUT_CELL:
        cell = nn.RNNCell(*sizes, **options, nonlinearity=kind.removeprefix("rnn_"))
    else:
        cell = PeepholeLSTMCell(*sizes, **options, peephole=kind[0], wiring=kind[1])
    return randomise(cell, seed)


class Loop(nn.Module):
    """Cells one on top of the other, in a loop over the steps; `edit` may change a cell's state before a step."""

    def __init__(self, *cells, edit=None):
        super().__init__()
        self.cells = nn.ModuleList(cells)
        self.edit = edit
        self.given, self.returned = [], []

    def forward(self, xs, state=None):
        states = [state] * len(self.cells)
        self.given, self.returned = [], []
        for t, x in enumerate(xs):
            for at, cell in enumerate(self.cells):
                if self.edit and t:
                    states[at] = self.edit(t, states[at])
                self.given.append(states[at])
                states[at] = cell(x, states[at])
                self.returned.append(states[at])
                x = last_states(states[at])[0]
        return x


def by_scalars(cell, xs, states):
    """What `scalar.walk` gives for each sequence of ``xs (time, batch, feature)``: every signal ``(batch, time, unit)`` by name."""
    by = stepper(cell, {name: parameter.detach().double().tolist() for name, parameter in cell.named_parameters()})
    rows = [walk(xs[:, b].double().tolist(), [state[b].double().tolist() for state in states], by) for b in range(xs.shape[1])]
    return {name: torch.as_tensor(np.stack([row[name] for row in rows])) for name in by[1]}
