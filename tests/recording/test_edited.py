"""Cells whose state the model edits between two steps of one pass: still one sequence, and it says where."""

import numpy as np
import pytest
import torch
from cases import WITHOUT_CELL, close, last_states
from recordings import ALL_KINDS, Loop, by_scalars, cell_of

import lstm_explain as lx
from lstm_explain.recording.runner import record

TIME, BATCH = 6, 3
XS = torch.randn(TIME, BATCH, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def on_h(change):
    """An edit of the hidden state alone."""

    def edit(t, state):
        return change(t, state) if isinstance(state, torch.Tensor) else (change(t, state[0]), *state[1:])

    return edit


def on_all(change):
    """The same edit of every state."""

    def edit(t, state):
        return change(t, state) if isinstance(state, torch.Tensor) else tuple(change(t, one) for one in state)

    return edit


def masked(t, h):
    """At step 2 the first sequence loses its last unit, at step 4 all lose their first."""
    mask = torch.ones_like(h)
    if t == 2:
        mask[0, 2] = 0
    if t == 4:
        mask[:, 0] = 0
    return h * mask


def partly_reset(t, h):
    """Sequence 1 starts afresh at step 3, the others go on."""
    keep = torch.ones(BATCH, 1, dtype=h.dtype)
    keep[1] = t != 3
    return h * keep


def dropped_out(t, h):
    return torch.nn.functional.dropout(h, 0.5) if t != 1 else h


EDITS = {
    "h_masked": (on_h(masked), {2: [0], 4: [0, 1, 2]}),
    "all_masked": (on_all(masked), {2: [0], 4: [0, 1, 2]}),
    "partly_reset": (on_all(partly_reset), {3: [1]}),
    "dropout_on_h": (on_h(dropped_out), {t: [0, 1, 2] for t in range(2, TIME)}),
    "none": (on_all(lambda t, h: h * 1.0), {}),
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_an_edited_state_goes_on_in_the_same_sequence_and_is_marked(kind, edit):
    change, where = EDITS[edit]
    model = Loop(cell_of(kind), edit=change)
    torch.manual_seed(1)
    unrecorded = model(XS)
    torch.manual_seed(1)
    with record(model) as recording:
        assert torch.equal(model(XS), unrecorded)
    trajectory = recording["cells.0"]
    assert trajectory.valid.tolist() == [[True] * TIME] * BATCH
    expected = torch.zeros(BATCH, TIME, dtype=torch.bool)
    for t, sequences in where.items():
        expected[sequences, t] = True
    if kind == "rnn_relu":  # a unit that was 0 is still 0 when it is masked
        differ = zip(model.given[1:], model.returned, strict=False)
        expected[:, 1:] = torch.stack([(given != returned).any(1) for given, returned in differ], dim=1)
    assert torch.equal(trajectory.edited(), expected)
    for at, name in enumerate(trajectory.initial):
        before = trajectory.before(name)
        assert not before[:, 0].any()
        for t in range(1, TIME):
            assert torch.equal(before[:, t], last_states(model.given[t])[at])
    for t in range(TIME):
        started = [trajectory.before(name)[:, t] for name in trajectory.initial]
        for name, signal in by_scalars(model.cells[0], XS[t : t + 1], started).items():
            close(trajectory.signals[name][:, t : t + 1], signal)
    assert trajectory.residual() <= 1e-12 and recording.certificate.state == "certified"


@pytest.mark.parametrize("kind", [kind for kind in ALL_KINDS if kind not in WITHOUT_CELL])
def test_an_edited_cell_state_is_marked_too(kind):
    model = Loop(cell_of(kind), edit=lambda t, state: (state[0], state[1] * 0.5) if t == 3 else state)
    with record(model) as recording:
        model(XS)
    trajectory = recording["cells.0"]
    assert trajectory.edited().any(0).nonzero().flatten().tolist() == [3] and trajectory.residual() <= 1e-12
    close(trajectory.before("cell_state")[:, 3], 0.5 * trajectory.cell_state[:, 2])
    assert torch.equal(trajectory.before("hidden_state")[:, 3], trajectory.hidden_state[:, 2])


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_state_of_zeros_starts_a_new_sequence(kind):
    model = Loop(cell_of(kind), edit=on_all(lambda t, h: h * 0 if t == 4 else h))
    with record(model) as recording:
        model(XS)
    trajectory = recording["cells.0"]
    assert trajectory.valid.sum(1).tolist() == [4] * BATCH + [2] * BATCH
    assert not trajectory.edited().any() and trajectory.residual() <= 1e-12
    zeros = [torch.zeros(BATCH, 3, dtype=torch.float64)] * len(trajectory.initial)
    for rows, xs in ((slice(0, BATCH), XS[:4]), (slice(BATCH, None), XS[4:])):
        for name, signal in by_scalars(model.cells[0], xs, zeros).items():
            close(trajectory.signals[name][rows, : len(xs)], signal)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_outside_of_any_enclosing_pass_an_edited_state_starts_afresh(kind):
    cell, edit, state = cell_of(kind), on_h(lambda t, h: h + 0.5 if t in (2, 4) else h), None
    with record(cell) as recording:
        for t, x in enumerate(XS):
            state = cell(x, edit(t, state) if t else None)
    trajectory = recording["cell"]
    assert trajectory.valid.sum(1).tolist() == [2] * BATCH * 3
    assert not trajectory.edited().any() and trajectory.residual() <= 1e-12


def test_a_state_edited_between_two_passes_starts_afresh():
    model = Loop(cell_of("gru"))
    with record(model) as recording:
        h = model(XS)
        model(XS, h * 0.5)
    assert recording["cells.0"].valid.shape == (2 * BATCH, TIME) and not recording["cells.0"].edited().any()


@pytest.mark.parametrize("kept", ["all", "the_gate_alone"])
@pytest.mark.parametrize(("kind", "gate"), [("torch", "forget_gate"), ("gru", "update_gate")])
def test_survival_does_not_run_over_an_edit(kind, gate, kept):
    # All gates are 1/2, so that a run of k leaves 2^-k. Edits before steps 2 and 4 leave the first sequence three runs of two.
    cell = cell_of(kind)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()
        cell.weight_ih[6:9] = 1.0  # the candidate, third of both
    half = torch.tensor([[0.5], [1.0], [1.0]], dtype=torch.float64)
    model = Loop(cell, edit=on_h(lambda t, h: h * half if t in (2, 4) else h))
    with record(model, lengths=[TIME] * BATCH, signals=None if kept == "all" else gate) as recording:
        model(XS)
    layer = lx.timescale(recording).layers["cells.0"]
    assert layer.lags.tolist() == [1, 2, 3, 4, 6] and layer.runs.tolist() == [18, 3 + 2 * 5, 2 * 4, 2 * 3, 2 * 1]
    np.testing.assert_allclose(layer.survival, 0.5 ** layer.lags[:, None] * np.ones(3), rtol=0, atol=1e-15)
    np.testing.assert_allclose(layer.half_life, 1.0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("option", [{"signals": "forget_gate"}, {"units": [1]}, {"dtype": torch.bfloat16}])
def test_edits_are_known_whatever_is_kept(option):
    model = Loop(cell_of("torch"), edit=on_h(lambda t, h: h * (1 + 1e-9) if t == 3 else h))
    with record(model, **option) as recording:
        model(XS)
    assert recording["cells.0"].edited().any(0).nonzero().flatten().tolist() == [3]


def test_edits_are_saved_selected_and_joined(tmp_path):
    model = Loop(cell_of("gru"), edit=on_all(partly_reset))
    with record(model) as recording:
        model(XS)
        recording.reorder([2, 0, 1])
        model(XS[:5])
    expected = torch.zeros(2 * BATCH, TIME, dtype=torch.bool)
    expected[[2, 4], 3] = True
    recording.save(tmp_path / "edited.safetensors")
    for trajectory in (recording["cells.0"], lx.load(tmp_path / "edited.safetensors")["cells.0"]):
        assert torch.equal(trajectory.edited(), expected) and trajectory.residual() <= 1e-12
        assert trajectory.select([4, 0]).edited().nonzero().tolist() == [[0, 3]]
