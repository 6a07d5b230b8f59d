"""Cells in loops: their steps join along time, and their values are those of the scalar loop."""

import pytest
import torch
from cases import WITHOUT_CELL, Case, close, last_states
from recordings import ALL_KINDS, Loop, by_scalars, cell_of, layer_of, name_of, signals_of
from torch import nn

from lstm_explain.recording.runner import record

TIME = 5


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def initial_of(kind, *shape):
    """A state as the cell takes it."""
    h, c = normal(*shape, seed=1), normal(*shape, seed=2)
    return h if kind in WITHOUT_CELL else (h, c)


def run(cell, xs, state):
    outputs = []
    for x in xs:
        state = cell(x, state) if state is not None else cell(x)
        outputs += last_states(state)
    return outputs


def assert_cell(trajectory, kind, expected, initial):
    batch = len(next(iter(expected.values())))
    assert trajectory.kind == name_of(kind) and tuple(trajectory.signals) == signals_of(kind)
    for name, signal in expected.items():
        close(trajectory.signals[name], signal)
    assert tuple(trajectory.initial) == ("hidden_state", "cell_state")[: len(initial)]
    for found, state in zip(trajectory.initial.values(), initial, strict=True):
        close(found, state)
    assert trajectory.valid.tolist() == [[True] * TIME] * batch and trajectory.first_step.tolist() == [0] * batch
    assert not trajectory.reverse and not trajectory.edited().any() and trajectory.residual() <= 1e-12


@pytest.mark.parametrize("start", ["given", "left_out"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "without_bias"])
@pytest.mark.parametrize("batch", [(), (3,)], ids=["unbatched", "batched"])
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_all_steps_of_a_cell_are_one_trajectory_equal_to_the_scalar_loop(kind, batch, bias, start):
    cell, xs = cell_of(kind, bias), normal(TIME, *batch, 2)
    state = initial_of(kind, *batch, 3) if start == "given" else None
    unrecorded = run(cell, xs, state)
    with record(cell) as recording:
        returned = run(cell, xs, state)
    assert all(map(torch.equal, returned, unrecorded))
    zero = torch.zeros(*batch, 3, dtype=torch.float64)
    first = last_states(state) if state is not None else (zero,) * (1 if kind in WITHOUT_CELL else 2)
    initial = [tensor.view(-1, 3) for tensor in first]
    assert list(recording) == ["cell"]
    assert_cell(recording["cell"], kind, by_scalars(cell, xs.view(TIME, -1, 2), initial), initial)
    assert recording.certificate.state == "certified" and recording.certificate.worst.worst <= 1e-12
    assert [call.continues for call in recording.calls["cell"]] == [False] + [True] * (TIME - 1)


@pytest.mark.parametrize("batch", [(), (3,)], ids=["unbatched", "batched"])
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_two_cells_one_on_top_of_the_other_are_two_trajectories(kind, batch):
    model = Loop(cell_of(kind), cell_of(kind, seed=1, sizes=(3, 3)))
    xs, state = normal(TIME, *batch, 2), initial_of(kind, *batch, 3)
    unrecorded = model(xs, state)
    with record(model) as recording:
        assert torch.equal(model(xs, state), unrecorded)
    rows, initial = xs.view(TIME, -1, 2), [tensor.view(-1, 3) for tensor in last_states(state)]
    assert list(recording) == ["cells.0", "cells.1"]
    for key, cell in zip(recording, model.cells, strict=True):
        expected = by_scalars(cell, rows, initial)
        assert_cell(recording[key], kind, expected, initial)
        rows = expected["hidden_state"].transpose(0, 1)
    assert recording.coverage.recorded == {"cells.0": TIME, "cells.1": TIME}


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_cell_and_a_layer_of_its_weights_record_the_same(kind):
    cell, layer, xs = cell_of(kind), layer_of(kind, Case()), normal(TIME, 3, 2)
    layer.load_state_dict({f"{name}_l0": parameter for name, parameter in cell.named_parameters()})
    state = initial_of(kind, 3, 3)
    with record(nn.ModuleList([cell, layer])) as recording:
        run(cell, xs, state)
        layer(xs, tuple(one.unsqueeze(0) for one in state) if isinstance(state, tuple) else state.unsqueeze(0))
    for name in signals_of(kind):
        close(recording["0"].signals[name], recording["1.l0"].signals[name])


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_cell_run_twice_from_zero_is_two_sequences(kind):
    model, xs = Loop(cell_of(kind)), normal(TIME, 3, 2)
    with record(model) as recording:
        model(xs)
        model(xs[:2])
    trajectory = recording["cells.0"]
    assert trajectory.valid.sum(1).tolist() == [TIME] * 3 + [2] * 3 and trajectory.residual() <= 1e-12
    for signal in trajectory.signals.values():
        close(signal[:3, :2], signal[3:, :2])
