"""Modules that hide what they compute, TorchScript's and quantised ones: one clear line and what to do instead."""

import pytest
import torch
from kinds import inputs, made
from recordings import refused
from torch import nn

from lstm_explain.errors import RecordingError
from lstm_explain.recording.runner import record

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning"),
]

TORCH = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN", "lstm_cell": "LSTMCell", "gru_cell": "GRUCell", "rnn_cell": "RNNCell"}


class Around(nn.Module):
    """A model with one recurrent part."""

    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, x):
        return self.part(x)[0]


def input_of(kind):
    x = inputs(dtype=torch.float32)
    return x[0] if "cell" in kind else x


def scripted(kind):
    return torch.jit.script(made(kind, dtype=torch.float32))


def traced(kind):
    return torch.jit.trace(made(kind, dtype=torch.float32), input_of(kind))


def quantised(kind):
    quantize = torch.ao.quantization.quantize_dynamic
    return quantize(nn.Sequential(made(kind, dtype=torch.float32)), {getattr(nn, TORCH[kind])}, dtype=torch.qint8)[0]


HIDDEN = {
    "scripted": (scripted, "TorchScript: record the eager module that it was made from"),
    "traced": (traced, "TorchScript: record the eager module that it was made from"),
    "quantised": (quantised, "quantised: record the float model that it was made from"),
}


# PyTorch has no quantised plain RNN layer.
CASES = [(how, kind) for how in HIDDEN for kind in TORCH if (how, kind) != ("quantised", "rnn")]


@pytest.mark.parametrize(("how", "kind"), CASES)
def test_a_model_that_hides_what_it_computes_is_refused_with_what_to_do(how, kind):
    make, instead = HIDDEN[how]
    message = refused(RecordingError, lambda: record(make(kind)).__enter__())
    assert f"the model ({TORCH[kind]}, {instead})" in message
    assert f"part ({TORCH[kind]}, {instead})" in refused(RecordingError, lambda: record(Around(make(kind))).__enter__())


@pytest.mark.parametrize(("how", "kind"), CASES)
def test_a_part_that_hides_what_it_computes_is_named_and_runs_as_it_would(how, kind):
    make, instead = HIDDEN[how]
    hidden, seen, x = make(kind), made("gru", dtype=torch.float32), input_of(kind)
    model = nn.ModuleDict({"hidden": hidden, "seen": seen})
    callable_at_all = hasattr(hidden, "forward")  # PyTorch can't call a layer that was scripted by itself
    expected = hidden(x) if callable_at_all else x
    with record(model) as recording:
        output = hidden(x) if callable_at_all else x
        seen(inputs(dtype=torch.float32))
    first = [returned if isinstance(returned, torch.Tensor) else returned[0] for returned in (output, expected)]
    assert torch.equal(*first)
    assert recording.coverage.not_opened == {"hidden": f"{TORCH[kind]}, {instead}"} and list(recording) == ["seen.l0"]
    assert f"not opened: hidden ({TORCH[kind]}, {instead})" in str(recording.coverage)


@pytest.mark.parametrize(
    "make", [torch.jit.script, lambda model: torch.jit.trace(model, inputs(dtype=torch.float32))], ids=["script", "trace"]
)
def test_the_parts_of_a_scripted_model_are_named(make):
    model = nn.ModuleDict({"encoder": make(Around(made("lstm", dtype=torch.float32))), "seen": made("gru", dtype=torch.float32)})
    with record(model) as recording:
        model["encoder"](inputs(dtype=torch.float32))
        model["seen"](inputs(dtype=torch.float32))
    assert list(recording.coverage.not_opened) == ["encoder.part"]


def test_a_scripted_part_that_is_not_recurrent_is_no_concern():
    model = nn.ModuleDict({"linear": torch.jit.script(nn.Linear(2, 2)), "seen": made("gru", dtype=torch.float32)})
    with record(model) as recording:
        model["seen"](model["linear"](inputs(dtype=torch.float32)))
    assert recording.coverage.not_opened == {}


@pytest.mark.parametrize("kind", TORCH)
def test_a_model_can_be_scripted_after_it_was_recorded(kind):
    model, x = Around(made(kind, dtype=torch.float32)), input_of(kind)
    with record(model):
        expected = model(x)
    torch.testing.assert_close(torch.jit.script(model)(x), expected)
