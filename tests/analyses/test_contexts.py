"""What makes a unit fire: the places are those of the definition, however the corpus is split."""

import json
from dataclasses import replace
from hashlib import blake2b

import numpy as np
import pytest
import torch
from cases import randomise
from hypothesis import given, settings
from hypothesis import strategies as st
from mechanisms import OPEN, blank, counter
from torch import nn

import lstm_explain as lx
from lstm_explain.analyses.contexts.places import highest, lots, peaks


def recorded(model, inputs, **options):
    with torch.no_grad(), lx.record(model, **options) as recording:
        model(inputs)
    return recording


def of(values, lengths=None, reverse=False):
    """A recording of one layer whose cell state is what is given, ``(batch, time, unit)``."""
    values = torch.as_tensor(values, dtype=torch.float64)
    lengths = [values.shape[1]] * len(values) if lengths is None else lengths
    model = blank(1, values.shape[2])
    trajectory = recorded(model, torch.zeros(*values.shape[:2], 1, dtype=torch.float64), lengths=lengths)["l0"]
    return {"l0": replace(trajectory, signals={"cell_state": values}, reverse=reverse)}


def texts(recording, seed=0):
    """Letters for every step."""
    shape = next(iter(recording.values())).valid.shape
    return ["".join(row) for row in np.random.default_rng(seed).choice([*"abcdefgh"], shape)]


def places(contexts):
    return [(one.value, one.sequence, one.step) for one in contexts]


def slowly(values, lengths, names, count, apart):
    """The definition, step by step: each unit's peaks by value, then name, then step."""
    found = []
    for unit in range(values.shape[2]):
        own = []
        for row, name, length in zip(values, names, lengths, strict=True):
            x = row[:length, unit].tolist()
            for t, value in enumerate(x):
                earlier, later = x[max(t - apart + 1, 0) : t], x[t + 1 : t + apart]
                if all(value > other for other in earlier) and all(value >= other for other in later):
                    own.append((value, name, t))
        found.append(sorted(own, key=lambda place: (-place[0], place[1], place[2]))[:count])
    return found


@pytest.mark.parametrize("apart", [1, 2, 3, 5, 8, 50])
@pytest.mark.parametrize("digits", [0, 1, 9], ids=lambda n: f"ties-{n}")
def test_places_are_those_of_the_definition(apart, digits):
    values = np.random.default_rng(apart).normal(size=(11, 23, 3)).round(digits)
    lengths, names = [23, 1, 7, 23, 9, 2, 20, 11, 23, 3, 5], [7, 3, 4, 9, 0, 1, 8, 2, 5, 6, 10]
    recording = of(values, lengths)
    layer = lx.contexts(recording, texts(recording), names=names, count=6, apart=apart).layers["l0"]
    for unit, (top, bottom) in enumerate(
        zip(slowly(values, lengths, names, 6, apart), slowly(-values, lengths, names, 6, apart), strict=True)
    ):
        assert places(layer.of(unit, "top")) == top
        assert [(-value, *where) for value, *where in places(layer.of(unit, "bottom"))] == bottom
    assert layer.steps == sum(lengths) and layer.sequences == 11


def lot(name, step, seed=None):
    """SplitMix64 with Python's whole numbers."""
    seed = int.from_bytes(blake2b(repr(name).encode(), digest_size=8).digest(), "little") if seed is None else seed
    z = (seed + (step + 1) * 0x9E3779B97F4A7C15) % 2**64
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = ((z ^ (z >> shift)) * factor) % 2**64
    return z ^ (z >> 31)


def test_lots_are_those_of_splitmix():
    assert lot("", 0, seed=0) == 0xE220A8397B1DCDAF  # its published first number
    for name in ("a", "1", 1, 10**12):
        assert lots(name, np.arange(5)).tolist() == [lot(name, step) for step in range(5)]
    drawn = lots("b", np.arange(100_000)) / 2.0**64
    assert abs(drawn.mean() - 0.5) < 0.005 and abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 0.02


def test_average_contexts_are_evenly_spread_over_the_steps_that_were_drawn():
    values = np.random.default_rng(0).normal(size=(5, 60, 2)).round(1)
    lengths, names = [60, 50, 60, 20, 33], [*"ebdac"]
    layer = lx.contexts(of(values, lengths), ["x" * 60] * 5, names=names, count=3).layers["l0"]
    steps = [(lot(name, t), name, t, row[t]) for row, name, length in zip(values, names, lengths, strict=True) for t in range(length)]
    drawn = sorted(steps)[: 32 * 3]
    for unit in range(2):
        ranked = sorted((float(value[unit]), name, t) for _, name, t, value in drawn)
        # The middles of three equal shares of 96.
        assert places(layer.of(unit, "average")) == [ranked[16], ranked[48], ranked[80]]


def test_few_steps_are_all_average():
    layer = lx.contexts(of(np.arange(3.0).reshape(1, 3, 1)), ["abc"], count=5).layers["l0"]
    assert [one.step for one in layer.of(0, "average")] == [0, 1, 2]


SPLIT = np.random.default_rng(3).normal(size=(9, 40, 4)).round(1)
LENGTHS = [40, 3, 17, 40, 1, 25, 38, 9, 40]
NAMES = ["b", 4, "a", 2, "file 7", 11, "c", 0, "d"]


def part_of(recording, text, sequences, **options):
    stream = lx.Contexts(**options)
    stream.update(
        {name: one.select(sequences) for name, one in recording.items()}, [text[k] for k in sequences], [NAMES[k] for k in sequences]
    )
    return stream


def exactly(one, other):
    """The same places exactly, and the same mean and deviation to rounding."""
    one, other = one.to_dict(), other.to_dict()
    for name, layer in one["layers"].items():
        for field in ("mean", "deviation"):
            np.testing.assert_allclose(layer.pop(field), other["layers"][name].pop(field), rtol=0, atol=1e-12)
    assert one == other


@settings(deadline=None, max_examples=25)
@given(st.permutations(range(9)), st.sets(st.integers(1, 8), max_size=4), st.randoms())
def test_any_split_in_any_order_gives_the_same_contexts_exactly(order, cuts, random):
    recording = of(SPLIT, LENGTHS)
    text, options = texts(recording), {"count": 4, "apart": 5, "before": 3}
    bounds = [0, *sorted(cuts), 9]
    parts = [part_of(recording, text, order[a:b], **options) for a, b in zip(bounds, bounds[1:], strict=False)]
    while len(parts) > 1:
        one = parts.pop(random.randrange(len(parts)))
        parts[random.randrange(len(parts))].merge(one)
    exactly(parts[0].compute(), part_of(recording, text, range(9), **options).compute())


def test_one_stream_over_many_batches_is_the_whole():
    recording = of(SPLIT, LENGTHS)
    text, stream = texts(recording), lx.Contexts(count=4)
    for k in range(9):
        stream.update({"l0": recording["l0"].select([k])}, [text[k]], [NAMES[k]])
    exactly(stream.compute(), part_of(recording, text, range(9), count=4).compute())


def test_equal_values_are_in_the_order_of_names_numbers_first():
    recording = of(np.ones((4, 6, 1)))
    layer = lx.contexts(recording, ["abcdef"] * 4, names=["b", 10, "a", 9], count=3).layers["l0"]
    assert places(layer.of(0)) == places(layer.of(0, "bottom")) == [(1, 9, 0), (1, 10, 0), (1, "a", 0)]
    assert layer.deviation.tolist() == [0] and np.isnan(layer.exceptional()).all()


def test_one_peak_does_not_fill_the_list():
    rise = np.concatenate([np.linspace(0, 5, 50), np.linspace(5, 0, 50)]).reshape(1, 100, 1)
    found = lx.contexts(of(np.concatenate([rise, rise / 2], 1)), ["x" * 200], count=8, apart=40).layers["l0"].of(0)
    assert [one.step for one in found] == [49, 149]
    assert len(lx.contexts(of(rise), ["x" * 100], count=8, apart=1).layers["l0"].of(0)) == 8


def test_a_planted_unit_is_found_in_a_larger_network():
    lstm = randomise(nn.LSTM(5, 12, batch_first=True).double())
    with torch.no_grad():
        # Unit 7 takes in "x" only, and forgets at once: c = 1 after an x, and nearly 0 otherwise.
        for gate, bias in zip(range(4), [-OPEN, -OPEN, OPEN, 0.0], strict=True):
            row = gate * 12 + 7
            lstm.weight_ih_l0[row], lstm.weight_hh_l0[row], lstm.bias_ih_l0[row], lstm.bias_hh_l0[row] = 0.0, 0.0, bias, 0.0
        lstm.weight_ih_l0[7, 4] = 2 * OPEN
    letters = [*"abcdx"]
    symbols = torch.randint(5, (6, 200), generator=torch.Generator().manual_seed(0))
    text = ["".join(letters[k] for k in row) for row in symbols.tolist()]
    result = lx.contexts(recorded(lstm, torch.eye(5, dtype=torch.float64)[symbols], lengths=[200] * 6), text, count=10)
    layer = result.layers["l0"]
    assert {one.read[one.at] for one in layer.of(7)} == {"x"} and "x" not in {one.read[one.at] for one in layer.of(7, "bottom")}
    average = [one.read[one.at] for one in layer.of(7, "average")]
    assert 1 <= average.count("x") <= 4  # one step in five
    assert [one.read[one.at] == "x" for one in layer.of(7, "average")] == [one.value > 0.5 for one in layer.of(7, "average")]


def test_the_counter_is_highest_where_most_have_been_counted():
    text = ["aaabab", "bbbbaa"]
    symbols = torch.tensor([["ab".index(letter) for letter in row] for row in text])
    layer = lx.contexts(recorded(counter(), torch.eye(2, dtype=torch.float64)[symbols]), text, count=1).layers["l0"]
    assert layer.of(0)[0].text == "aa[a]bab" and layer.of(0, "bottom")[0].text == "bbb[b]aa"
    assert layer.signal == "cell_state" and layer.mean[0] == pytest.approx(
        np.tanh(4) * (1 + 2 + 3 + 2 + 3 + 2 - 1 - 2 - 3 - 4 - 3 - 2) / 12
    )


def test_what_is_shown_ends_with_the_sequence_and_has_the_units_values():
    values = np.zeros((2, 9, 1))
    values[0, 1], values[1, 6] = 3, 2
    recording = of(values, [9, 7])
    first, second = lx.contexts(recording, ["abcdefghi", "klmnopqPP"], count=2, before=3, after=2).layers["l0"].of(0)
    assert (first.text, first.at, first.values.tolist()) == ("a[b]cd", 1, [0, 3, 0, 0])
    assert (second.text, second.at, second.values.tolist()) == ("nop[q]", 3, [0, 0, 0, 2])


def test_what_a_reverse_layer_had_read_before_stands_after_the_place():
    values = np.zeros((1, 9, 1))
    values[0, 4] = 1
    one = lx.contexts(of(values, reverse=True), ["abcdefghi"], count=1, before=3, after=1).layers["l0"].of(0)[0]
    assert one.text == "d[e]fgh"


def test_steps_that_are_not_valid_are_passed_over():
    values = np.arange(8.0).reshape(1, 8, 1)
    trajectory = of(values)["l0"]
    valid = torch.tensor([[False, True, True, False, True, True, False, False]])
    layer = lx.contexts({"l0": replace(trajectory, valid=valid)}, ["abcdefgh"], count=1, before=2).layers["l0"]
    assert (layer.of(0)[0].step, layer.of(0)[0].text, layer.steps) == (5, "e[f]", 4)
    assert layer.of(0, "bottom")[0].step == 1


def test_numbers_are_kept_in_place_of_tokens():
    values = np.zeros((2, 5, 1))
    values[1, 3] = 1
    inputs = torch.arange(20.0).view(2, 5, 2)
    one = lx.contexts(of(values), inputs, count=1, before=1, after=9).layers["l0"].of(0)[0]
    assert one.text is None and one.read.tolist() == [[14, 15], [16, 17], [18, 19]]
    assert lx.contexts(of(values), np.arange(10).reshape(2, 5), count=1, before=0, after=0).layers["l0"].of(0)[0].read.tolist() == [[8.0]]


def test_values_that_are_not_finite_are_counted_and_left_out():
    values = np.random.default_rng(0).normal(size=(2, 12, 3))
    values[0, 4, 1], values[1, 2, 1], values[:, :, 2] = np.nan, np.inf, np.nan
    result = lx.contexts(of(values), ["x" * 12] * 2, count=4, apart=1)
    layer = result.layers["l0"]
    assert layer.nonfinite.tolist() == [0, 2, 24]
    finite = np.sort(values[:, :, 1][np.isfinite(values[:, :, 1])])
    assert [one.value for one in layer.of(1)] == finite[::-1][:4].tolist() and layer.mean[1] == pytest.approx(finite.mean(), abs=1e-12)
    assert layer.of(2) == layer.of(2, "bottom") == layer.of(2, "average") == ()
    json.dumps(result.to_dict(), allow_nan=False)
    assert "<table>" in result._repr_html_()


def test_single_precision_says_what_was_recorded():
    torch.manual_seed(0)
    recording = recorded(nn.LSTM(2, 3, batch_first=True), torch.randn(2, 50, 2))
    x = recording["l0"].hidden_state
    layer = lx.contexts(recording, ["x" * 50] * 2, count=1, signal="hidden_state", units=[2, 0]).layers["l0"]
    assert (
        layer.units == (2, 0)
        and layer.of(0)[0].value == float(x[..., 0].max())
        and layer.of(2, "bottom")[0].value == float(x[..., 2].min())
    )


def test_peaks_and_highest_on_small_cases():
    x = torch.tensor([1.0, 1, 0, 2, 2, 2, 1]).view(1, 7, 1)
    assert peaks(x, 2).flatten().tolist() == [True, False, False, True, False, False, False]
    assert peaks(x, 4).flatten().tolist() == [False, False, False, True, False, False, False]
    assert peaks(x, 1).all() and not peaks(torch.full((1, 3, 1), -torch.inf), 2).any()
    row, unit = highest(torch.tensor([[1.0, 5.0], [2.0, -torch.inf], [2.0, 5.0]]), 2)
    assert list(zip(row.tolist(), unit.tolist(), strict=True)) == [(1, 0), (2, 0), (0, 1), (2, 1)]


def test_streams_are_fed_while_the_model_runs():
    model = randomise(nn.LSTM(2, 4, 2, batch_first=True).double())
    x = torch.randn(6, 15, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    text = texts(recorded(model, x))
    stream, by_hand = lx.Contexts(count=3, apart=2), lx.Contexts(count=3, apart=2)
    with torch.no_grad(), lx.record(model, into=[stream]) as recording:
        for picked in ([0, 1], [2, 3, 4], [5]):
            recording.annotate(inputs=[text[k] for k in picked], names=picked, lengths=[15] * len(picked))
            model(x[picked])
    for picked in ([0, 1], [2, 3, 4], [5]):
        by_hand.update(recorded(model, x[picked], lengths=[15] * len(picked)), [text[k] for k in picked], picked)
    exactly(stream.compute(), by_hand.compute())
    assert list(stream.compute().layers) == ["l0", "l1"] and stream.compute().layers["l1"].sequences == 6
    with pytest.raises(lx.InputError, match=r"needed inputs and names for Contexts, got none: call recording.annotate\(inputs="):
        with torch.no_grad(), lx.record(model, into=[stream]):
            model(x)


def test_the_result_reads_and_exports():
    recording = of(SPLIT, LENGTHS)
    text = [row.replace("a", "<") for row in texts(recording)]
    result = lx.contexts(recording, text, names=NAMES, count=2, apart=3)
    assert repr(result) == "<Contexts of l0: 2 highest, lowest and average places of 4 units over 213 steps of 9 sequences; padding known>"
    assert "&lt;" in result._repr_html_() and "[<]" not in result._repr_html_()
    frame = result.to_frame()
    assert len(frame) == 4 * 3 * 2 and frame.query("unit == 1 and kind == 'top'")["value"].tolist() == [
        one.value for one in result.layers["l0"].of(1)
    ]
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert data["layers"]["l0"]["top"][1][0]["step"] == result.layers["l0"].of(1)[0].step and data["count"] == 2
    above = result.layers["l0"].exceptional()
    everything = np.concatenate([row[:n] for row, n in zip(SPLIT, LENGTHS, strict=True)])
    np.testing.assert_allclose(above, (everything.max(0) - everything.mean(0)) / everything.std(0), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"inputs": ["abc"]}, "needed inputs as tokens, .* for each of 2 sequences, or numbers .*, got 1 sequences"),
        ({"inputs": ["abc", "ab"]}, "needed inputs for the 3 steps of sequence 1, got 2"),
        ({"inputs": [[1, 2, 3]] * 2}, "needed inputs as tokens, .* got list"),
        ({"inputs": 3}, "needed inputs as tokens, .* got int"),
        ({"inputs": torch.zeros(2)}, r"needed inputs as tokens, .* got float64 of shape \(2,\)"),
        ({"inputs": np.array([["a"] * 3] * 2)}, "needed inputs as tokens, .* got <U1"),
        ({"inputs": torch.zeros(2, 2, 1)}, "needed inputs for the 3 steps of sequence 0, got 2"),
        ({"names": ["a"]}, "needed names for 2 sequences of l0, got 1"),
        ({"names": ["a", "a"]}, "needed a name for each sequence that no other has, got 'a' again"),
        ({"names": [0, 0]}, "no other has, got 0 again"),
        ({"names": [0.5, 1.5]}, "needed names as text or whole numbers, one for each sequence"),
        ({"names": "ab"}, "needed names as text or whole numbers, one for each sequence, got 'ab'"),
        ({"layer": "l1"}, "needed layer as one of l0, got 'l1'"),
        ({"signal": "forget"}, "needed the signal forget of l0"),
        ({"units": [4]}, "needed units from 0 to 0 of l0 cell_state, got 4"),
        ({"units": [0, 0]}, "needed units as whole numbers, each once"),
        ({"count": 0}, "needed count and apart from 1, before and after from 0, got 0, 32, 40 and 10"),
        ({"apart": 0}, "needed count and apart from 1"),
        ({"after": -1}, "before and after from 0"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(options, message):
    given_ = {"inputs": ["abc", "abc"]} | options
    with pytest.raises(lx.InputError, match=message) as refused:
        lx.contexts(of(np.zeros((2, 3, 1))), given_.pop("inputs"), **given_)
    assert "\n" not in str(refused.value)


def test_what_does_not_go_together_is_refused_and_changes_nothing():
    recording, text = of(SPLIT, LENGTHS), ["x" * 40] * 9
    stream = part_of(recording, text, [0, 1], count=2)
    before = stream.compute().to_dict()
    for call, message in [
        (lambda: lx.Contexts().compute(), "needed at least one recording, got none"),
        (lambda: lx.contexts({}, []), "needed at least one recording, got none"),
        (lambda: stream.update({}, [], []), "needed at least one recorded layer, got none"),
        (lambda: stream.update(recording, text, NAMES), "no other has, got 'b' again"),
        (lambda: stream.merge(part_of(recording, text, [1, 2], count=2)), "needed streams of different sequences, got 1 in both: 4"),
        (lambda: stream.merge(part_of(recording, text, [2], count=3)), "needed streams with the same parameters"),
        (lambda: stream.update(of(np.zeros((1, 3, 2))), ["abc"], ["new"]), "needed cell_state of 4 units of l0, got cell_state of 2"),
        (lambda: stream.merge(_other()), "needed cell_state of 4 units of l0, got cell_state of 2"),
        (lambda: stream.compute().layers["l0"].of(4), "needed unit as one of 0, 1, 2, 3, got 4"),
        (lambda: stream.compute().layers["l0"].of(0, "best"), "needed kind as one of top, bottom, average, got 'best'"),
    ]:
        with pytest.raises(lx.InputError, match=message):
            call()
    assert stream.compute().to_dict() == before
    stream.merge(part_of(recording, text, [5], count=2))
    with pytest.raises(lx.InputError, match="no other has, got 11 again"):
        stream.update(recording, text, [*range(20, 28), 11])


def _other():
    stream = lx.Contexts(count=2)
    stream.update(of(np.zeros((1, 3, 2))), ["abc"], ["new"])
    return stream
