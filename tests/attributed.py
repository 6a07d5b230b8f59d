"""Models and inputs to attribute, and what `attribute` says and leaves behind."""

import pytest
import torch
from cases import Case, randomise
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import lstm_explain as lx

METHODS = ["integrated_gradients", "saliency", "input_x_gradient", "occlusion"]
ENDS = [5, 2, 4]
VALID = torch.arange(5) < torch.tensor(ENDS).unsqueeze(1)
THREE = Case("batch_first", (5, 5, 5))
"""Three sequences of five steps of two features; three units."""


def features(*shape, seed=0):
    return torch.randn(*shape or (3, 5, 2), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def tokens():
    return torch.tensor([[1, 4, 2, 8, 5], [7, 1, 0, 0, 0], [3, 3, 6, 2, 0]])


def held_at_padding(baselines, inputs):
    """What the baseline is where only the valid steps of `ENDS` are replaced."""
    return torch.where(VALID.unsqueeze(2), baselines, inputs)


class Function(nn.Module):
    """A function as a model."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


class Translator(nn.Module):
    """A layer that starts from a state of its own, which is learned, and hands its last state on to another."""

    def __init__(self, kind):
        super().__init__()
        self.reads, self.writes, self.head = kind(2, 3, batch_first=True), kind(2, 3, batch_first=True), nn.Linear(3, 2)
        self.start = nn.Parameter(torch.zeros(2, 1, 1, 3))
        randomise(self.double())

    def forward(self, x):
        start = tuple(state.expand(-1, len(x), -1).contiguous() for state in self.start)
        return self.head(self.writes(x, self.reads(x, start)[1])[0])


class Words(nn.Module):
    """Tokens ``(batch, time)`` to classes ``(batch, time, 4)``, by layers that may read the time first."""

    def __init__(self, time_first=False):
        super().__init__()
        self.embedding = nn.Embedding(9, 3)
        self.rest = nn.LSTM(3, 4, batch_first=not time_first)
        randomise(self.double())

    def forward(self, tokens):
        if self.rest.batch_first:
            return self.rest(self.embedding(tokens))[0]
        return self.rest(self.embedding(tokens.T))[0].transpose(0, 1)


class Packed(nn.Module):
    """Reads each sequence to its own end, both ways, and returns both last states ``(batch, 6)``."""

    def __init__(self):
        super().__init__()
        self.lstm = randomise(nn.LSTM(2, 3, batch_first=True, bidirectional=True).double())

    def forward(self, inputs, lengths):
        _, (h_n, _) = self.lstm(pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False))
        return torch.cat([*h_n], 1)


class Worn(Words):
    """`Words` with dropout and a mind of its own: it writes down how it was called, and fails at the call that it is told."""

    def __init__(self, fails_at=0):
        super().__init__()
        self.dropout = nn.Dropout(0.9)
        self.fails_at, self.found = fails_at, []

    def forward(self, tokens):
        modes = {module.training for module in self.modules()}
        self.found.append((modes, torch.backends.cudnn.enabled, torch.is_inference_mode_enabled(), len(tokens)))
        embedded = self.dropout(self.embedding(tokens))
        if len(self.found) == self.fails_at:
            raise ValueError("worn out\nby its use")
        return self.rest(embedded)[0]


def whereabouts(model):
    """All that `attribute` could leave changed."""
    modules = [(module.training, sorted(vars(module)), vars(module).get("forward")) for module in model.modules()]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks) for module in model.modules()]
    parameters = [(p.tolist(), p.requires_grad, None if p.grad is None else p.grad.tolist()) for p in model.parameters()]
    modes = torch.backends.cudnn.enabled, torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    return modules, hooks, parameters, modes, torch.get_rng_state().tolist()


def refused(model, inputs, **options):
    """What an `InputError` says, which is one line."""
    with pytest.raises(lx.InputError) as caught:
        lx.attribute(model, inputs, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
