"""Whichever way a layer or cell is called, and whatever a subclass calls its arguments."""

import pytest
import torch
from cases import randomise
from kinds import ALL, CELLS, assert_is, by_hand, inputs, key_of, made, run, weights_of
from recordings import refused
from torch import nn

from lstm_explain.errors import InputError, RecordingError
from lstm_explain.nn.lstm import PeepholeLSTM, PeepholeLSTMCell
from lstm_explain.recording.runner import record

CALLS = {
    "call": lambda module, x, hx: module(x, hx),
    "forward": lambda module, x, hx: module.forward(x, hx),
    "keywords": lambda module, x, hx: module(input=x, hx=hx),
    "one_keyword": lambda module, x, hx: module(x, hx=hx),
    "forward_keywords": lambda module, x, hx: module.forward(hx=hx, input=x),
}


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", ALL)
def test_every_way_of_calling_is_seen(kind, call, grad):
    module, x = made(kind), inputs()
    x_1 = x[0] if kind in CELLS else x
    state = run(kind, module, inputs(seed=3))[1]
    expected = CALLS[call](module, x_1, state)
    with record(nn.ModuleDict({"inner": module}), grad=grad) as recording:
        found = CALLS[call](module, x_1, state)
    flat = [torch.utils._pytree.tree_leaves(returned) for returned in (found, expected)]
    assert all(map(torch.equal, *flat))
    expected = by_hand(kind, weights_of(kind, module), x[:1] if kind in CELLS else x, state)
    assert_is(recording[key_of(kind, "inner")], expected)


CLASSES = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "rnn": nn.RNN,
    "peephole": PeepholeLSTM,
    "lstm_cell": nn.LSTMCell,
    "gru_cell": nn.GRUCell,
    "rnn_cell": nn.RNNCell,
    "peephole_cell": PeepholeLSTMCell,
}


def input_only(base):
    class InputOnly(base):
        def forward(self, x):
            return super().forward(x)

    return InputOnly, lambda module, x, hx: module(x)


def renamed(base):
    class Renamed(base):
        def forward(self, x, state=None):
            return super().forward(x, state)

    return Renamed, lambda module, x, hx: module(state=hx, x=x)


def with_an_option(base):
    class WithAnOption(base):
        def forward(self, x, hx=None, *, scale=1.0):
            return super().forward(x * 1.0, hx)

    return WithAnOption, lambda module, x, hx: module(x, scale=3.0)


def with_an_argument_between(base):
    class WithAnArgumentBetween(base):
        def forward(self, x, lengths=None, hx=None):
            return super().forward(x, hx)

    return WithAnArgumentBetween, lambda module, x, hx: module(x, lengths=[1], hx=hx)


def anything(base):
    class Anything(base):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    return Anything, lambda module, x, hx: module(x, hx=hx)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("how", [input_only, renamed, with_an_option, with_an_argument_between, anything])
@pytest.mark.parametrize("kind", CLASSES)
def test_a_subclass_may_have_other_arguments(kind, how, grad):
    subclass, call = how(CLASSES[kind])
    module, x = randomise(subclass(2, 3, dtype=torch.float64)), inputs()
    state = run(kind, made(kind), inputs(seed=3))[1] if how not in (input_only, with_an_option) else None
    with record(module, grad=grad) as recording:
        call(module, x[0] if kind in CELLS else x, state)
    expected = by_hand(kind, weights_of(kind, module), x[:1] if kind in CELLS else x, state)
    assert_is(recording[key_of(kind)], expected)


@pytest.mark.parametrize("kind", CLASSES)
def test_a_second_argument_that_is_no_state_is_refused_in_one_line(kind):
    subclass, _ = with_an_argument_between(CLASSES[kind])
    module, x = randomise(subclass(2, 3, dtype=torch.float64)), inputs()

    def call(lengths):
        with record(module):
            module(x[0] if kind in CELLS else x, lengths)

    for lengths in ([5, 5, 5, 5], torch.tensor([5, 5, 5, 5]), (torch.zeros(1), torch.zeros(1))):
        # Our own layer refuses it in its own words.
        message = refused(InputError if kind == "peephole" else RecordingError, lambda lengths=lengths: call(lengths))
        assert kind == "peephole" or "WithAnArgumentBetween to be called" in message and "hx=" in message
    assert "forward" not in vars(module)


@pytest.mark.parametrize("kind", ALL)
def test_arguments_that_the_module_itself_refuses_raise_what_they_would_have(kind):
    module = made(kind)
    calls = [lambda: module(), lambda: module(torch.zeros(2, 2, 9, dtype=torch.float64)), lambda: module(wrong=1), lambda: module(1, 2, 3)]
    for call in calls:
        with pytest.raises(Exception) as expected:
            call()
        with pytest.raises(type(expected.value)) as found, record(module):
            call()
        if kind != "peephole":
            assert str(found.value) == str(expected.value)
    assert "forward" not in vars(module)


def test_layers_take_the_state_as_a_list_too():
    for kind in ("lstm", "lstm_cell", "peephole_cell"):
        module, x = made(kind), inputs()
        state = [part.detach() for part in run(kind, module, inputs(seed=3))[1]]
        with record(module) as recording:
            module(x[0] if kind in CELLS else x, state)
        assert_is(recording[key_of(kind)], by_hand(kind, weights_of(kind, module), x[:1] if kind in CELLS else x, tuple(state)))
