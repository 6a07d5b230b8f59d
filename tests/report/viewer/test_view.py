"""What the viewer holds: the values that a recording has, as much as fits, and nothing that could end its element."""

import base64
import gzip
import json
from dataclasses import replace

import numpy as np
import pytest
import small_study
import torch
from safetensors.numpy import load_file
from torch import nn

import lstm_explain as lx
from lstm_explain.report.viewer.packed import LEVELS, NOT_FINITE, packed
from lstm_explain.report.viewer.painted import Contributions, Painted
from lstm_explain.report.viewer.pieces import PIECES, Piece
from lstm_explain.report.viewer.view import Seen, View, view

ROOM = 10**9


@pytest.fixture(scope="module")
def report():
    return lx.explain(small_study.make(), progress=False)


def meta(of):
    return json.loads(of.island)


def levels(block):
    return np.frombuffer(gzip.decompress(base64.b64decode(block)), np.uint8)


def test_bytes_stand_for_what_is_recorded_within_half_a_level(report):
    study, shown = report.study, packed(report.view, ROOM)
    with torch.no_grad(), lx.record(study.model, lengths=study.lengths) as recording:
        study.model(study.inputs)
    valid = recording["lstm.l0"].valid
    for at, layer in enumerate(meta(shown)["layers"]):
        for signal in layer["signals"]:
            exact = recording[layer["name"]].signal(signal["name"])[valid].T.numpy()[layer["units"]]
            low, high = np.array(signal["low"])[:, None], np.array(signal["high"])[:, None]
            values = low + levels(shown.blocks[f"{at} {signal['name']}"]).reshape(exact.shape) / LEVELS * (high - low)
            assert (np.abs(values - exact) <= 0.501 / LEVELS * (high - low) + 1e-6).all()
            np.testing.assert_allclose(shown.values[f"{layer['name']}.{signal['name']}"], exact, rtol=0, atol=1e-6)


def test_the_file_beside_the_page_has_the_exact_values(report_of, report):
    place = report_of("make").place
    exact = load_file(place / "viewer.safetensors")
    assert {name: value.tobytes() for name, value in exact.items()} == {
        name: value.tobytes() for name, value in packed(report.view, ROOM).values.items()
    }
    facts = report_of("make").sidecar["viewer"]
    assert facts["steps"] == 270 and facts["units"] == {"lstm.l0": [0, 1, 2, 3, 4], "lstm.l1": [0, 1, 2, 3, 4]}
    assert facts["units_shown"] == facts["units_in_all"] == 10 and facts["values"] == "viewer.safetensors" and facts["holds_inputs"]


def drawn(steps=50, units=6, layers=2, tokens=None, seed=0):
    """A view of values drawn at random, of units whose interest is the other way round."""
    rng = np.random.default_rng(seed)
    seen = {
        f"l{n}": Seen(
            "lstm",
            "cell_state",
            {
                "forget_gate": rng.random((units, steps), dtype=np.float32),
                "cell_state": rng.normal(size=(units, steps)).astype(np.float32),
            },
        )
        for n in range(layers)
    }
    ranked = tuple((name, unit) for unit in reversed(range(units)) for name in seen)
    return View((Piece(0, "", 0, steps),), tokens, None, (), seen, ranked, (), None, steps)


def test_what_does_not_fit_is_left_out_the_least_interesting_first():
    whole, shown = drawn(), packed(drawn(), ROOM)
    less = packed(whole, shown.size * 2 // 3)
    assert less.size <= shown.size * 2 // 3 and less.facts["units_in_all"] == 12
    kept = {(name, unit) for name, units in less.facts["units"].items() for unit in units}
    assert kept == set(whole.units[: len(kept)]) and 3 < len(kept) < 12
    for at, layer in enumerate(meta(less)["layers"]):
        own = whole.layers[layer["name"]].signals["cell_state"][layer["units"]]
        assert (less.values[f"{layer['name']}.cell_state"] == own).all()
        signal = layer["signals"][1]
        found = signal["low"][1] + levels(less.blocks[f"{at} cell_state"]).reshape(own.shape)[1] / LEVELS * 2 * signal["high"][1]
        np.testing.assert_allclose(found, own[1], rtol=0, atol=0.01 * signal["high"][1])
    # As many as fit, or nearly.
    assert packed(whole, shown.size * 2 // 3).size > shown.size // 3
    assert packed(whole, 0).facts["units"] == {"l0": [5]}


def test_where_not_even_one_unit_fits_contexts_are_cut_and_then_later_steps(report):
    whole = packed(report.view, ROOM)
    bare = replace(report.view, contexts=None)
    one = packed(bare, 0)
    assert len(meta(whole)["layers"][0]["contexts"]["top"]) == 5 and one.view.steps == 1 and one.view.contexts is None
    assert meta(packed(report.view, packed(bare, ROOM).size))["layers"][0]["contexts"] is not None
    least = packed(report.view, packed(replace(bare, units=bare.units[:1]), ROOM).size)
    assert least.view.contexts is None and least.view.steps == report.view.steps and least.facts["units_shown"] == 1


@pytest.mark.parametrize("steps", [3, 40, 41, 100])
def test_a_view_cut_short_is_the_view_of_its_first_steps(report, steps):
    whole, short = report.view, report.view.shortened(steps)
    assert short.steps == steps and short.tokens == whole.tokens[:steps]
    shown = [piece.stop - piece.start for piece in short.pieces]
    assert [piece[:3] for piece in short.pieces] == [piece[:3] for piece in whole.pieces[: len(shown)]] and min(shown) > 0
    for name, seen in short.layers.items():
        for signal, values in seen.signals.items():
            assert (values == whole.layers[name].signals[signal][:, :steps]).all()
    assert len(short.why.parts) == len(shown)
    for part, before, count in zip(short.why.parts, whole.why.parts, shown, strict=False):
        assert (part.contributions == before.contributions[:count, :count]).all() and part.contributions.shape == (count, count)
        assert (part.output == before.output[:count]).all() and (part.residual == before.residual[:count]).all()
    assert f"{steps} tokens in the viewer" in short.holds
    meta(packed(short, ROOM))


def test_the_most_interesting_unit_is_shown_first():
    assert meta(packed(drawn(), ROOM))["first"] == [0, 5]
    assert meta(packed(drawn(), 0))["first"] == [0, 0]


def test_what_is_not_finite_has_a_byte_of_its_own_and_no_part_in_scales():
    strange = drawn(layers=1)
    values = strange.layers["l0"].signals["cell_state"]
    values[2, 3:6] = [np.nan, np.inf, -np.inf]
    shown = packed(strange, ROOM)
    found = levels(shown.blocks["0 cell_state"]).reshape(values.shape)
    assert (found == NOT_FINITE).sum() == 3 and (found[2, 3:6] == NOT_FINITE).all()
    signal = meta(shown)["layers"][0]["signals"][1]
    assert np.isfinite(signal["high"]).all() and np.isfinite(signal["scale"]).all()


def test_zero_is_exactly_in_the_middle_and_a_silent_unit_stays_there():
    silent = drawn(layers=1)
    silent.layers["l0"].signals["cell_state"][1] = 0
    assert (levels(packed(silent, ROOM).blocks["0 cell_state"]).reshape(6, -1)[1] == LEVELS / 2).all()


def test_contributions_are_shares_of_each_outputs_largest_from_its_first_step_on_and_what_was_not_asked_is_none():
    asked = np.array([[0.5, -0.25, np.nan, np.nan], [0.0, 0.0, 0.0, np.nan], [np.nan, 4.0, -2.0, 1.0]])
    why = Painted("it", False, False, (Contributions(asked, np.array([1.0, 2.0, 3.0]), np.array([0.5, np.nan, -0.5])),))
    shown = packed(replace(drawn(), why=why), ROOM)
    (part,) = meta(shown)["why"]["parts"]
    assert (part["first"], part["width"], part["largest"]) == ([0, 0, 1], 3, [0.5, 0.0, 4.0])
    assert (part["output"], part["residual"]) == ([1.0, 2.0, 3.0], [0.5, None, -0.5])
    assert levels(part["contributions"]).reshape(3, 3).tolist() == [[255, 64, 0], [128, 128, 128], [255, 64, 160]]
    np.testing.assert_array_equal(shown.values["piece_0.contributions"], asked.astype(np.float32))


def test_any_text_comes_through_and_none_can_end_the_element():
    tokens = ("</script>", "<!--", "\u2028", "\0", "\ud800", "\u202e", "é́" * 10_000, "😀", "&amp;", "]]>", "\\u003c")
    shown = packed(drawn(steps=len(tokens), tokens=tokens), ROOM)
    assert "<" not in shown.island and shown.island.isascii()
    assert tuple(meta(shown)["tokens"]) == tokens
    assert all(set(block) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=") for block in shown.blocks.values())


def test_contexts_are_those_of_the_whole_data(report):
    study = report.study
    with torch.no_grad(), lx.record(study.model, lengths=study.lengths) as recording:
        study.model(study.inputs)
    expected = lx.contexts(recording, study.tokens, count=4, before=24, after=8)
    layer = meta(packed(report.view, ROOM))["layers"][1]
    for kind in ("top", "bottom"):
        for shown, one in zip(layer["contexts"][kind][3], expected.layers["lstm.l1"].of(3, kind), strict=True):
            assert (shown["sequence"], shown["step"], shown["at"], tuple(shown["read"])) == (one.sequence, one.step, one.at, one.read)
            assert abs(shown["value"] - one.value) < 1e-4


def test_of_long_data_a_part_is_read_that_begins_where_the_picture_does():
    study = small_study.make()
    sections = lx.explain(study, progress=False)
    by_name = {section.name: section for section in sections.sections}
    told = by_name["unit_text"].numbers
    part = view(study, sections.measured, by_name, steps=60)
    assert part.steps <= 60 and len(part.pieces) == PIECES
    assert (part.pieces[0].sequence, part.pieces[0].start) == (told["sequence"], told["start"])
    assert len({piece.sequence for piece in part.pieces}) == len(part.pieces)
    assert len(part.tokens) == part.steps == part.layers["lstm.l0"].signals["cell_state"].shape[1]


def test_a_half_life_beyond_what_can_be_seen_comes_first():
    model = nn.LSTM(2, 3, batch_first=True)
    with torch.no_grad():
        model.bias_ih_l0[3 + 1] = 50.0
    report = lx.explain(lx.Study(model, torch.randn(4, 40, 2), lengths=[40] * 4), progress=False)
    (order,) = [order for order in report.view.orders if order.what == "half-life, steps, at most 32"]
    assert order.values["l0"][1] == 32 and order.values["l0"].argmax() == 1
    assert meta(packed(report.view, ROOM))["layers"][0]["orders"][2]["values"][1] == 32


def test_of_short_sequences_there_are_as_many_as_there_are_steps_for():
    report = lx.explain(lx.Study(nn.LSTM(2, 3, batch_first=True), torch.randn(90, 5, 2)), progress=False)
    part = view(report.study, report.measured, {section.name: section for section in report.sections}, steps=200)
    assert part.steps == 200 and len(part.pieces) == 40 and len({piece.sequence for piece in part.pieces}) == 40


def test_of_a_network_that_reads_both_ways_a_part_is_as_in_the_whole_sequence():
    study = small_study.stock()
    report = lx.explain(study, progress=False)
    part = view(study, report.measured, {section.name: section for section in report.sections}, steps=60)
    with torch.no_grad(), lx.record(study.model, lengths=study.lengths) as recording:
        study.model(study.inputs)
    assert any(piece.stop < study.lengths[piece.sequence] for piece in part.pieces)
    for name in ("lstm.l0", "lstm.l0_reverse"):
        whole = [recording[name].cell_state[piece.sequence, piece.start : piece.stop] for piece in part.pieces]
        np.testing.assert_allclose(part.layers[name].signals["cell_state"], torch.cat(whole).T.numpy(), rtol=0, atol=1e-6)


def test_without_inputs_nothing_of_what_was_read_is_there():
    hidden = lx.explain(small_study.make(), progress=False, inputs=False).view
    assert (hidden.tokens, hidden.series, hidden.contexts, hidden.why) == (None, None, None, "") and not hidden.inputs and not hidden.holds
    found = meta(packed(hidden, ROOM))
    assert found["tokens"] is None and all(layer["contexts"] is None for layer in found["layers"])


def series(**changes):
    torch.manual_seed(0)
    given = {"lengths": [9, 7], "target": (-1, 1), "output": lambda returned: returned[0], "baselines": 0.5}
    return lx.Study(nn.LSTM(2, 3, batch_first=True).double(), torch.randn(2, 9, 2).double(), **(given | changes))


def test_the_frame_of_a_notebook_is_sandboxed_and_its_page_escaped(report):
    shown = report.viewer(height=500)._repr_html_()
    assert shown.startswith('<iframe sandbox="allow-scripts" ') and "allow-same-origin" not in shown and "height: 500px" in shown
    inside = shown.partition('srcdoc="')[2].partition('"')[0]
    assert "<" not in inside and small_study.HOSTILE not in shown


@pytest.mark.parametrize("wrong", [0, -1, 26, float("nan")])
def test_a_size_that_no_page_can_have_is_refused(wrong):
    with pytest.raises(lx.InputError, match="needed max_mb above 0, up to 25, got"):
        lx.explain(small_study.bare(), max_mb=wrong)
