"""Select and match: what is found is what the definition says, over all units and all spans."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import randomise
from mechanisms import OPEN, blank
from torch import nn

import lstm_explain as lx
from lstm_explain.analyses.selection.runs import runs


def recorded(model, inputs, **options):
    with torch.no_grad(), lx.record(model, **options) as recording:
        model(inputs)
    return recording


def of(values, lengths=None):
    """A recording of one layer whose cell state is what is given, ``(batch, time, unit)``."""
    values = torch.as_tensor(values, dtype=torch.float64)
    lengths = [values.shape[1]] * len(values) if lengths is None else lengths
    zeros = torch.zeros(*values.shape[:2], 1, dtype=torch.float64)
    trajectory = recorded(blank(1, values.shape[2]), zeros, lengths=lengths)["l0"]
    return {"l0": replace(trajectory, signals={"cell_state": values})}


LENGTHS = [12, 7, 12, 1]


def switching(seed=0, units=5):
    """Units that are high, low or off, in short runs."""
    rng = np.random.default_rng(seed)
    values = np.repeat(rng.choice([-1.0, 0.0, 0.0, 1.0], size=(4, 6, units)), 2, axis=1)
    return values + rng.choice([0.0, 0.0, 0.5], size=values.shape)


def has(row, start, stop, sign, threshold):
    """Whether one unit of one sequence, without its padding, is on throughout a span and off around it."""
    on = [sign * value >= threshold for value in row]
    return all(on[start:stop]) and not (start > 0 and on[start - 1]) and not (stop < len(on) and on[stop])


def spans(values):
    """Every span of every sequence."""
    for sequence, length in enumerate(LENGTHS[: len(values)]):
        for start in range(length):
            for stop in range(start + 1, length + 1):
                yield sequence, start, stop


def selected(values, span, threshold):
    sequence, start, stop = span
    rows = values[sequence, : LENGTHS[sequence]].T.tolist()
    return [(unit, sign) for unit, row in enumerate(rows) for sign in (1, -1) if has(row, start, stop, sign, threshold)]


@pytest.mark.parametrize("threshold", [0.3, 1.0, 1.2])
def test_units_are_those_of_the_definition_at_every_span(threshold):
    values = switching()
    recording, some = of(values, LENGTHS), 0
    for span in spans(values):
        result = lx.select(recording, span, threshold=threshold, draws=0)
        assert list(zip(result.units, result.signs.tolist(), strict=True)) == selected(values, span, threshold)
        some += len(result.units) > 1
    assert some > 0


def test_a_value_at_the_threshold_is_on():
    values = np.array([0.0, 0.3, 0.3, 0.29]).reshape(1, 4, 1)
    assert lx.select(of(values), (0, 1, 3)).units == (0,) and lx.select(of(-values), (0, 1, 3)).signs.tolist() == [-1]


def test_what_is_shown_is_the_span_and_what_is_around_it():
    values = switching()
    result = lx.select(of(values, LENGTHS), (1, 3, 4), around=2)
    assert result.units == (2, 4) and result.shown == 1
    np.testing.assert_array_equal(result.values, values[1, 1:6, [2, 4]])
    result = lx.select(of(values, LENGTHS), (1, 4, 6), around=5)
    assert result.shown == 0 and result.values.shape == (3, 7)  # the sequence has 7 steps


def test_random_places_are_as_likely_as_each_other():
    values = switching(1)
    each = [len(selected(values, (sequence, start, stop), 0.3)) for sequence, start, stop in spans(values) if stop - start == 2]
    result = lx.select(of(values, LENGTHS), (0, 2, 4), draws=4000)
    drawn, expected = np.bincount(result.by_chance, minlength=9) / 4000, np.bincount(each, minlength=9) / len(each)
    np.testing.assert_allclose(drawn, expected, rtol=0, atol=4 * np.sqrt(0.25 / 4000))
    assert result.p_value == pytest.approx((1 + (result.by_chance >= len(result.units)).sum()) / 4001)
    assert (lx.select(of(values, LENGTHS), (0, 2, 4), draws=4000).by_chance == result.by_chance).all()
    assert (lx.select(of(values, LENGTHS), (0, 2, 4), draws=4000, seed=1).by_chance != result.by_chance).any()


def ranked(values, selection, threshold, shortest=1, longest=99):
    """All spans with at least one of the selected units' pattern, ranked."""
    wanted, found = set(selection), []
    for span in spans(values):
        here = set(selected(values, span, threshold))
        length = span[2] - span[1]
        if here & wanted and shortest <= length <= longest:
            found.append((-len(here & wanted), len(here - wanted), -length, *span[:2], span[2]))
    return [(sequence, start, stop, -matched, others) for matched, others, _, sequence, start, stop in sorted(found)]


@pytest.mark.parametrize("span", [(0, 2, 4), (1, 2, 4), (2, 0, 2), (0, 8, 10)])
@pytest.mark.parametrize("lengths", [(1, None), (2, None), (1, 3), (2, 2), (3, 4)])
def test_matches_are_those_of_the_definition_over_all_spans(span, lengths):
    values, (shortest, longest) = switching(2, 8), lengths
    recording = of(values, LENGTHS)
    selection = lx.select(recording, span)
    assert selection.units
    expected = ranked(values, zip(selection.units, selection.signs.tolist(), strict=True), 0.3, shortest, longest or 99)
    expected = [one for one in expected if one[:3] != span]
    result = lx.match(recording, selection, shortest=shortest, longest=longest)
    assert [one[:5] for one in result.matches] == expected[:50]
    assert result.found.sum() == len(expected) and result.complete == sum(one[3] == len(selection.units) for one in expected)
    assert [one[:5] for one in lx.match(recording, selection, shortest=shortest, longest=longest, count=2).matches] == expected[:2]
    for one in result.matches:
        rows = values[one.sequence, : LENGTHS[one.sequence], list(selection.units)].T
        shares = (rows * selection.signs >= 0.3).mean(1)[max(one.start - 10, 0) : one.stop + 10]
        np.testing.assert_allclose(one.share, shares, rtol=0, atol=1e-12)
        assert one.shown == max(one.start - 10, 0)


def test_the_selected_span_is_no_match_of_itself_but_is_one_in_another_recording():
    values = switching()
    recording = of(values, LENGTHS)
    selection = lx.select(recording, (1, 4, 6))
    assert (1, 4, 6) not in [one[:3] for one in lx.match(recording, selection).matches]
    other = values.copy()
    other[1, 4, 2] -= 0.1
    assert (1, 4, 6) in [one[:3] for one in lx.match(of(other, LENGTHS), selection).matches]
    assert lx.match(of(other[:1], LENGTHS[:1]), selection).found.sum() >= 0  # a recording without that sequence


def bursts(together, seed=0):
    """Three units that are on for 5 steps now and then, all at once or each at times of its own."""
    rng, values = np.random.default_rng(seed), np.zeros((3, 200, 4))
    for sequence in range(3):
        for unit in range(3):
            if unit == 0 or not together:
                begins = rng.choice(np.arange(1, 19), 6, replace=False) * 10 + (0 if together else rng.integers(0, 5))
            for begin in begins:
                values[sequence, begin : begin + 5, unit] = 1
    return values, begins


def test_units_that_act_together_are_shown():
    values, begins = bursts(True)
    recording = of(values)
    selection = lx.select(recording, (2, int(begins[0]), int(begins[0]) + 5))
    result = lx.match(recording, selection)
    assert selection.units == (0, 1, 2) and selection.verdict == "shown"
    assert (result.complete, result.found.tolist(), result.verdict) == (17, [0, 0, 0, 17], "shown") and result.by_chance.max() < 5
    assert all(one.others == 0 and one.stop - one.start == 5 for one in result.matches)


def test_one_unit_alone_is_with_nobody():
    values, begins = bursts(False)
    recording = of(values[:, :, 2:])
    result = lx.match(recording, lx.select(recording, (2, int(begins[0]), int(begins[0]) + 5)))
    assert result.selected == 1 and result.complete == 17 and result.verdict == "not shown"
    assert "17 other spans have the selected unit, by chance 1" in repr(result)
    assert replace(result, by_chance=np.zeros(99, dtype=int)).verdict == "not shown"


def test_units_that_meet_by_accident_are_not_shown():
    shown = 0
    for seed in range(20):
        values = np.repeat(np.random.default_rng(seed).choice([0.0, 1.0], size=(2, 60, 2)), 2, axis=1)
        recording = of(values)
        tried = (lx.select(recording, (0, start, start + 2), draws=0) for start in range(2, 110))
        meeting = next((one for one in tried if len(one.units) == 2), None)
        shown += meeting is not None and lx.match(recording, meeting, draws=39).verdict == "shown"
    assert shown <= 4


def test_chance_moves_each_unit_by_itself():
    values = switching(2, 8)
    recording = of(values, LENGTHS)
    selection = lx.select(recording, (0, 8, 10))
    result, rng, expected = lx.match(recording, selection, draws=30, seed=5, longest=2), np.random.default_rng(5), np.zeros(30, int)
    for sequence, length in enumerate(LENGTHS):
        shares = rng.random(30 * len(selection.units)).reshape(30, -1)
        for draw in range(30):
            rows = [
                np.roll(values[sequence, :length, unit], -int(share * length)).tolist()
                for unit, share in zip(selection.units, shares[draw], strict=True)
            ]
            for start in range(length):
                for stop in range(start + 1, min(start + 2, length) + 1):
                    expected[draw] += all(has(row, start, stop, sign, 0.3) for row, sign in zip(rows, selection.signs, strict=True))
    assert result.by_chance.tolist() == expected.tolist() and expected.max() > 0


def test_a_planted_unit_is_found_in_a_larger_network():
    lstm = randomise(nn.LSTM(3, 12, batch_first=True).double())
    with torch.no_grad():
        # Unit 4 opens at "(" and closes at ")": input 0 writes 1, input 1 forgets.
        for gate, bias in zip(range(4), [-OPEN, OPEN, OPEN, OPEN], strict=True):
            row = gate * 12 + 4
            lstm.weight_ih_l0[row], lstm.weight_hh_l0[row], lstm.bias_ih_l0[row], lstm.bias_hh_l0[row] = 0.0, 0.0, bias, 0.0
        lstm.weight_ih_l0[4, 0], lstm.weight_ih_l0[12 + 4, 1] = 2 * OPEN, -2 * OPEN
    text = ["ab(cde)f(g)hh", "(aa)b(cc)dddd"]
    symbols = torch.tensor([["()".find(letter) % 3 for letter in row] for row in text])
    recording = recorded(lstm, torch.eye(3, dtype=torch.float64)[symbols], lengths=[13, 13])
    selection = lx.select(recording, (0, 2, 6), threshold=0.9)
    assert 4 in selection.units
    only = replace(selection, units=(4,), signs=np.array([1]), values=selection.values[[selection.units.index(4)]])
    found = {text[one.sequence][one.start : one.stop] for one in lx.match(recording, only).matches}
    assert found == {"(g", "(aa", "(cc"}


def test_runs_on_small_cases():
    assert runs(np.array([True, True, False, True])).tolist() == [[0, 2], [3, 4]]
    assert runs(np.array([[False, False], [True, True]])).tolist() == [[1, 0, 2]]
    assert runs(np.zeros((2, 3), dtype=bool)).shape == (0, 3)


def test_steps_that_are_not_valid_are_off():
    values = np.ones((1, 6, 1))
    trajectory = of(values)["l0"]
    valid = torch.tensor([[False, True, True, False, True, False]])
    recording = {"l0": replace(trajectory, valid=valid)}
    assert lx.select(recording, (0, 1, 3)).units == (0,)
    assert [one[:3] for one in lx.match(recording, lx.select(recording, (0, 1, 3))).matches] == [(0, 4, 5)]
    with pytest.raises(lx.InputError, match="needed span as steps of sequence 0, which has 3, got 2 to 4"):
        lx.select(recording, (0, 2, 4))


def test_results_read_and_export():
    values, begins = bursts(True)
    recording = of(values)
    selection = lx.select(recording, (2, int(begins[0]), int(begins[0]) + 5))
    result = lx.match(recording, selection)
    for one in (selection, result):
        assert "\n" not in repr(one) and "(shown)" in repr(one) and "<table>" in one._repr_html_()
        json.dumps(one.to_dict(), allow_nan=False)
    frame = selection.to_frame()
    assert frame["in_span"].sum() == 15 and set(frame["unit"]) == {0, 1, 2} and (frame["sequence"] == 2).all()
    assert result.to_frame()["matched"].tolist() == [3] * 17
    assert lx.select(recording, (0, 0, 1), draws=0).verdict == "not controlled"
    assert lx.match(recording, selection, draws=0).verdict == "not controlled"
    assert lx.select(recording, (0, 0, 1)).verdict == "not shown"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"span": (4, 0, 1)}, "needed span in a sequence from 0 to 3, got 4"),
        ({"span": (1, 3, 8)}, "needed span as steps of sequence 1, which has 7, got 3 to 8"),
        ({"span": (1, 3, 3)}, "needed span as steps of sequence 1, which has 7, got 3 to 3"),
        ({"span": (1, -1, 3)}, "needed span as steps of sequence 1, which has 7, got -1 to 3"),
        ({"span": (1, 3)}, r"needed span as \(sequence, start, stop\), got \(1, 3\)"),
        ({"span": 7}, "needed span as .*, got 7"),
        ({"layer": "l1"}, "needed layer as one of l0, got 'l1'"),
        ({"signal": "forget"}, "needed the signal forget of l0"),
        ({"threshold": 0}, "needed threshold above 0, got 0"),
        ({"threshold": "high"}, "needed threshold above 0, got 'high'"),
        ({"around": 0}, "needed around from 1 and draws from 0, got 0 and 999"),
        ({"draws": -1}, "needed around from 1 and draws from 0"),
    ],
)
def test_a_selection_that_does_not_fit_is_refused_in_one_line(options, message):
    given = {"span": (1, 2, 4)} | options
    with pytest.raises(lx.InputError, match=message) as refused:
        lx.select(of(switching(), LENGTHS), given.pop("span"), **given)
    assert "\n" not in str(refused.value)


def test_a_match_that_does_not_fit_is_refused():
    recording = of(switching(), LENGTHS)
    selection = lx.select(recording, (1, 4, 6))
    two = recorded(nn.LSTM(1, 2, 2, batch_first=True), torch.zeros(1, 3, 1))
    for call, message in [
        (lambda: lx.select({}, (0, 0, 1)), "needed at least one recorded layer, got none"),
        (lambda: lx.select(two, (0, 0, 1)), "needed layer= as one of l0, l1, got none"),
        (lambda: lx.match(recording, (1, 2, 4)), "needed what lx.select returned, got tuple"),
        (lambda: lx.match(recording, lx.select(recording, (0, 0, 12))), "needed a selection with at least one unit, got none"),
        (lambda: lx.match({}, selection), "needed a recording with l0, got nothing"),
        (lambda: lx.match(two, selection), "needed 5 units of l0 cell_state, got 2"),
        (lambda: lx.match(recording, selection, count=0), "needed count, shortest and around from 1, .* got 0, 1, None, 10 and 99"),
        (lambda: lx.match(recording, selection, shortest=3, longest=2), "longest from shortest"),
        (lambda: lx.match(recording, selection, draws=-1), "draws from 0"),
    ]:
        with pytest.raises(lx.InputError, match=message) as refused:
            call()
        assert "\n" not in str(refused.value)
