"""What stands around a layer and what is said of it: names that look like a wrapper's, keywords in any order, lengths by layer."""

import pytest
import torch
from cases import Case, call_of, torch_lstm
from recordings import refused
from torch import nn

import lstm_explain as lx
from lstm_explain.errors import InputError, RecordingError
from lstm_explain.recording.cells import REGISTERED
from lstm_explain.recording.runner import record


@pytest.fixture(autouse=True)
def nothing_stays_registered():
    before = dict(REGISTERED)
    yield
    REGISTERED.clear()
    REGISTERED.update(before)


class Loop(nn.Module):
    """One cell in a loop under a name, its state changed between steps."""

    def __init__(self, name):
        super().__init__()
        self.name = name
        setattr(self, name, nn.LSTMCell(3, 4))

    def forward(self, x):
        h = c = x.new_zeros(2, 4)
        for now in x:
            h, c = getattr(self, self.name)(now, (h, c))
            h = 0.5 * h
        return h


class Count:
    calls = 0

    def update(self, trajectory):
        self.calls += 1


@pytest.mark.parametrize("name", ["cell", "module"])
def test_a_model_whose_only_child_is_called_module_is_no_wrapper(name):
    model, count = Loop(name), Count()
    with record(model) as recording:
        model(torch.randn(5, 2, 3))
    with record(model, into=[count]):
        model(torch.randn(5, 2, 3))
    assert list(recording) == [name] and recording[name].valid.shape == (2, 5) and count.calls == 1


class Leaky(nn.Module):
    def __init__(self):
        super().__init__()
        self.keep = nn.Linear(4, 4)

    def forward(self, x, h):
        f = torch.sigmoid(self.keep(x))
        return f * h + (1 - f) * torch.tanh(x)


class Telling(Leaky):
    def forward(self, x, h):
        return {"input": x, "state": super().forward(x, h)}


def leaky(cell, x, h):
    f = torch.sigmoid(cell.keep(x))
    return {"forget_gate": f, "hidden_state": f * h + (1 - f) * torch.tanh(x)}


def test_a_registered_cell_may_be_called_with_keywords_in_any_order():
    lx.register(Leaky, leaky)
    with record(cell := Leaky()) as recording:
        cell(h=torch.zeros(2, 4), x=torch.randn(2, 4))
    assert recording.certificate.state == "certified" and "-0.0" not in str(recording.certificate)


@pytest.mark.parametrize("graph", [False, True])
def test_a_cell_that_returns_something_else_says_where_its_state_is(graph):
    lx.register(Telling, leaky, returned=lambda returned: returned["state"])
    cell, x = Telling(), torch.randn(2, 4)
    expected = cell(x, torch.zeros(2, 4))["state"]
    with record(cell, grad=graph) as recording:
        found = cell(x, torch.zeros(2, 4))["state"]
    assert torch.equal(found, expected) and torch.equal(recording["cell"].hidden_state[:, 0], expected)
    if graph:
        assert torch.equal(recording.gradients(found.sum())["cell"].hidden_state, torch.ones(2, 1, 4))


def test_a_wrong_place_for_the_state_is_one_line():
    lx.register(Telling, leaky, returned=lambda returned: returned["elsewhere"])
    with record(cell := Telling()), pytest.raises(InputError, match="^what was registered for Telling .* KeyError") as caught:
        cell(torch.randn(2, 4), torch.zeros(2, 4))
    assert "\n" not in str(caught.value)
    refused(InputError, lambda: lx.register(Telling, leaky, returned="state"))


def test_a_registered_class_that_reads_a_whole_sequence_is_refused_in_words():
    lx.register(Leaky, leaky)

    def call():
        with record(cell := Leaky()):
            cell(torch.randn(2, 5, 4), torch.zeros(2, 5, 4))

    assert "takes one step at a time" in refused(RecordingError, call)


class ReadsAndWrites(nn.Module):
    def __init__(self):
        super().__init__()
        self.reader, self.writer = nn.LSTM(3, 4), nn.LSTMCell(3, 4)

    def forward(self, x, said):
        _, (h, c) = self.reader(x)
        state = h[0], c[0]
        for word in said:
            state = self.writer(word, state)
        return state


def test_layers_that_read_different_sequences_have_lengths_of_their_own():
    model = ReadsAndWrites()
    read, written = torch.randn(6, 2, 3), torch.randn(4, 2, 3)
    with record(model, lengths={"reader": [6, 3], "writer": [2, 4]}) as recording:
        model(read, written)
    assert {name: one.valid.sum(1).tolist() for name, one in recording.items()} == {"reader.l0": [6, 3], "writer": [2, 4]}
    front = torch.tensor([[False] * 3 + [True] * 3, [True] * 6])
    with record(model, valid={"reader": front}) as recording:
        model(read, written)
    assert torch.equal(recording["reader.l0"].valid, front)
    assert (recording["reader.l0"].padding, recording["writer"].padding) == ("known", "unknown")


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_what_is_scripted_is_named_once():
    model = nn.ModuleDict({"lstm": torch_lstm(Case()), "scripted": torch.jit.script(nn.Sequential(nn.GRU(2, 3)))})
    with record(model) as recording:
        model["lstm"](call_of(Case())[0])
    assert list(recording.coverage.not_opened) == ["scripted.0"]
