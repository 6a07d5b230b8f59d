"""Claims, what is refused, and by which rules legs stand and verdicts read."""

import numpy as np
import pytest
from planted_latch import Latched, signals, squared

import lstm_explain as lx
from lstm_explain.verdicts.verification.bounds import Bounds
from lstm_explain.verdicts.verification.result import Knows, Suffices, Used, Verified

INPUTS, LATCH = signals()
OPTIONS = {"resamples": 300, "permutations": 99}


def leg_of(score=0.9, window=0.6, low=0.1, p=0.01, untrained=True):
    above = {"majority": Bounds(0.4, 0.3, 0.5, 0.3, 0.5), "window": Bounds(score - window, low, 0.4, low, 0.4)}
    controls = {"majority": 0.5, "window": window} | ({"untrained 1": 0.5} if untrained else {})
    return Knows("AUC", score, controls, above, p)


def effect_of(value=1.0, low=0.5, others=(0.1,) * 19, noop=1e-9, above=0.1):
    return Used(Bounds(value, low, 2 * value, low, 2 * value), 0.0, np.array(others), Bounds(0.5, above, 1, above, 1), noop)


def share_of(low=0.02, others=(0.0,) * 19, above=0.1):
    return Suffices(Bounds(0.4, low, 0.6, low, 0.6), np.array(others), Bounds(0.2, above, 1, above, 1))


@pytest.mark.parametrize(
    ("leg", "verdict"),
    [
        (leg_of(), "shown"),
        (leg_of(low=-0.01), "not shown"),
        (leg_of(p=0.051), "not shown"),
        (leg_of(p=0.05), "shown"),
        (leg_of(untrained=False), "not controlled"),
        (effect_of(), "shown"),
        (effect_of(low=1e-10), "not shown"),  # no more than what rounding does
        (effect_of(low=-0.1), "not shown"),
        (effect_of(above=0.0), "not shown"),  # no more than units like it, as far as these groups can tell
        (effect_of(others=(0.51, *(0.1,) * 18)), "not shown"),  # that it does more than all others isn't so for all claims at once
        (effect_of(others=(0.51, *(0.1,) * 38)), "shown"),  # of forty two may do as much
        (effect_of(others=()), "not controlled"),
        (share_of(), "shown"),
        (share_of(low=0.005), "not shown"),  # not worth the name
        (share_of(above=-0.1), "not shown"),
        (share_of(others=()), "not controlled"),
    ],
)
def test_a_leg_stands_by_its_rule(leg, verdict):
    assert leg.verdict == verdict


def test_what_the_interval_must_be_above_is_rounding_or_the_matched_set_that_must_be_passed():
    assert effect_of(others=(0.2, *(0.1,) * 18)).least == 0.2 and effect_of(others=(0.2, *(0.1,) * 38)).least == 0.1
    assert effect_of(others=(0.0,) * 19).least == 1e-9 and share_of().least == 0.01
    assert np.isnan(effect_of(others=()).least) and np.isnan(share_of(others=()).least)


def test_the_verdict_names_the_legs():
    claim, weak, strong = lx.Claim("l0", 1, "x"), share_of(low=-1), share_of()
    words = {
        "verified": (leg_of(), effect_of(), strong),
        "correlated only": (leg_of(), effect_of(low=-1), weak),
        "not shown": (leg_of(p=1), effect_of(low=-1), weak),
        "knows and is used; suffices not shown": (leg_of(), effect_of(), weak),
        "is used and suffices; knows not shown": (leg_of(p=1), effect_of(), strong),
        "suffices; knows not controlled, is used not shown": (leg_of(untrained=False), effect_of(low=-1), strong),
    }
    for verdict, legs in words.items():
        assert Verified(claim, *legs).verdict == verdict


BAD = {
    "nothing": (dict(claims=[]), "needed an lx.Claim or a list of them, got list"),
    "a name": (dict(claims=["latch"]), "needed an lx.Claim or a list of them, got str"),
    "twice": (dict(claims=[lx.Claim("lstm.l0", 3, "latch")] * 2), "needed each claim once, got twice that lstm.l0 unit 3 carries latch"),
    "no layer": (dict(claims=lx.Claim("lstm.l1", 3, "latch")), "needed a claim about one of lstm.l0, got 'lstm.l1'"),
    "no unit": (dict(claims=lx.Claim("lstm.l0", 16, "latch")), "needed units from 0 to 15 of lstm.l0, got 16"),
    "no label": (dict(claims=lx.Claim("lstm.l0", 3, "lock")), "needed claims about one of the labels latch, got 'lock'"),
    "label's shape": (
        dict(labels={"latch": LATCH[:, 1:]}),
        "needed label 'latch' of shape (20, 60), one value for each step, got (20, 59)",
    ),
    "one value": (dict(labels={"latch": np.ones((20, 60), bool)}), "needed at least two values of label 'latch', got only 1"),
    "classes": (
        dict(labels={"latch": np.arange(1200).reshape(20, 60) % 3}),
        "needed label 'latch' as yes or no, or as a number, got 3 classes: make a label of each class",
    ),
    "the same throughout groups": (
        dict(labels={"latch": np.repeat(np.arange(20) % 2 == 0, 60).reshape(20, 60)}),
        "needed label 'latch' to vary within groups, got one value throughout each of 20: "
        "put sequences with different values into one group",
    ),
    "folds": (
        dict(groups=[0] * 10 + [1] * 10),
        "needed at least 5 groups for 5 folds, got 2: give finer groups, or fewer folds",
    ),
    "groups": (dict(groups=[0, 1]), "needed groups for 20 sequences, got 2"),
    "where": (
        dict(where={"latch": np.ones((20, 60))}),
        "needed where= of 'latch' as booleans of shape (20, 60), got float64 of shape (20, 60)",
    ),
    "nowhere": (
        dict(where={"latch": np.zeros((20, 60), bool)}),
        "needed where= of 'latch' to be true at some step where the label is defined, got none",
    ),
    "where of what": (dict(where={"lock": LATCH > 0}), "needed where= for one of the labels latch, got 'lock'"),
    "twins": (dict(twins="five"), "needed twins as a whole number from 0 on, or as a list of models, got 'five'"),
    "donors": (dict(donors=0), "needed donors as a positive whole number, got 0"),
    "loss": (dict(loss=None), "needed loss as a function of the model's output and the sequences' numbers, got NoneType"),
    "inputs": (dict(inputs=LATCH), "needed inputs as a tensor (batch, time, ...), got ndarray"),
    "output": (
        dict(output=lambda output: output[:, 0]),
        "needed an output for each number of the loss, (row[, time][, class]), got (16, 1) beside a loss (16, 60): choose one with output=",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_gets_one_line(what):
    given, message = BAD[what]
    options = dict(claims=lx.Claim("lstm.l0", 3, "latch"), inputs=INPUTS, labels={"latch": LATCH}, loss=squared(LATCH)) | OPTIONS | given
    claims, inputs, labels = (options.pop(name) for name in ("claims", "inputs", "labels"))
    with pytest.raises(lx.InputError) as raised:
        lx.verify(claims, Latched(), inputs, labels, **options)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(layer="l0"), "needed a claim about unit= or units=, got neither"),
        (dict(layer="l0", unit=1, units=[2]), "needed a claim about unit= or units=, got 1 and [2]"),
        (dict(layer="l0", unit=-1), "needed a claim's units as whole numbers from 0 on, got -1"),
        (dict(layer="l0", unit=True), "needed a claim's units as whole numbers from 0 on, got True"),
        (dict(layer="l0", units=[2, 2]), "needed each of a claim's units once, got [2, 2]"),
        (dict(layer=0, unit=1), "needed a claim's layer as a text, got 0"),
    ],
)
def test_a_claim_is_about_units_of_a_layer(given, message):
    with pytest.raises(lx.InputError) as raised:
        lx.Claim(**given)
    assert str(raised.value) == message


def test_a_group_of_one_unit_is_that_unit():
    assert lx.Claim("l0", units=[3], label="x") == lx.Claim("l0", 3, "x") and hash(lx.Claim("l0", 3, "x")) is not None
    assert lx.Claim("l0", units=[7, 3], label="x") == lx.Claim("l0", units=(3, 7), label="x")
