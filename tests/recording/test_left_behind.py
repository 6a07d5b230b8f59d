"""Nothing is left behind: hooks, `forward`, mode, random state; also when something raises."""

import pytest
import torch
from cases import (
    Case,
    call_of,
    randomise,
    torch_lstm,
)
from recordings import classifier, layer_of
from torch import nn

from lstm_explain.errors import InputError
from lstm_explain.nn.lstm import PeepholeLSTM
from lstm_explain.recording.runner import record


def state_of(model):
    """Whatever recording could leave behind."""
    hooks = [name for name in vars(nn.Identity()) if "hooks" in name]
    parts = [(name, set(vars(module)), [len(vars(module)[h]) for h in hooks], module.training) for name, module in model.named_modules()]
    return parts, {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_untouched(model, before):
    parts, tensors = state_of(model)
    assert parts == before[0]
    assert all("forward" not in vars(module) for module in model.modules())
    assert all(torch.equal(tensor, before[1][name]) for name, tensor in tensors.items())


class Stop(Exception):
    """Raised by a test in the middle of something."""


def raise_in_the_body(model, x):
    with record(model):
        model(x)
        raise Stop


def raise_in_the_forward_pass(model, x):
    with record(model):
        model(x[..., :1])


def raise_in_the_check(model, x):
    with record(model, lengths=[99]):
        model(x)


@pytest.mark.parametrize(
    ("use", "error"), [(raise_in_the_body, Stop), (raise_in_the_forward_pass, RuntimeError), (raise_in_the_check, InputError)]
)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["torch", ("full", "previous")])
def test_nothing_is_left_behind_by_an_exception(kind, training, use, error):
    model = classifier(kind).train(training)
    before, random = state_of(model), torch.get_rng_state()
    with pytest.raises(error):
        use(model, call_of(Case())[0])
    assert_untouched(model, before)
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["torch", ("diagonal", "graves")])
def test_nothing_is_left_behind(kind, training):
    model = classifier(kind, num_layers=2, bidirectional=True).train(training)
    before, random = state_of(model), torch.get_rng_state()
    with record(model) as recording:
        model(call_of(Case())[0])
        assert model.training is training
    assert_untouched(model, before)
    assert torch.equal(torch.get_rng_state(), random)
    model(call_of(Case())[0])
    assert len(recording.calls["encoder.lstm.l0"]) == 1


def test_the_random_state_moves_as_it_would_have():
    case = Case(num_layers=3, hidden_size=8)
    layer = randomise(PeepholeLSTM(**case.arguments, dropout=0.5, dtype=torch.float64))
    input, _ = call_of(case)
    found = []
    for recorded in (False, True):
        torch.manual_seed(1)
        if recorded:
            with record(layer):
                output = layer(input)[0]
        else:
            output = layer(input)[0]
        found.append((output, torch.get_rng_state()))
    assert all(map(torch.equal, *found))


def test_a_forward_of_the_users_own_on_the_instance_is_put_back():
    layer = torch_lstm(Case())
    original, calls = layer.forward, []

    def counting(input, hx=None):
        calls.append(input)
        return original(input, hx)

    layer.forward = counting
    with record(layer) as recording:
        layer(call_of(Case())[0])
    assert layer.forward is counting and len(calls) == 1 and len(recording.calls["l0"]) == 1


@pytest.mark.parametrize("kind", ["torch", ("full", "previous")])
def test_hooks_of_the_user_run_once_and_see_the_same(kind):
    layer = layer_of(kind, Case())
    seen = []
    handle = layer.register_forward_hook(lambda module, args, output: seen.append(output[0]))
    with record(layer):
        output, _ = layer(call_of(Case())[0])
    handle.remove()
    assert len(seen) == 1 and seen[0] is output


@pytest.mark.parametrize("kind", ["torch", ("full", "previous")])
def test_recordings_of_one_model_nest_and_unwind(kind):
    layer = layer_of(kind, Case())
    before, (input, _) = state_of(layer), call_of(Case())
    expected = layer(input)[0]
    with record(layer) as outer:
        layer(input)
        with record(layer) as inner:
            assert torch.equal(layer(input)[0], expected)
        layer(input)
    assert [len(recording.calls["l0"]) for recording in (outer, inner)] == [3, 1]
    assert torch.equal(inner["l0"].cell_state, outer.calls["l0"][1].trajectory.cell_state)
    assert_untouched(layer, before)
