"""What a change does, held against the equations with the same change made by hand."""

import by_hand
import pytest
import torch
from cases import FORMS, LAYOUTS, WITHOUT_CELL, apart, call_of, close, last_states, sequences_and_state
from recordings import ALL_KINDS, cell_of, layer_of, of_layout, signals_of
from torch import nn

import lstm_explain as lx
from lstm_explain.nn.lstm import PeepholeLSTM

LSTMS = ["torch", *FORMS]


def states_of(case, kind):
    """The initial states ``(layer * direction, sequence, unit)``."""
    _, state = sequences_and_state(case)
    state = [one.unsqueeze(1) if case.layout == "unbatched" else one for one in state]
    return state[:1] if kind in WITHOUT_CELL else state


def assert_same(case, returned, recording, expected):
    output, states = returned
    ends = [state.unsqueeze(1) if case.layout == "unbatched" else state for state in last_states(states)]
    for b, (signals, rows, last) in enumerate(expected):
        close(apart(case, output)[b], rows)
        for end, by_hand_end in zip(ends, last, strict=True):
            close(end[:, b], by_hand_end)
        for suffix, of_layer in signals.items():
            for name, signal in of_layer.items():
                close(recording[suffix].signals[name][b, : len(signal)], signal)
    assert recording.certificate.state == "certified" and recording.certificate.worst.worst <= 1e-12


@pytest.mark.parametrize("feedback", [True, False])
@pytest.mark.parametrize("kind", ALL_KINDS, ids=str)
def test_every_signal_in_every_layer_becomes_what_it_would_by_hand(kind, feedback):
    case = of_layout("packed_unsorted", num_layers=3, bidirectional=True, initial_state=True)
    layer = layer_of(kind, case)
    sequences, _ = sequences_and_state(case)
    for at, signal in enumerate(signals_of(kind)):
        suffix = case.suffixes[at % len(case.suffixes)]

        def edit(b, t, length, name, value, signal=signal):
            if name == signal and t in (1, length - 1):
                value = value.clone()
                value[2] = 0.3
            return value

        with torch.no_grad():
            expected = by_hand.run(layer, sequences, states_of(case, kind), {suffix: edit}, feedback)
            with lx.record(layer) as recording, lx.intervene(layer, suffix, units=[2], steps=[1, -1], feedback=feedback, **{signal: 0.3}):
                returned = layer(*call_of(case, kind=kind))
        assert_same(case, returned, recording, expected)


@pytest.mark.parametrize("feedback", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["torch", ("full", "graves"), "gru", "rnn_relu"], ids=str)
def test_every_layout_has_the_same_steps(kind, layout, feedback):
    projected = {} if kind in WITHOUT_CELL else {"proj_size": 2}
    case = of_layout(layout, num_layers=2, bidirectional=True, initial_state=True, bias=False, **projected)
    layer = layer_of(kind, case)
    sequences, _ = sequences_and_state(case)

    def edit(b, t, length, name, value):
        return value + 0.2 if name == "hidden_state" and t == length - 1 else value

    for suffix in ("l0_reverse", "l1"):
        with torch.no_grad():
            expected = by_hand.run(layer, sequences, states_of(case, kind), {suffix: edit}, feedback)
            with lx.record(layer) as recording, lx.intervene(layer, suffix, steps=-1, feedback=feedback, hidden_state=lx.add(0.2)):
                returned = layer(*call_of(case, kind=kind))
        assert_same(case, returned, recording, expected)


@pytest.mark.parametrize("feedback", [True, False])
@pytest.mark.parametrize("kind", ALL_KINDS, ids=str)
def test_a_cell_in_a_loop_becomes_what_it_would_by_hand(kind, feedback):
    cell, xs = cell_of(kind), torch.randn(5, 2, 2, dtype=torch.float64)
    start = [torch.randn(1, 2, 3, dtype=torch.float64) for _ in range(1 if kind in WITHOUT_CELL else 2)]

    def edit(b, t, length, name, value):
        return value * 0 + 0.3 if name in (signal, "hidden_state") and t in (1, 2) else value

    for signal in signals_of(kind):
        with torch.no_grad():
            expected = by_hand.run(cell, xs.transpose(0, 1), start, {"": edit}, feedback)
            with (
                lx.record(cell) as recording,
                lx.intervene(cell, "cell", steps=slice(1, 3), feedback=feedback, **{signal: 0.3, "hidden_state": 0.3}),
            ):
                state = tuple(one[0] for one in start) if len(start) == 2 else start[0][0]
                for x in xs:
                    state = cell(x, state)
        for b, (signals, _, last) in enumerate(expected):
            for name, of_signal in signals[""].items():
                close(recording["cell"].signals[name][b], of_signal)
            for end, by_hand_end in zip(last_states(state), last, strict=True):
                close(end[b], by_hand_end[0])
        assert recording["cell"].residual() <= 1e-12


@pytest.mark.parametrize("feedback", [True, False])
def test_a_layer_called_step_by_step_is_the_same_as_at_once(feedback):
    layer, x = layer_of("torch", of_layout("time_first")), torch.randn(6, 2, 2, dtype=torch.float64)
    options = {"forget_gate": 0.1, "hidden_state": lx.add(0.5), "steps": [1, 2, 4], "feedback": feedback}
    with torch.no_grad():
        with lx.intervene(layer, "l0", **options):
            whole, last = layer(x)
        with lx.intervene(layer, "l0", **options), lx.record(layer) as recording:
            parts, state = [], None
            for chunk in x.split([2, 1, 3]):
                output, state = layer(chunk, state)
                parts.append(output)
    close(torch.cat(parts), whole)
    close(state[0], last[0])
    close(state[1], last[1])
    assert recording["l0"].hidden_state.shape == (2, 6, 3) and recording["l0"].residual() <= 1e-12
    close(recording["l0"].hidden_state, whole.transpose(0, 1))


@pytest.mark.parametrize("kind", ALL_KINDS, ids=str)
def test_a_patch_of_a_sequence_with_itself_changes_nothing(kind):
    case = of_layout("packed_unsorted", num_layers=2, bidirectional=True, initial_state=True)
    layer, call = layer_of(kind, case), call_of(case, kind=kind)
    with torch.no_grad(), lx.record(layer) as recording:
        clean = layer(*call)
    for feedback in (True, False):
        patches = {signal: lx.patch(recording) for signal in signals_of(kind)}
        with torch.no_grad(), lx.intervene(layer, "l0_reverse", feedback=feedback, **patches):
            found = layer(*call)
        close(found[0].data, clean[0].data)
        for one, other in zip(last_states(found[1]), last_states(clean[1]), strict=True):
            close(one, other)


@pytest.mark.parametrize("kind", ALL_KINDS, ids=str)
def test_the_whole_state_brings_the_clean_run_back_and_a_part_does_not(kind):
    layer = layer_of(kind, of_layout("batch_first"))
    clean_x = torch.randn(2, 6, 2, dtype=torch.float64)
    other_x = torch.cat([torch.randn(2, 3, 2, dtype=torch.float64), clean_x[:, 3:]], dim=1)
    with torch.no_grad(), lx.record(layer) as recording:
        clean, _ = layer(clean_x)
    states = ["hidden_state"] if kind in WITHOUT_CELL else ["hidden_state", "cell_state"]
    parts = [states] if len(states) == 1 else [states, states[:1], states[1:]]
    for part in parts:
        with torch.no_grad(), lx.intervene(layer, "l0", steps=2, feedback=True, **{state: lx.patch(recording) for state in part}):
            found, _ = layer(other_x)
        difference = float((found[:, 3:] - clean[:, 3:]).abs().max())
        # A cell state alone, patched before h is computed, still leaves an h with another output gate.
        assert difference <= 1e-12 if part == states else difference > 1e-4
        assert float((found[:, :2] - clean[:, :2]).abs().max()) > 1e-3


@pytest.mark.parametrize("kind", LSTMS, ids=str)
def test_a_cell_with_f_1_and_i_0_is_frozen_bit_for_bit(kind):
    layer, x = layer_of(kind, of_layout("batch_first")), torch.randn(2, 6, 2, dtype=torch.float64)
    with lx.record(layer) as recording, lx.intervene(layer, "l0", forget_gate=1.0, input_gate=0, steps=slice(2, None), feedback=True):
        layer(x)
    assert (recording["l0"].cell_state[:, 2:] == recording["l0"].cell_state[:, 1:2]).all()


def without(module, unit):
    """The same layer without one unit: its rows, and its columns in what meets a state."""
    size, letters = module.hidden_size, len(module.weight_ih_l0) // module.hidden_size
    left = [at for at in range(size) if at != unit]
    rows = [block * size + at for block in range(letters) for at in left]
    options = {"batch_first": True, "dtype": torch.float64}
    if isinstance(module, PeepholeLSTM):
        smaller = PeepholeLSTM(module.input_size, size - 1, peephole=module.peephole, wiring=module.wiring, **options)
    elif isinstance(module, nn.RNN):
        smaller = nn.RNN(module.input_size, size - 1, nonlinearity=module.nonlinearity, **options)
    else:
        smaller = type(module)(module.input_size, size - 1, **options)
    with torch.no_grad():
        for name in ("weight_ih_l0", "bias_ih_l0", "bias_hh_l0"):
            getattr(smaller, name).copy_(getattr(module, name)[rows])
        smaller.weight_hh_l0.copy_(module.weight_hh_l0[rows][:, left])
        if getattr(module, "peephole", None) == "full":
            blocks = len(module.weight_ch_l0) // size
            smaller.weight_ch_l0.copy_(module.weight_ch_l0[[block * size + at for block in range(blocks) for at in left]][:, left])
        elif getattr(module, "peephole", None) == "diagonal":
            smaller.weight_ch_l0.copy_(module.weight_ch_l0[:, left])
    return smaller, left


@pytest.mark.parametrize("kind", ALL_KINDS, ids=str)
def test_a_unit_held_at_zero_is_a_unit_that_is_not_there(kind):
    layer, x = layer_of(kind, of_layout("batch_first")), torch.randn(2, 6, 2, dtype=torch.float64)
    states = {"hidden_state": 0.0} if kind in WITHOUT_CELL else {"hidden_state": 0.0, "cell_state": 0.0}
    smaller, left = without(layer, 1)
    with torch.no_grad(), lx.intervene(layer, "l0", units=[1], feedback=True, **states):
        close(layer(x)[0][:, :, left], smaller(x)[0])


@pytest.mark.parametrize("kind", ALL_KINDS, ids=str)
def test_a_unit_without_outgoing_weights_changes_no_other(kind):
    layer, x = layer_of(kind, of_layout("batch_first")), torch.randn(2, 6, 2, dtype=torch.float64)
    with torch.no_grad():
        layer.weight_hh_l0[:, 1] = 0
        if getattr(layer, "peephole", None) == "full":
            layer.weight_ch_l0[:, 1] = 0
        clean, _ = layer(x)
        for signal in signals_of(kind):
            with lx.intervene(layer, "l0", units=[1], feedback=True, **{signal: lx.add(0.4)}):
                found, _ = layer(x)
            assert float((found[:, :, 1] - clean[:, :, 1]).abs().max()) > 1e-3
            close(found[:, :, [0, 2]], clean[:, :, [0, 2]])


@pytest.mark.parametrize("kind", ALL_KINDS, ids=str)
def test_a_hidden_state_held_at_its_mean_is_a_bias_from_the_second_step_on(kind):
    layer, x = layer_of(kind, of_layout("batch_first")), torch.randn(2, 6, 2, dtype=torch.float64)
    with torch.no_grad(), lx.record(layer, lengths=[6, 3]) as recording:
        layer(x)
    mean = recording["l0"].steps("hidden_state").mean(0)[1]
    with torch.no_grad(), lx.intervene(layer, "l0", units=[1], feedback=True, hidden_state=lx.mean(recording)):
        found, _ = layer(x)
    assert (found[:, :, 1] == mean).all()
    folded = layer_of(kind, of_layout("batch_first"))
    start = torch.zeros(1, 2, 3, dtype=torch.float64)
    start[..., 1] = mean  # the first step has no bias to make up for it
    with torch.no_grad():
        folded.bias_hh_l0 += folded.weight_hh_l0[:, 1] * mean
        folded.weight_hh_l0[:, 1] = 0
        with lx.intervene(layer, "l0", units=[1], feedback=True, hidden_state=lx.mean(recording)):
            found, _ = layer(x, start if kind in WITHOUT_CELL else (start, torch.zeros(1, 2, 3, dtype=torch.float64)))
        expected, _ = folded(x)
    # With a GRU the unit's own h goes through z as well, which no bias shows: only the others are the folded ones.
    close(found[:, :, [0, 2]], expected[:, :, [0, 2]])


@pytest.mark.parametrize("kind", LSTMS, ids=str)
def test_a_gate_held_at_its_mean_is_a_gate_with_a_bias_alone(kind):
    layer, x = layer_of(kind, of_layout("batch_first")), torch.randn(2, 6, 2, dtype=torch.float64)
    with torch.no_grad(), lx.record(layer) as recording:
        layer(x)
    with torch.no_grad(), lx.intervene(layer, "l0", forget_gate=lx.mean(recording), feedback=True):
        found, _ = layer(x)
        rows = slice(3, 6)
        layer.weight_ih_l0[rows], layer.weight_hh_l0[rows], layer.bias_hh_l0[rows] = 0, 0, 0
        layer.bias_ih_l0[rows] = torch.logit(recording["l0"].forget_gate.mean((0, 1)))
        if getattr(layer, "peephole", None):
            layer.weight_ch_l0[rows if layer.peephole == "full" else 1] = 0
    close(found, layer(x)[0])


def test_resampling_takes_another_sequence_at_the_same_step_under_the_seed():
    layer, x = layer_of("torch", of_layout("batch_first")), torch.randn(5, 6, 2, dtype=torch.float64)
    with lx.record(layer) as recording:
        layer(x)
    taken, drawn = recording["l0"].cell_state, set()
    for seed in range(8):
        rows = []
        for _ in range(2):
            with lx.record(layer) as edited, lx.intervene(layer, "l0", cell_state=lx.resample(recording, seed=seed), feedback=True):
                layer(x)
            found = edited["l0"].cell_state
            rows.append([[int(b) for b in range(5) if torch.equal(one, taken[b])] for one in found])
        assert rows[0] == rows[1] and all(len(row) == 1 and row[0] != at for at, row in enumerate(rows[0]))
        drawn.add(tuple(row[0] for row in rows[0]))
    assert len(drawn) > 4


def test_a_donor_that_is_shorter_is_read_again_from_its_beginning():
    layer = layer_of("torch", of_layout("batch_first"))
    x = torch.randn(2, 6, 2, dtype=torch.float64)
    with lx.record(layer, lengths=[6, 4]) as recording:
        layer(x)
    taken = recording["l0"].cell_state
    with lx.record(layer) as edited, lx.intervene(layer, "l0", cell_state=lx.resample(recording), feedback=True):
        layer(x)
    assert torch.equal(edited["l0"].cell_state[0], taken[1][[0, 1, 2, 3, 0, 1]])
    assert torch.equal(edited["l0"].cell_state[1], taken[0])


def test_a_patch_may_come_from_other_sequences_and_another_seed_or_dtype():
    layer, x = layer_of("gru", of_layout("batch_first")), torch.randn(3, 4, 2, dtype=torch.float64)
    with lx.record(layer, dtype=torch.float32, units=[2, 0]) as recording:
        layer(x)
    with (
        lx.record(layer) as edited,
        lx.intervene(layer, "l0", update_gate=lx.patch(recording, sequences=[1, 1, 0]), units=[0], feedback=True),
    ):
        layer(x)
    assert torch.equal(edited["l0"].update_gate[:, :, 0], recording["l0"].update_gate[[1, 1, 0], :, 1].double())


@pytest.mark.parametrize("units", [[2, 0], {"last": 2, "first": [0]}], ids=["numbers", "names"])
@pytest.mark.parametrize("shape", [(), (2,), (3, 2), (3, 1), (3, 4, 2), (1, 4, 1)])
def test_values_are_given_for_units_in_the_order_in_which_they_are_named(shape, units):
    layer, x = layer_of("torch", of_layout("batch_first")), torch.randn(3, 4, 2, dtype=torch.float64)
    value = torch.rand(shape, dtype=torch.float64)
    with lx.record(layer) as recording, lx.intervene(layer, "l0", output_gate=value, units=units, feedback=True):
        layer(x)
    expected = value if value.dim() != 2 else value[:, None]
    assert torch.equal(recording["l0"].output_gate[:, :, [2, 0]], expected.expand(3, 4, 2))


@pytest.mark.parametrize("kind", ALL_KINDS, ids=str)
@pytest.mark.parametrize("feedback", [True, False])
def test_the_gradient_of_a_value_is_that_of_the_run_by_hand(kind, feedback):
    case = of_layout("packed_unsorted", num_layers=2, initial_state=True)
    layer = layer_of(kind, case)
    sequences, _ = sequences_and_state(case)
    value = torch.tensor([0.3, 0.1], dtype=torch.float64, requires_grad=True)
    signal = signals_of(kind)[0]

    def edit(b, t, length, name, now):
        return torch.stack([value[1], now[1], value[0]]) if name == signal and t == 0 else now

    expected = sum(rows.square().sum() for _, rows, _ in by_hand.run(layer, sequences, states_of(case, kind), {"l0": edit}, feedback))
    by_hand_gradients = torch.autograd.grad(expected, [value, *layer.parameters()])
    with lx.intervene(layer, "l0", units=[2, 0], steps=[0], feedback=feedback, **{signal: value}):
        loss = layer(*call_of(case, kind=kind))[0].data.square().sum()
    for found, by in zip(torch.autograd.grad(loss, [value, *layer.parameters()]), by_hand_gradients, strict=True):
        torch.testing.assert_close(found, by, rtol=0, atol=1e-11)  # sums over weights and steps
