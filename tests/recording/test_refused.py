"""What can not be recorded is refused in one line; what was not seen is said."""

from contextlib import nullcontext

import pytest
import torch
from cases import (
    Case,
    call_of,
    close,
    randomise,
    torch_lstm,
)
from recordings import refused
from torch import nn

from lstm_explain.errors import InputError, RecordingError
from lstm_explain.nn.lstm import PeepholeLSTM
from lstm_explain.recording.runner import record


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Linear(2, 2), ["found none", "Linear"]),
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU()), ["found none", "Sequential", "lx.register"]),
    ],
)
def test_a_model_that_can_not_be_opened_is_refused(model, words):
    message = refused(RecordingError, lambda: record(model).__enter__())
    assert all(word in message for word in words)


@pytest.mark.parametrize("model", [None, lambda x: x, torch.zeros(1)])
def test_what_is_not_a_module_is_refused(model):
    refused(InputError, lambda: record(model).__enter__())


class Unopened(nn.RNNBase):
    """A layer of PyTorch's family that isn't one of its kinds."""

    def __init__(self):
        super().__init__("LSTM", 2, 3)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_coverage_says_what_was_not_seen():
    model = nn.ModuleDict({name: torch_lstm(Case()) for name in ("used", "unused")})
    model["other"], model["scripted"] = Unopened(), torch.jit.script(nn.GRU(2, 3))
    with record(model) as recording:
        assert str(recording.certificate) == "uncertified: nothing was recorded" and len(recording) == 0
        model["used"](call_of(Case())[0])
        model["used"](call_of(Case())[0])
    coverage = recording.coverage
    assert coverage.recorded == {"used": 2} and coverage.never_called == ("unused",)
    assert set(coverage.not_opened) == {"other", "scripted"}
    assert "lx.register" in coverage.not_opened["other"] and "eager" in coverage.not_opened["scripted"]
    assert all(words in str(coverage) for words in ("used x2", "never called: unused", "scripted (GRU", "padding: unknown"))


def test_a_block_in_which_nothing_runs_is_not_silent():
    with (
        pytest.warns(UserWarning, match="^nothing was recorded: .*never called: used.* call the model"),
        record(nn.ModuleDict({"used": torch_lstm(Case())})),
    ):
        pass


def test_dropout_between_the_layers_is_the_one_of_the_pass_that_ran():
    case = Case(num_layers=3, hidden_size=8)
    layer = randomise(nn.LSTM(**case.arguments, dropout=0.5, dtype=torch.float64))
    outputs = []
    for recorded in (False, True):
        torch.manual_seed(1)
        with record(layer) if recorded else nullcontext() as recording:
            outputs.append((layer(call_of(case)[0])[0], torch.get_rng_state()))
    assert all(map(torch.equal, *outputs)) and recording.certificate.worst.worst <= 1e-12
    layer.eval()
    with record(layer) as without:
        layer(call_of(case)[0])
    assert (recording["l2"].cell_state - without["l2"].cell_state).abs().max() > 1e-2


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_training_mode_without_random_layers_is_recorded(dropout):
    # PyTorch warns that dropout after the only layer does nothing; what counts here is that it isn't taken for randomness.
    layer = torch_lstm(Case())
    layer.dropout = dropout
    with record(layer.train()) as recording:
        layer(call_of(Case())[0])
    assert recording.certificate.state == "certified"


class Scaled(PeepholeLSTM):
    """A layer of ours with a forward pass of its own."""

    def forward(self, input, hx=None):
        return super().forward(2 * input, hx)


def test_a_subclass_of_our_layer_keeps_its_own_forward_pass_or_is_refused():
    layer = randomise(Scaled(2, 3, dtype=torch.float64))
    input, _ = call_of(Case())
    expected = layer(input)[0]
    try:
        with record(layer):
            assert torch.equal(layer(input)[0], expected)
    except RecordingError:
        pass


class Renamed(nn.LSTM):
    """As some users write it: other names for the same arguments."""

    def forward(self, x, state=None):
        return super().forward(x, state)


def test_a_subclass_may_name_its_arguments_otherwise():
    layer = randomise(Renamed(2, 3, dtype=torch.float64))
    input, _ = call_of(Case())
    with record(layer) as recording:
        output, _ = layer(input)
    close(recording["l0"].hidden_state, output.detach().transpose(0, 1))
    assert recording.certificate.state == "certified"


class OutputOnly(nn.LSTM):
    """Returns something else than a layer does."""

    def forward(self, input, hx=None):
        return super().forward(input, hx)[0]


def test_a_layer_that_returns_something_else_is_refused():
    layer = OutputOnly(2, 3, dtype=torch.float64)

    def call():
        with record(layer):
            layer(call_of(Case())[0])

    refused(RecordingError, call)
