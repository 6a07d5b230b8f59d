"""Layers and models to record, and what a recording of them must be."""

import pytest
import torch
from cases import (
    FORMS,
    LENGTHS,
    Case,
    close,
    peephole_lstm,
    slowly,
    torch_lstm,
)
from cases import sequences_and_state as drawn
from scalar import SIGNALS
from torch import nn
from torch.nn.utils.rnn import PackedSequence

KINDS = ["torch", *FORMS]
DEEP = {"num_layers": 2, "bidirectional": True, "initial_state": True}


def layer_of(kind, case, dtype=torch.float64):
    return torch_lstm(case, dtype) if kind == "torch" else peephole_lstm(case, *kind, dtype=dtype)


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
    output, (h_n, c_n) = returned
    return [output.data if isinstance(output, PackedSequence) else output, h_n, c_n]


def assert_recorded(case, layer, recording):
    """One call of the case, signal by signal, in the order of the input."""
    time = max(case.lengths)
    zeros = torch.zeros(len(case.suffixes), len(case.lengths), case.hidden_size, dtype=torch.float64)
    h_0, c_0 = drawn(case)[1] or (zeros[..., : case.proj_size or case.hidden_size], zeros)
    if h_0.dim() == 2:
        h_0, c_0 = h_0.unsqueeze(1), c_0.unsqueeze(1)
    assert list(recording) == case.suffixes
    for at, suffix in enumerate(case.suffixes):
        trajectory = recording[suffix]
        reverse = suffix.endswith("_reverse")
        for b, (signals, *_) in enumerate(slowly(case, layer)):
            for name in SIGNALS:
                close(getattr(trajectory, name)[b, : case.lengths[b]], signals[suffix][name])
        assert trajectory.valid.tolist() == [[t < length for t in range(time)] for length in case.lengths]
        assert trajectory.first_step.tolist() == [length - 1 if reverse else 0 for length in case.lengths]
        assert trajectory.reverse is reverse and trajectory.name == suffix
        assert trajectory.padding == ("unknown" if not case.packed else "none" if trajectory.valid.all() else "known")
        close(trajectory.initial_hidden_state, h_0[at])
        close(trajectory.initial_cell_state, c_0[at])
        assert trajectory.residual() <= 1e-12
        assert all(not signal.requires_grad for signal in trajectory.signals.values())
    assert recording.certificate.state == "certified"


def refused(error, call):
    with pytest.raises(error) as caught:
        call()
    assert "\n" not in str(caught.value) and str(caught.value).startswith("needed ")
    return str(caught.value)
