"""Activation checkpointing runs a part of a model again for the backward pass: counted, and not recorded twice."""

import pytest
import torch
from kinds import ALL, CELLS, Model, assert_is, by_hand, inputs, key_of, made, run, weights_of
from recordings import refused
from torch import nn
from torch.utils.checkpoint import checkpoint

from lstm_explain.errors import InputError, RecordingError
from lstm_explain.recording.runner import record

STEPS = 5


class Checkpointed(Model):
    """The recurrent part and what comes before it run again."""

    def __init__(self, kind, use_reentrant, **options):
        super().__init__(kind, **options)
        self.use_reentrant = use_reentrant

    def part(self, x):
        return run(self.kind, self.inner, self.before(x))[0]

    def forward(self, x):
        return self.after(checkpoint(self.part, x, use_reentrant=self.use_reentrant))


class Stack(nn.Module):
    """Two layers in one checkpointed part."""

    def __init__(self, kind, use_reentrant, **options):
        super().__init__()
        self.use_reentrant = use_reentrant
        self.one, self.mid, self.two = made(kind, **options), nn.Linear(3, 2, dtype=options["dtype"]), made(kind, seed=1, **options)

    def part(self, x):
        return self.two(self.mid(self.one(x)[0]))[0]

    def forward(self, x):
        return checkpoint(self.part, x, use_reentrant=self.use_reentrant)


def gradients(model):
    return [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("inside", [True, False], ids=["backward_inside", "backward_after"])
@pytest.mark.parametrize("use_reentrant", [True, False], ids=["reentrant", "not_reentrant"])
@pytest.mark.parametrize("kind", ALL)
def test_what_runs_again_is_counted_and_not_recorded_twice(kind, use_reentrant, inside, dtype):
    model, x = Checkpointed(kind, use_reentrant, dtype=dtype), inputs(STEPS, dtype=dtype).requires_grad_()
    expected = model(x)
    expected.sum().backward()
    wanted, calls = [*gradients(model), x.grad.clone()], STEPS if kind in CELLS else 1
    model.zero_grad()
    x.grad = None
    for _ in range(2):  # the second time, the place of the gates in oneDNN's workspace is known
        with record(model) as recording:
            found = model(x)
            assert recording.coverage.recomputed == {}
            if inside:
                found.sum().backward()
        if not inside:
            found.sum().backward()
        assert torch.equal(found, expected) and all(map(torch.equal, [*gradients(model), x.grad], wanted))
        assert recording.coverage.recorded == {"inner": calls}
        assert recording.coverage.recomputed == ({"inner": calls} if inside else {})
        assert ("run again by checkpointing: inner" in str(recording.coverage)) is inside
        assert_is(recording[key_of(kind, "inner")], by_hand(kind, weights_of(kind, model.inner), model.before(x)))
        model.zero_grad()
        x.grad = None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("use_reentrant", [True, False], ids=["reentrant", "not_reentrant"])
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn", "peephole"])
def test_two_layers_in_one_checkpointed_part_are_each_recorded_once(kind, use_reentrant, dtype):
    model, x = Stack(kind, use_reentrant, dtype=dtype), inputs(STEPS, dtype=dtype).requires_grad_()
    model(x).sum().backward()
    wanted = gradients(model)
    for _ in range(3):
        model.zero_grad()
        with record(model) as recording:
            model(x).sum().backward()
        assert recording.coverage.recorded == recording.coverage.recomputed == {"one": 1, "two": 1}
        assert recording["one.l0"].valid.shape == recording["two.l0"].valid.shape == (4, STEPS)
        assert all(map(torch.equal, gradients(model), wanted))


def test_the_part_runs_no_more_often_than_it_would():
    model, x, seen = Checkpointed("lstm", False, dtype=torch.float32), inputs(dtype=torch.float32).requires_grad_(), []
    model.before.register_forward_hook(lambda *_: seen.append(1))
    for _ in range(3):
        with record(model):
            model(x)
    assert len(seen) == 3


@pytest.mark.parametrize("kind", ALL)
def test_backward_through_a_second_recording_counts_there(kind):
    model, x = Checkpointed(kind, False), inputs().requires_grad_()
    with record(model) as first:
        loss = model(x).sum()
    with record(model) as second:
        model(x)
        loss.backward()
    calls = STEPS if kind in CELLS else 1
    assert first.coverage.recomputed == {} and second.coverage.recomputed == {"inner": calls}
    assert second.coverage.recorded == {"inner": calls}


@pytest.mark.parametrize("kind", ALL)
def test_with_the_graph_a_checkpointed_pass_is_refused_in_one_line(kind):
    model, x = Checkpointed(kind, False), inputs().requires_grad_()

    def call():
        with record(model, grad=True):
            model(x)

    message = refused(RecordingError, call)
    assert "checkpointing" in message and "grad=True" in message
    assert all("forward" not in vars(module) for module in model.modules())


@pytest.mark.parametrize("kind", ALL)
def test_with_the_graph_a_reentrant_checkpoint_has_none_and_says_so(kind):
    model, x = Checkpointed(kind, True), inputs().requires_grad_()
    with record(model, grad=True) as recording:
        loss = model(x).sum()
    assert "graph" in refused(InputError, lambda: recording.gradients(loss))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("kind", ALL)
def test_tensors_that_are_kept_elsewhere_for_the_backward_pass_are_not_looked_at(kind, dtype):
    model, x, looked = Model(kind, dtype=dtype), inputs(dtype=dtype), []

    def unpack(tensor):
        looked.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, unpack):
        for _ in range(2):
            with record(model) as recording:
                model(x)
    assert not looked and recording.certificate.state == "certified"
