"""Whichever way a layer is called: its keys, and how its calls join."""

import pytest
import torch
from cases import (
    Case,
    call_of,
    close,
    torch_lstm,
)
from recordings import Classifier, classifier, layer_of, of_layout
from scalar import SIGNALS
from torch import nn

from lstm_explain.recording.runner import record


def test_keys_are_the_path_and_the_suffix_of_torch():
    model = classifier(num_layers=2, bidirectional=True)
    with record(model) as recording:
        model(call_of(Case())[0])
    assert list(recording) == [f"encoder.lstm.{suffix}" for suffix in ("l0", "l0_reverse", "l1", "l1_reverse")]
    assert recording["encoder.lstm.l1_reverse"].name == "encoder.lstm.l1_reverse"
    assert recording.coverage.recorded == {"encoder.lstm": 1}


class Compiled(nn.Module):
    """Names as `torch.compile` gives them."""

    def __init__(self, model):
        super().__init__()
        self._orig_mod = model

    def forward(self, *args):
        return self._orig_mod(*args)


@pytest.mark.parametrize("wrap", [nn.DataParallel, Compiled, lambda model: nn.DataParallel(Compiled(model))])
@pytest.mark.parametrize(("inner", "key"), [(classifier, "encoder.lstm.l0"), (lambda: torch_lstm(Case()), "l0")], ids=["nested", "root"])
def test_wrappers_do_not_show_in_the_keys(inner, key, wrap):
    model = wrap(inner())
    with record(model) as recording:
        model(call_of(Case())[0])
    assert list(recording) == [key]


def test_two_layers_never_share_a_key():
    model = nn.Module()
    model.lstm, model.module = torch_lstm(Case()), nn.Module()
    model.module.lstm = torch_lstm(Case(seed=1))
    with record(model) as recording:
        model.lstm(call_of(Case())[0])
        model.module.lstm(call_of(Case())[0])
    assert len(recording) == 2


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda lstm, x, hx: lstm.forward(x, hx), id="forward"),
        pytest.param(lambda lstm, x, hx: lstm(input=x, hx=hx), id="keywords"),
        pytest.param(lambda lstm, x, hx: lstm(x, hx=hx), id="one_keyword"),
        pytest.param(lambda lstm, x, hx: lstm.forward(hx=hx, input=x), id="forward_keywords"),
    ],
)
@pytest.mark.parametrize("kind", ["torch", ("full", "previous")])
def test_every_way_of_calling_a_layer_is_seen(kind, call):
    case = Case(initial_state=True)
    model = Classifier(layer_of(kind, case))
    lstm = model.encoder["lstm"]
    with record(model) as recording:
        call(lstm, *call_of(case))
    with record(lstm) as expected:
        lstm(*call_of(case))
    assert torch.equal(recording["encoder.lstm.l0"].cell_state, expected["l0"].cell_state)
    close(recording["encoder.lstm.l0"].initial_hidden_state, call_of(case)[1][0][0])


@pytest.mark.parametrize("kind", ["torch", ("full", "previous")])
def test_a_layer_that_two_paths_share_is_recorded_once(kind):
    model = nn.Module()
    model.one = model.two = layer_of(kind, Case())
    with record(model) as recording:
        model.two(call_of(Case())[0])
    assert {key: len(calls) for key, calls in recording.calls.items()} == {"one.l0": 1}


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "proj_size": 2}])
@pytest.mark.parametrize("pieces", [(1, 1, 1, 1, 1), (2, 3)])
@pytest.mark.parametrize("kind", ["torch", ("full", "previous")])
def test_calls_that_carry_their_state_join_along_time(kind, pieces, options):
    case = Case("batch_first", (5, 5), initial_state=True, **options)
    layer = layer_of(kind, case)
    input, hx = call_of(case)
    with record(layer) as whole:
        layer(input, hx)
    with record(layer) as recording:
        state = hx
        for piece in input.split(pieces, dim=1):
            _, (h, c) = layer(piece, state)
            state = h.detach().clone(), c
    for suffix in case.suffixes:
        joined, expected = recording[suffix], whole[suffix]
        for name in SIGNALS:
            close(joined.signals[name], expected.signals[name])
        assert joined.valid.shape == (2, 5) and joined.valid.all() and joined.residual() <= 1e-12
        assert torch.equal(joined.initial_cell_state, expected.initial_cell_state)
        assert torch.equal(joined.initial_hidden_state, expected.initial_hidden_state)
        calls = recording.calls[suffix]
        assert [call.continues for call in calls] == [False] + [True] * (len(pieces) - 1)
        assert [call.trajectory.valid.shape[1] for call in calls] == list(pieces)
        close(calls[-1].last["cell_state"], joined.cell_state[:, -1])
        close(calls[-1].last["hidden_state"], joined.hidden_state[:, -1])


@pytest.mark.parametrize("kind", ["torch", ("diagonal", "graves")])
def test_fresh_calls_join_along_batch_and_the_shorter_are_padded(kind):
    layer = layer_of(kind, Case("batch_first"))
    batches = [call_of(Case("batch_first", lengths, seed=seed))[0] for seed, lengths in enumerate([(2, 2), (4,), (3, 3, 3)])]
    with record(layer) as recording:
        for batch in batches:
            recording.annotate(lengths=[batch.shape[1]] * len(batch))
            layer(batch)
            assert len(recording["l0"].valid) >= len(batch)
    joined = recording["l0"]
    assert joined.valid.sum(1).tolist() == [2, 2, 4, 3, 3, 3] and joined.valid.shape == (6, 4)
    assert joined.padding == "known" and recording.coverage.padding == "none"
    assert joined.residual() <= 1e-12
    expected = [call.trajectory for call in recording.calls["l0"]]
    assert [part.padding for part in expected] == ["none"] * 3
    for name in SIGNALS:
        assert torch.equal(joined.steps(name), torch.cat([part.steps(name) for part in expected]))
        assert not joined.signals[name][~joined.valid].any()
    assert torch.equal(joined.initial_cell_state, torch.cat([part.initial_cell_state for part in expected]))


def test_two_streams_one_after_the_other_are_two_rows():
    layer, case = torch_lstm(Case("batch_first")), Case("batch_first", (5,))
    input, _ = call_of(case)
    with record(layer) as recording:
        for pieces in ((1, 1, 3), (2, 2, 1), (4, 1)):
            state = None
            for piece in input.split(pieces, dim=1):
                _, state = layer(piece, state)
    joined = recording["l0"]
    assert joined.valid.shape == (3, 5) and len(recording.calls["l0"]) == 8
    close(joined.cell_state[0], joined.cell_state[1])
    close(joined.cell_state[0], joined.cell_state[2])


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda h, c: None, id="left_out"),
        pytest.param(lambda h, c: (torch.zeros_like(h), torch.zeros_like(c)), id="zero"),
        pytest.param(lambda h, c: (h, c + 1e-9), id="nearly"),
        pytest.param(lambda h, c: (h.flip(1), c.flip(1)), id="reordered"),
    ],
)
def test_a_state_that_is_not_the_one_returned_starts_afresh(change):
    layer, input = torch_lstm(Case("batch_first")), call_of(Case("batch_first", (2, 2)))[0]
    with record(layer) as recording:
        _, state = layer(input)
        layer(input, change(*state))
    assert recording["l0"].valid.shape == (4, 2)
    assert not recording.calls["l0"][1].continues


def test_two_directions_do_not_continue_in_time():
    case = Case("batch_first", (2, 2), bidirectional=True)
    layer = torch_lstm(case)
    with record(layer) as recording:
        _, state = layer(call_of(case)[0])
        layer(call_of(case)[0], state)
    for suffix in ("l0", "l0_reverse"):
        assert recording[suffix].valid.shape == (4, 2) and recording[suffix].residual() <= 1e-12


def test_packed_calls_join_along_time_only_where_all_sequences_are_equally_long():
    even, uneven = Case("packed_unsorted", (2, 2)), Case("packed_unsorted", (1, 2))
    layer = torch_lstm(even)
    for case, shape in ((even, (2, 4)), (uneven, (4, 2))):
        with record(layer) as recording:
            _, state = layer(call_of(case)[0])
            layer(call_of(case)[0], state)
        assert recording["l0"].valid.shape == shape and recording["l0"].residual() <= 1e-12


def test_reverse_trajectories_of_unequal_calls_keep_their_equations():
    layer = torch_lstm(Case(bidirectional=True, proj_size=2))
    with record(layer) as recording:
        for seed, lengths in enumerate([(3, 1, 2), (5,), (2, 2)]):
            layer(call_of(Case("packed_unsorted", lengths, seed=seed))[0])
    joined = recording["l0_reverse"]
    assert joined.first_step.tolist() == [2, 0, 1, 4, 1, 1] and joined.residual() <= 1e-12


def write_into_the_output(output, states, hx, layer):
    output.fill_(9.0)


def write_into_the_last_states(output, states, hx, layer):
    for state in states:
        state.fill_(9.0)


def write_into_the_initial_states(output, states, hx, layer):
    for state in hx:
        state.fill_(9.0)


def write_into_the_weights(output, states, hx, layer):
    for parameter in layer.parameters():
        parameter.fill_(9.0)


@pytest.mark.parametrize(
    "write", [write_into_the_output, write_into_the_last_states, write_into_the_initial_states, write_into_the_weights]
)
@pytest.mark.parametrize("layout", ["time_first", "batch_first", "unbatched"])
@pytest.mark.parametrize("kind", ["torch", ("full", "previous")])
def test_writing_in_place_afterwards_does_not_change_the_recording(kind, layout, write):
    case = of_layout(layout, proj_size=2, initial_state=True)
    layer, again = layer_of(kind, case), layer_of(kind, case)
    with torch.no_grad():
        with record(layer) as recording:
            input, hx = call_of(case)
            output, states = layer(input, hx)
            write(output, states, hx, layer)
        with record(again) as expected:
            again(*call_of(case))
    for found, wanted in ((recording["l0"], expected["l0"]), (recording.calls["l0"][0], expected.calls["l0"][0])):
        if isinstance(found, tuple):
            assert torch.equal(found.last["hidden_state"], wanted.last["hidden_state"])
            assert torch.equal(found.last["cell_state"], wanted.last["cell_state"])
            continue
        assert all(torch.equal(found.signals[name], wanted.signals[name]) for name in SIGNALS)
        assert torch.equal(found.initial_hidden_state, wanted.initial_hidden_state)
        assert torch.equal(found.initial_cell_state, wanted.initial_cell_state)
        assert all(torch.equal(found.weights[name], wanted.weights[name]) for name in wanted.weights)
        assert found.residual() <= 1e-12
