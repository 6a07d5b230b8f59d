"""Padding in every kind of layer and in loops of cells: which steps are real is said by `lengths` or `valid`, and nothing else counts."""

import math
from dataclasses import replace

import pytest
import torch
from kinds import ALL, CELLS, LAYERS, assert_is, by_hand, inputs, key_of, made, run, weights_of
from recordings import refused

from lstm_explain.analyses.saturation import Saturation, saturation
from lstm_explain.analyses.timescale import Timescale, timescale
from lstm_explain.errors import InputError
from lstm_explain.recording.runner import record

LENGTHS = [2, 5, 1, 3]
LAST = torch.arange(5) < torch.tensor(LENGTHS).unsqueeze(1)
FIRST = LAST.flip(1)


@pytest.mark.parametrize("say", ["lengths", "valid"])
@pytest.mark.parametrize("kind", ALL)
def test_what_was_said_of_a_batch_is_valid_and_the_rest_is_not(kind, say):
    module = made(kind)
    with record(module, **{say: LENGTHS if say == "lengths" else LAST}) as recording:
        run(kind, module, inputs())
    one = recording[key_of(kind)]
    assert torch.equal(one.valid, LAST) and one.padding == recording.coverage.padding == "known"
    assert_is(one, by_hand(kind, weights_of(kind, module), inputs()))


@pytest.mark.parametrize("as_array", [False, True], ids=["tensor", "array"])
@pytest.mark.parametrize("kind", ALL)
def test_padding_may_come_first_or_in_between(kind, as_array):
    module, holes = made(kind), LAST.clone()
    holes[1, 2] = False
    for valid in (FIRST, holes):
        with record(module, valid=valid.numpy() if as_array else valid) as recording:
            run(kind, module, inputs())
        one = recording[key_of(kind)]
        assert torch.equal(one.valid, valid) and one.padding == "known" and one.residual() <= 1e-12


GATED = [kind for kind in ALL if "rnn" not in kind and "relu" not in kind]


def statistics(recording):
    return saturation(recording).to_dict(), timescale(recording).to_dict()


@pytest.mark.parametrize("say", ["lengths", "valid"])
@pytest.mark.parametrize("kind", GATED)
def test_garbage_in_the_padding_changes_no_statistic(kind, say):
    module, found = made(kind), []
    for fill in (0.0, 9.0, -1e3, math.nan):
        with record(module, **{say: LENGTHS if say == "lengths" else LAST}) as recording:
            run(kind, module, inputs().masked_fill(~LAST.T.unsqueeze(2), fill))
        found.append(statistics(recording))
    assert all(one == found[0] for one in found)
    assert found[0][0]["padding"] == found[0][1]["padding"] == "known"
    with record(module) as apart:
        for at, length in enumerate(LENGTHS):
            apart.annotate(lengths=[length])
            run(kind, module, inputs()[:length, at : at + 1])
    steps = [one[key_of(kind)].steps("hidden_state") for one in (recording, apart)]
    torch.testing.assert_close(*steps, rtol=0, atol=1e-12)
    with record(module) as unsaid:
        run(kind, module, inputs())
    assert statistics(unsaid)[0]["layers"] != found[0][0]["layers"]


@pytest.mark.parametrize("valid", [LAST, FIRST], ids=["last", "first"])
@pytest.mark.parametrize("kind", GATED)
def test_only_the_valid_steps_enter_a_statistic(kind, valid):
    module = made(kind)
    with record(module, valid=valid) as recording:
        run(kind, module, inputs())
    one = recording[key_of(kind)]
    # What a step started from is a part of it, also where the step before isn't.
    kept = ("cell_state", "hidden_state")
    garbage = {name: s if name in kept else s.where(valid.unsqueeze(2), math.nan) for name, s in one.signals.items()}
    for analysis in (Saturation, Timescale):
        results = []
        for signals in (one.signals, garbage):
            counting = analysis()
            counting.update(replace(one, signals=signals))
            results.append(counting.compute().to_dict())
        assert results[0] == results[1]


@pytest.mark.parametrize("kind", GATED)
def test_padding_that_nobody_spoke_of_is_unknown_everywhere(kind):
    module = made(kind)
    with record(module) as recording:
        run(kind, module, inputs())
    assert recording.coverage.padding == recording[key_of(kind)].padding == "unknown"
    assert [one["padding"] for one in statistics(recording)] == ["unknown", "unknown"]
    assert "padding unknown" in repr(saturation(recording)) and "padding unknown" in repr(timescale(recording))
    assert "padding: unknown" in str(recording.coverage)


@pytest.mark.parametrize("kind", ALL)
def test_lengths_are_annotated_before_each_batch_of_a_loop(kind):
    module, batches = made(kind), [LENGTHS, [5, 5, 5, 5], [1, 2, 3, 4]]
    with record(module) as recording:
        for seed, lengths in enumerate(batches):
            recording.annotate(lengths=lengths)
            run(kind, module, inputs(seed=seed))
    one = recording[key_of(kind)]
    assert one.valid.sum(1).tolist() == [length for lengths in batches for length in lengths]
    assert one.valid.shape == (12, 5) and one.padding == "known"


@pytest.mark.parametrize("kind", CELLS)
def test_lengths_of_cells_are_those_of_each_loop(kind):
    cell = made(kind)
    with record(cell, lengths=LENGTHS) as recording:
        for seed in range(2):
            run(kind, cell, inputs(seed=seed))
    assert recording["cell"].valid.sum(1).tolist() == [*LENGTHS, *LENGTHS]
    with record(cell, lengths=LENGTHS) as shorter:
        run(kind, cell, inputs()[:3])
    assert shorter["cell"].valid.sum(1).tolist() == [2, 3, 1, 3]


BAD = [
    ("lengths", [2, 5, 1]),
    ("lengths", [2.0, 5.0, 1.0, 3.0]),
    ("lengths", [0, 5, 1, 3]),
    ("lengths", "abcd"),
    ("lengths", 4),
    ("valid", LAST[:3]),
    ("valid", LAST[:, :0]),
    ("valid", LAST.float()),
    ("valid", LAST[0]),
    ("valid", LAST.int().tolist()),
    ("valid", "abcd"),
    ("valid", [[True], [True, False]]),
    ("valid", [None]),
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=str)
@pytest.mark.parametrize("kind", ALL)
def test_what_does_not_fit_the_batch_is_refused_in_one_line(kind, name, value):
    module = made(kind)

    def call():
        with record(module, **{name: value}):
            run(kind, module, inputs())

    assert name in refused(InputError, call) and "forward" not in vars(module)


@pytest.mark.parametrize("kind", LAYERS)
def test_more_or_fewer_steps_than_the_call_has_are_refused(kind):
    module = made(kind)
    for options in ({"lengths": [2, 6, 1, 3]}, {"valid": LAST[:, :4]}, {"valid": torch.ones(4, 6, dtype=torch.bool)}):

        def call(options=options):
            with record(module, **options):
                module(inputs())

        refused(InputError, call)


@pytest.mark.parametrize("kind", CELLS)
def test_a_loop_of_cells_that_is_longer_than_was_said_is_refused(kind):
    cell = made(kind)

    def call():
        with record(cell, valid=LAST[:, :4]):
            run(kind, cell, inputs())

    refused(InputError, call)


def test_lengths_and_valid_together_are_refused():
    refused(InputError, lambda: record(made("gru"), lengths=LENGTHS, valid=LAST).__enter__())
    with record(gru := made("gru")) as recording:
        gru(inputs())
        refused(InputError, lambda: recording.annotate(lengths=LENGTHS, valid=LAST))
