"""Pictures of a verification: what they say is what the result says."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

import lstm_explain as lx
from lstm_explain.plots import panels
from lstm_explain.verdicts.verification.bounds import Bounds
from lstm_explain.verdicts.verification.result import Knows, Suffices, Used, VerificationResult, Verified


def verified(unit, score=0.9, effect=0.5, share=0.4, matched=(0.1, 0.05, -0.2), units=()):
    def about(value, width=0.05):
        return Bounds(value, value - width / 2, value + width / 2, value - width, value + width)

    controls = {"majority": 0.5, "window": 0.6, **{f"untrained {n}": 0.6 + n / 50 for n in range(1, 6)}}
    above = {name: about(score - control) for name, control in controls.items()}
    return Verified(
        lx.Claim("lstm.l0", unit, "in_string", units),
        Knows("AUC", score, controls, above, 0.001),
        Used(about(effect), 0.01, np.array(matched), about(effect - max(matched)), 1e-9),
        Suffices(about(share), np.array(matched) / 10, about(share - max(matched) / 10)),
    )


def result(*claims):
    return VerificationResult(
        claims, {"lstm.l0": ("weight_hh_l0",)}, {"lstm.l0": ("certified", "certified")}, 20, 5, 2, 5, 8, 100, 99, 0, 10, "known"
    )


def drawn(one, **options):
    figure = Figure(figsize=(9, 3))
    ax = lx.plot(one, figure.add_subplot(), **options)
    figure.draw_without_rendering()
    return ax


def test_legs_say_what_stands():
    one = result(verified(3), verified(5, effect=0.0, share=0.0), verified(None, score=0.6, units=[1, 2]))
    ax = drawn(one)
    assert ax.get_title(loc="left") == "3 claims tested, 1 verified (bars: 95 % for all claims at once)"
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "lstm.l0 unit 3: in string",
        "lstm.l0 units 1, 2: in string",
        "lstm.l0 unit 5: in string",
    ]
    said = [text.get_text() for text in ax.texts]
    assert said[0] == "0.90; untrained 0.70" and "+0.5; 0 of 3" in said and "40.0 %" in said and "0.0 %" in said
    (verdicts,) = ax.child_axes
    assert [label.get_text() for label in verdicts.get_yticklabels()] == ["verified", "2 of 3 legs", "correlated only"]


def test_bars_end_before_their_numbers_in_the_reports_own_size():
    figure, (ax,) = panels(9.6, 2.0)
    one = verified(111, effect=-0.0123, share=0.0)
    widest = replace(one, claim=lx.Claim("lstm.l0", 111, "indentation_depth"))
    lx.plot(result(widest), ax, effect="nats by which predictions move more")
    figure.draw_without_rendering()
    bars = [line.get_window_extent() for line in ax.lines if line.get_linewidth() == 3]
    numbers = [text.get_window_extent() for text in ax.texts]
    assert len(bars) == len(numbers) == 3 and numbers[0].width > numbers[2].width
    assert all(bar.x1 < number.x0 for bar, number in zip(bars, numbers, strict=True))


def test_at_most_so_many_claims_are_drawn():
    ax = drawn(result(*(verified(unit) for unit in range(30))))
    assert len(ax.get_yticks()) == 24 and "30 claims tested, 30 verified; the 24 best founded" in ax.get_title(loc="left")


def test_one_claim_stands_among_its_matched_units():
    ax = drawn(result(verified(3), verified(5, effect=0.07)), kind="used", claim=1)
    assert ax.get_title(loc="left") == "is used: not shown; 1 of 3 matched do as much"
    claim, matched = ax.lines[1].get_ydata(), ax.lines[0].get_ydata()
    assert claim == [0.07] and list(matched) == [0.1, 0.05, -0.2]
    assert drawn(result(verified(3)), kind="suffices").get_title(loc="left") == "suffices: shown; 0 of 3 matched do as much"


def test_what_is_not_defined_is_left_out():
    nothing = Bounds(*[float("nan")] * 5)
    one = verified(3)
    ax = drawn(
        result(Verified(one.claim, one.knows, Used(nothing, 0.0, np.array([]), nothing, 0.0), Suffices(nothing, np.array([]), nothing)))
    )
    assert [text.get_text() for text in ax.texts][1:] == ["not defined", "not defined"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "bars"}, "needed kind as one of legs, used, suffices, got 'bars'"),
        ({"kind": "used", "claim": 2}, "needed claim from 0, the best founded, to 1, got 2"),
    ],
)
def test_bad_options_get_one_line(options, message):
    with pytest.raises(lx.InputError) as raised:
        drawn(result(verified(3), verified(5)), **options)
    assert str(raised.value) == message
