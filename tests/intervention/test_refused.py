"""What doesn't fit is refused in one line."""

import pytest
import torch
from cases import randomise
from every_kind import CoupledLSTMCell, coupled, registered
from recordings import Loop, cell_of, classifier, layer_of, of_layout, refused
from torch import nn
from torch.utils.checkpoint import checkpoint

import lstm_explain as lx

X = torch.randn(2, 5, 2, dtype=torch.float64)


@pytest.fixture(scope="module")
def model():
    return classifier(num_layers=2)


@pytest.fixture(scope="module")
def layer():
    return layer_of("torch", of_layout("batch_first", num_layers=2, proj_size=2))


def recorded(layer, x=X, **options):
    with torch.no_grad(), lx.record(layer, **options) as recording:
        layer(x)
    return recording


def entering(model, key, **options):
    def call():
        with lx.intervene(model, key, **options):
            pass

    return refused(lx.InputError, call)


def calling(layer, call=(X,), key="l0", error=lx.InputError, **options):
    def run():
        with lx.intervene(layer, key, **{"feedback": True} | options):
            layer(*call)

    return refused(error, run)


def test_names_come_with_the_nearest(model):
    assert "got 'encoder.lstm.l2', did you mean 'encoder.lstm.l" in entering(model, "encoder.lstm.l2", hidden_state=0.0, feedback=True)
    assert "did you mean 'encoder.lstm.l1'?" in entering(model, "encoder.l1", hidden_state=0.0, feedback=True)
    message = entering(model, "encoder.lstm.l1", forgetgate=0.0, feedback=True)
    assert message.startswith("needed signals of input_gate, forget_gate") and message.endswith("did you mean 'forget_gate'?")
    assert "reset_gate, update_gate, candidate, hidden_state" in entering(nn.GRU(2, 3), "l0", cell_state=0.0, feedback=True)


def test_arguments(model, layer):
    key = "encoder.lstm.l1"
    assert "needed feedback=True (later steps see the change)" in entering(model, key, hidden_state=0.0)
    assert "needed at least one of input_gate" in entering(model, key, feedback=True)
    assert "units from 0 to 2 of forget_gate of encoder.lstm.l1, got 3" in entering(
        model, key, forget_gate=0.0, units=[0, 3], feedback=True
    )
    assert "units from 0 to 2 of forget_gate of encoder.lstm.l1, got -1" in entering(model, key, forget_gate=0.0, units=[-1], feedback=True)
    assert "units from 0 to 1 of hidden_state of l1, got 2" in entering(layer, "l1", hidden_state=0.0, units=[2], feedback=True)
    assert "each once" in entering(model, key, forget_gate=0.0, units=[1, 1], feedback=True)
    assert "each once" in entering(model, key, forget_gate=0.0, units={"a": 1, "b": [1, 2]}, feedback=True)
    assert "got {'a': 'b'}" in entering(model, key, forget_gate=0.0, units={"a": "b"}, feedback=True)
    assert "got {}" in entering(model, key, forget_gate=0.0, units={}, feedback=True)
    assert "got 0.5" in entering(model, key, forget_gate=0.0, units=0.5, feedback=True)
    assert "as a mask (batch, 3), got (2, 4)" in entering(
        model, key, forget_gate=0.0, units=torch.ones(2, 4, dtype=torch.bool), feedback=True
    )
    assert "steps as a slice" in entering(model, key, forget_gate=0.0, steps="last", feedback=True)
    assert "steps as a slice of whole numbers" in entering(model, key, forget_gate=0.0, steps=slice(0.5, None), feedback=True)
    assert "steps as a slice of whole numbers" in entering(model, key, forget_gate=0.0, steps=slice(None, None, 0), feedback=True)
    assert "needed the value to clamp to as finite numbers" in entering(model, key, forget_gate=float("nan"), feedback=True)
    assert "got bool" in entering(model, key, forget_gate=True, feedback=True)
    assert "got NoneType" in entering(model, key, forget_gate=None, feedback=True)
    assert "needed a torch.nn.Module, got int" in entering(3, "l0", hidden_state=0.0, feedback=True)
    assert "found none in Linear" in refused(lx.RecordingError, lambda: lx.intervene(nn.Linear(2, 2), "l0", feedback=True).__enter__())


def test_values_that_do_not_fit_the_call(layer):
    assert "(batch, time, unit) = (2, 5, 3), got (1, 1, 4)" in calling(layer, forget_gate=torch.ones(4))
    assert "(2, 5, 1), got (2, 1, 3)" in calling(layer, forget_gate=torch.ones(2, 3), units=[1])
    assert "got (2, 4, 3)" in calling(layer, forget_gate=torch.ones(2, 4, 3))
    assert "as a mask (2, 5), got (2, 6)" in calling(layer, forget_gate=0.0, steps=torch.ones(2, 6, dtype=torch.bool))
    assert "a mask of the 2 sequences that l0 reads, got 3" in calling(layer, forget_gate=0.0, units=torch.ones(3, 3, dtype=torch.bool))
    assert "steps from -5 to 4 of l0, got -6" in calling(layer, forget_gate=0.0, steps=[-6])
    assert "steps from -3 to 2 of l0, got 3" in calling(layer, forget_gate=0.0, steps=[3], lengths=[3, 2])
    assert "lengths from 1 to 5, got 6" in calling(layer, forget_gate=0.0, lengths=[6, 2])
    packed = nn.utils.rnn.pack_sequence([X[0], X[1, :3]])
    assert "the lengths of the PackedSequence, [5, 3], got [5, 2]" in calling(layer, (packed,), forget_gate=0.0, lengths=[5, 2])


def test_recordings_that_do_not_fit_the_call(layer):
    recording = recorded(layer)
    patch = lx.patch(recording)
    assert "needed a recording of the 3 sequences of the call to patch l0, got 2" in calling(
        layer, (torch.cat([X, X[:1]]),), forget_gate=patch
    )
    assert "a recording of the call's 4 steps to patch l0, got 5" in calling(layer, (X[:, :4],), forget_gate=patch)
    assert "sequences of [3, 2] steps to patch l0, got [5, 2]" in calling(
        layer, (X[:, :5],), forget_gate=lx.patch(recorded(layer, lengths=[5, 2])), lengths=[3, 2]
    )
    assert "got [5, 2]: give lengths=" in calling(layer, forget_gate=lx.patch(recorded(layer, lengths=[5, 2])))
    in_front = lx.patch(recorded(layer, valid=[[True] * 5, [False] * 3 + [True] * 2]))
    assert "step 0 of sequence 1 to patch l0, got 2 steps" in calling(layer, forget_gate=in_front, lengths=[5, 2])
    assert "sequences for each of the 2" in calling(layer, forget_gate=lx.patch(recording, sequences=[0]))
    assert "sequences from 0 to 1 of the recording" in calling(layer, forget_gate=lx.patch(recording, sequences=[0, 2]))
    assert "needed a recording of l1, got one of l0" in calling(layer, key="l1", forget_gate=lx.mean(recorded(layer, layers="l0")))
    assert "a recording of forget_gate of l0, got input_gate" in calling(layer, forget_gate=lx.mean(recorded(layer, signals="input_gate")))
    assert "a recording of unit 1 of l0, got units 0, 2" in calling(layer, forget_gate=lx.mean(recorded(layer, units=[0, 2])))
    other = layer_of("torch", of_layout("batch_first", hidden_size=4))
    assert "needed a recording of 3 units of l0, got 4" in calling(layer, forget_gate=lx.mean(recorded(other)))
    assert "at least two sequences" in calling(layer, (X[:1],), forget_gate=lx.resample(recorded(layer, X[:1])))
    assert "got the recording itself" in calling(layer, forget_gate=recording)
    for made in (
        lambda: lx.clamp(recording),
        lambda: lx.mean(3),
        lambda: lx.resample(recording, seed=0.5),
        lambda: lx.patch(recording, sequences=[-1]),
        lambda: lx.patch(recording, sequences="x"),
        lambda: lx.add("x"),
        lambda: lx.add(torch.ones(1, 1, 1, 1)),
    ):
        refused(lx.InputError, made)


def test_passes_that_can_not_be_changed(layer):
    def under_autocast():
        with torch.autocast("cpu", dtype=torch.bfloat16), lx.intervene(layer, "l0", forget_gate=0.0, feedback=True):
            layer(X)

    assert "got autocast" in refused(lx.RecordingError, under_autocast)
    for reentrant in (True, False):
        x = X.clone().requires_grad_()

        def checkpointed(x=x, reentrant=reentrant):
            with lx.intervene(layer, "l0", forget_gate=0.0, feedback=True):
                return checkpoint(lambda x: layer(x)[0], x, use_reentrant=reentrant)

        # Also where the backward pass would come after the block, and run the model again without the change.
        assert "without activation checkpointing for lx.intervene" in refused(lx.RecordingError, checkpointed)
        if not reentrant:
            with torch.no_grad():
                assert torch.isfinite(checkpointed(X)).all()  # nobody runs it again

        def begun_outside(x=x, reentrant=reentrant):
            output = checkpoint(lambda x: layer(x)[0], x, use_reentrant=reentrant)
            with lx.intervene(layer, "l0", forget_gate=0.0, feedback=True):
                output.sum().backward()

        assert "without activation checkpointing for lx.intervene" in refused(lx.RecordingError, begun_outside)

    def on_graph():
        with lx.record(layer, grad=True), lx.intervene(layer, "l0", forget_gate=0.0, feedback=False):
            layer(X)

    assert "needed feedback=True under lx.record(grad=True)" in refused(lx.RecordingError, on_graph)


def test_cells_that_can_not_be_changed():
    cell = randomise(CoupledLSTMCell(2, 3).double())
    with registered(CoupledLSTMCell, coupled):
        h = torch.zeros(2, 3, dtype=torch.float64)
        message = calling(cell, (X[:, 0], h, h), key="cell", error=lx.RecordingError, hidden_state=0.0)
    assert "got an output of its own from CoupledLSTMCell" in message
    masked = Loop(cell_of("torch"), edit=lambda t, state: (state[0] * 0.5, state[1]))

    def run(feedback):
        with lx.intervene(masked, "cells.0", hidden_state=0.3, feedback=feedback):
            masked(X.transpose(0, 1))

    assert "the model changed between the steps: use feedback=True" in refused(lx.RecordingError, lambda: run(False))
    run(True)


def test_a_layer_called_again_with_its_state_has_no_end(layer):
    def run():
        with lx.intervene(layer, "l0", forget_gate=0.0, steps=-1, feedback=True):
            _, state = layer(X)
            layer(X, state)

    assert "in a loop of calls it isn't known where sequences end, got [-1]: give lengths=" in refused(lx.InputError, run)


def test_what_never_came_is_said(layer):
    with (
        pytest.warns(UserWarning, match="nothing was changed in l0: it wasn't called"),
        lx.intervene(layer, "l0", forget_gate=0.0, feedback=True),
    ):
        pass
    with pytest.warns(UserWarning, match="nothing was changed in l0: no step or unit"):
        with lx.intervene(layer, "l0", forget_gate=0.0, steps=slice(9, None), feedback=True):
            layer(X)
    with pytest.warns(UserWarning, match="step 7 of l0 never came: its calls had 5 steps"):
        with lx.intervene(layer, "l0", forget_gate=0.0, steps=[1, 7], feedback=True):
            layer(X)
    loop, late = Loop(cell_of("torch")), torch.zeros(2, 9, dtype=torch.bool)
    late[0, [1, 6]] = True
    with pytest.warns(UserWarning, match="step 6 of cells.0 never came: its calls had 5 steps"):
        with lx.intervene(loop, "cells.0", hidden_state=0.3, steps=late, feedback=True):
            loop(X.transpose(0, 1))
