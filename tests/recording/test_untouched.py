"""Recording leaves nothing behind, in every kind of layer and cell: what there is of a model, its outputs and its gradients."""

import pytest
import torch
from kinds import ALL, CELLS, LAYERS, Model, assert_is, by_hand, inputs, key_of, made, run, weights_of
from torch import nn

from lstm_explain.errors import InputError
from lstm_explain.recording.runner import record

DTYPES = [torch.float64, torch.float32]


def state_of(model):
    """Whatever recording could leave behind."""
    hooks = [name for name in vars(nn.Identity()) if "hooks" in name]
    modules = [
        (path, type(one), sorted(vars(one)), [len(vars(one)[h]) for h in hooks], one.training) for path, one in model.named_modules()
    ]
    parameters = [(path, id(one), one.requires_grad, one.grad) for path, one in model.named_parameters()]
    return modules, parameters


def results(kind, model, x, recorded, *, backward_inside=False, **options):
    """Outputs, gradients of everything, and the random state."""
    torch.manual_seed(4)
    x = x.clone().requires_grad_()
    if recorded:
        with record(model, **options):
            output = model(x)
            if backward_inside:
                output.square().sum().backward()
    else:
        output = model(x)
    if not (recorded and backward_inside):
        output.square().sum().backward()
    found = [output, x.grad, *(one.grad for one in model.parameters()), torch.get_rng_state()]
    for one in model.parameters():
        one.grad = None
    return found


def assert_same(found, expected):
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ALL)
def test_nothing_is_left_behind(kind, training):
    model = Model(kind).train(training)
    model.before.requires_grad_(False)
    before, random = state_of(model), torch.get_rng_state()
    with record(model):
        model(inputs())
        assert all(module.training is training for module in model.modules())
    assert state_of(model) == before and torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("inside", [True, False], ids=["backward_inside", "backward_after"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ALL)
def test_outputs_and_gradients_are_the_same_bit_for_bit(kind, dtype, inside):
    model, x = Model(kind, dtype=dtype), inputs(dtype=dtype)
    expected = results(kind, model, x, recorded=False)
    for _ in range(2):
        assert_same(results(kind, model, x, recorded=True, backward_inside=inside), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_stack_that_drops_out_is_the_same_bit_for_bit(kind, dtype):
    layer = made(kind, dtype=dtype, num_layers=3, dropout=0.5, bidirectional=True)
    model, x = nn.ModuleDict({"layer": layer}), inputs(dtype=dtype)
    model.forward = lambda x: layer(x)[0]
    expected = results(kind, model, x, recorded=False)
    for _ in range(2):
        assert_same(results(kind, model, x, recorded=True), expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ALL)
def test_a_pass_without_gradients_is_the_same_and_can_be_read_afterwards(kind, dtype, mode):
    model, x = Model(kind, dtype=dtype), inputs(dtype=dtype)
    with mode():
        expected = model(x)
        with record(model) as recording:
            output = model(x)
    assert torch.equal(output, expected) and output.is_inference() is (mode is torch.inference_mode) and not output.requires_grad
    assert_is(recording[key_of(kind, "inner")], by_hand(kind, weights_of(kind, model.inner), model.before(x)))


def test_a_block_may_be_entered_outside_of_the_mode_that_its_calls_are_in():
    for kind in ALL:
        module, x = made(kind), inputs()
        with record(module) as recording:
            with torch.inference_mode():
                run(kind, module, x)
            run(kind, module, x)
        joined = recording[key_of(kind)]
        assert joined.valid.shape == (8, 5) and torch.equal(joined.hidden_state[:4], joined.hidden_state[4:])


class Stop(Exception):
    """Raised in the middle of something."""


class Halting(nn.Module):
    """Two recurrent parts, and something between them that may raise."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.halts = kind, True
        self.one, self.mid, self.two = made(kind), nn.Linear(3, 2, dtype=torch.float64), made(kind)

    def forward(self, x):
        x = self.mid(run(self.kind, self.one, x)[0])
        if self.halts:
            raise Stop
        return run(self.kind, self.two, x)[0]


@pytest.mark.parametrize("kind", ALL)
def test_an_exception_between_two_layers_leaves_nothing_behind(kind):
    model, calls = Halting(kind), 5 if kind in CELLS else 1
    before = state_of(model)
    with pytest.raises(Stop), record(model):
        model(inputs())
    assert state_of(model) == before
    model.halts = False
    expected = model(inputs())
    with record(model) as recording:
        model.halts = True
        with pytest.raises(Stop):
            model(inputs())
        model.halts = False
        assert torch.equal(model(inputs()), expected)
    assert recording.coverage.recorded == {"one": 2 * calls, "two": calls}
    assert recording[key_of(kind, "one")].valid.shape == (8, 5) and recording[key_of(kind, "two")].valid.shape == (4, 5)


@pytest.mark.parametrize("kind", ALL)
def test_a_call_that_is_refused_leaves_nothing_behind(kind):
    model = Model(kind)
    before = state_of(model)
    with pytest.raises(InputError), record(model, lengths=[1, 2]):
        model(inputs())
    assert state_of(model) == before


@pytest.mark.parametrize("kind", ALL)
def test_a_recording_of_a_part_inside_a_recording_of_the_whole(kind):
    model, x = Model(kind), inputs()
    before, expected = state_of(model), model(x)
    with record(model) as outer:
        model(x)
        with record(model.inner) as part, record(model) as again:
            assert torch.equal(model(x), expected)
        model(x)
    assert state_of(model) == before
    assert {len(one[key_of(kind, path)].valid) for one, path in ((part, ""), (again, "inner"))} == {4}
    assert outer[key_of(kind, "inner")].valid.shape == (12, 5)
    assert torch.equal(part[key_of(kind)].hidden_state, outer[key_of(kind, "inner")].hidden_state[4:8])


@pytest.mark.parametrize("kind", ALL)
def test_recordings_may_end_in_the_order_they_began(kind):
    model, x = Model(kind), inputs()
    before, blocks = state_of(model), [record(model), record(model.inner), record(model)]
    recordings = [block.__enter__() for block in blocks]
    for block in blocks:
        model(x)
        block.__exit__(None, None, None)
    assert state_of(model) == before
    keys = [key_of(kind, "inner"), key_of(kind), key_of(kind, "inner")]
    assert [len(one[key].valid) for one, key in zip(recordings, keys, strict=True)] == [4, 8, 12]


@pytest.mark.parametrize("kind", ALL)
def test_a_forward_of_the_users_own_on_the_instance_is_run_and_put_back(kind):
    model, x, seen = Model(kind), inputs(), []
    original = model.inner.forward

    def counting(*args, **kwargs):
        seen.append(args)
        return original(*args, **kwargs)

    model.inner.forward = counting
    with record(model) as recording:
        model(x)
    assert vars(model.inner)["forward"] is counting and len(seen) == (5 if kind in CELLS else 1)
    assert_is(recording[key_of(kind, "inner")], by_hand(kind, weights_of(kind, model.inner), model.before(x)))
