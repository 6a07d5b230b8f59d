"""LSTMs run by our own kernels: the same gradients of what is read, none of weights, and as they are where it doesn't suit them."""

from threading import Thread

import pytest
import torch
from cases import FORMS, Case, call_of, close, peephole_lstm, torch_lstm
from torch import nn

import lstm_explain as lx
from lstm_explain.recording.own_kernels import own_kernels

CASE = Case("batch_first", (4, 4, 4), num_layers=2, bidirectional=True, proj_size=2, initial_state=True)
NATIVE = lx.backend().name == "native"


def gradients(layer, x, state):
    """Everything that a call returns, and how it depends on what went in."""
    read = [one.clone().requires_grad_() for one in (x.data if isinstance(x, nn.utils.rnn.PackedSequence) else x, *state)]
    given = x._replace(data=read[0]) if isinstance(x, nn.utils.rnn.PackedSequence) else read[0]
    output, states = layer(given, tuple(read[1:]))
    output = output.data if isinstance(output, nn.utils.rnn.PackedSequence) else output
    found = [output, *states]
    return found + list(torch.autograd.grad(sum((one**2).sum() for one in found), read))


@pytest.mark.parametrize("layout", ["time_first", "batch_first", "packed_unsorted"])
@pytest.mark.parametrize("form", [*FORMS, "torch"])
def test_they_give_what_the_module_gives(form, layout):
    case = CASE._replace(layout=layout, lengths=(2, 4, 1, 3) if layout.startswith("packed") else (4, 4, 4))
    layer = torch_lstm(case) if form == "torch" else peephole_lstm(case, *form)
    expected = gradients(layer, *call_of(case))
    with own_kernels(layer) as kernels:
        found = gradients(layer, *call_of(case))
    assert list(kernels.ran) == ([""] if NATIVE or form != "torch" else [])
    for one, other in zip(found, expected, strict=True):
        close(one.detach(), other.detach())


def test_weights_get_no_gradient_and_stay_as_they_are():
    layer, (x, state) = peephole_lstm(CASE, "full"), call_of(CASE)
    before = [(parameter.requires_grad, parameter.data_ptr()) for parameter in layer.parameters()]
    x.requires_grad_()
    with own_kernels(layer):
        output, _ = layer(x, state)
        output.sum().backward()
    assert all(parameter.grad is None for parameter in layer.parameters()) and x.grad is not None
    assert [(parameter.requires_grad, parameter.data_ptr()) for parameter in layer.parameters()] == before
    assert "forward" not in vars(layer)


def test_a_call_without_gradients_or_from_another_thread_or_of_a_compiled_model_is_the_modules_own():
    layer, (x, state) = peephole_lstm(CASE, "full"), call_of(CASE)
    with own_kernels(layer) as kernels:
        with torch.no_grad():
            layer(x, state)
        other = Thread(target=layer, args=(x, state))
        other.start()
        other.join()
        with torch.autocast("cpu", torch.bfloat16):
            layer(x, state)
        assert not kernels.ran
        layer(x, state)
        assert list(kernels.ran) == [""]
    whole = nn.Sequential(layer)
    whole._orig_mod = nn.Identity()
    with own_kernels(whole) as kernels:
        assert kernels.layers == () and "forward" not in vars(layer)
