"""Which claims a report makes by itself: units that tell a label and do something, seen on groups that the test doesn't see."""

from types import SimpleNamespace

import numpy as np
import pytest
from planted_latch import Latched, signals, squared

import lstm_explain as lx
from lstm_explain.report import claims
from lstm_explain.verdicts.verification.claim import Claim

MEASURED = SimpleNamespace(seed=0, thorough=False, quiet=True)
INPUTS, LATCH = signals(batch=30)
LATCHES = (2, 5, 9, 11)


def study(read, labels):
    """Of four units that know the same, one is read."""
    model = Latched(latches=LATCHES, read=lambda latches, rest: latches[..., LATCHES.index(read), None] + rest)
    for unit in set(LATCHES) - {read}:
        model.silence(unit)
    return lx.Study(model, INPUTS, labels=labels, lengths=[60] * 30, loss=squared(LATCH))


@pytest.mark.parametrize("read, second", [(2, 5), (5, 5), (9, 9), (11, 11)])
def test_of_units_that_tell_a_label_as_well_the_one_that_does_something_is_claimed(read, second):
    asked = claims.asked(study(read, {"latch": LATCH}), MEASURED)
    # They know the same, so the first of them tells it best; the read one is claimed beside it.
    assert asked.claims[0] == Claim("lstm.l0", 2, "latch") and len(asked.claims) == 2
    assert read == 2 or asked.claims[1] == Claim("lstm.l0", second, "latch")
    assert "of the 7 next best" in asked.why and "tested on the other 20" in asked.why


def test_what_claims_are_chosen_on_isnt_what_they_are_tested_on():
    asked = claims.asked(study(9, {"latch": LATCH}), MEASURED)
    assert asked.read.rows.tolist() == [row for row in range(30) if row % 3]
    # What the other groups hold can't move the choice: there the unread units are labelled.
    elsewhere = LATCH.copy()
    elsewhere[np.arange(30) % 3 > 0] = np.random.default_rng(0).integers(0, 2, (20, 60))
    assert claims.asked(study(9, {"latch": elsewhere}), MEASURED).claims == asked.claims


def test_a_unit_below_its_controls_isnt_claimed_beside_the_best():
    comes = INPUTS[:, :, :2].sum(2).numpy() > 0  # the last inputs tell it
    asked = claims.asked(study(9, {"comes": comes}), MEASURED)
    assert len(asked.claims) == 1


def test_where_it_cant_be_seen_what_units_do_the_next_best_is_claimed_and_the_reason_said():
    label = LATCH.copy()
    label[::3] = (np.arange(10) % 2)[:, None]
    asked = claims.asked(study(9, {"latch": label}), MEASURED)
    assert len(asked.claims) == 2
    assert "the next best (what they do can’t be seen there: needed label 'latch' to vary within groups" in asked.why


def test_of_many_labels_the_first_are_claimed_and_that_is_said():
    asked = claims.asked(study(9, {f"latch {number}": LATCH for number in range(7)}), MEASURED)
    assert list(dict.fromkeys(one.label for one in asked.claims)) == [f"latch {number}" for number in range(6)]
    assert "for each of the first 6 labels that are yes or no or a number" in asked.why
    assert "for each label that is yes or no or a number" in claims.asked(study(9, {"latch": LATCH}), MEASURED).why
