"""The section on verification: a network that is known, a speller whose predictions change, and what is said where nothing is tested."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from planted_latch import Latched, signals, squared
from speller import study as speller

import lstm_explain as lx
from lstm_explain.report import verification
from lstm_explain.report.command import main
from lstm_explain.verdicts.verification.claim import Claim

MEASURED = SimpleNamespace(seed=0, thorough=False, quiet=True)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    out = tmp_path_factory.mktemp("reports")
    assert main(["--study", "planted", "--out", str(out), "--quiet"]) == 0
    return out / "planted-001"


def test_of_a_network_that_is_known_all_is_found_and_nothing_else(planted):
    section = json.loads((planted / "report.json").read_text(encoding="utf-8"))["sections"]["verification"]
    assert section["finding"].endswith("Planted 6, found 6, falsely claimed 0.")
    assert section["planted"] == {"planted": 6, "found": 6, "falsely_claimed": 0} and section["tested"] == 384
    assert "384 claims tested, 6 verified" in (planted / "index.html").read_text(encoding="utf-8")


INPUTS, LATCH = signals(batch=30)


def latched(**changes):
    return lx.Study(
        Latched(latches=(3, 11), read=lambda latches, rest: latches[..., :1] + rest).silence(11),
        INPUTS,
        **({"labels": {"latch": LATCH, "third": LATCH * 2 % 3}, "lengths": [60] * 30, "loss": squared(LATCH)} | changes),
    )


def test_claims_are_chosen_on_a_third_of_the_groups_and_tested_on_the_others():
    section = verification.section(latched(), MEASURED)
    numbers = section.numbers
    assert [claim["units"] for claim in numbers["claims"]][:2] in ([[3], [11]], [[11], [3]])
    assert not set(numbers["sequences"]) & set(range(0, 30, 3)) and len(numbers["sequences"]) == 20
    assert numbers["tested"] == 4 and numbers["verified"] == 2  # two labels, of which the second is the first in other numbers
    assert "unit 3 for “latch”, verified" in section.finding or "unit 3 for “third”, verified" in section.finding
    assert "is correlated only" in section.finding and "Planted" not in section.finding
    assert [picture.name for picture in section.pictures] == ["verification_legs", "verification_used"]
    json.dumps(numbers, allow_nan=False)


def test_the_studys_own_claims_are_tested_and_counted():
    study = latched(claims=[Claim("lstm.l0", 3, "latch"), Claim("lstm.l0", 5, "latch")], planted=[Claim("lstm.l0", 3, "latch")])
    section = verification.section(study, MEASURED)
    assert section.numbers["tested"] == 2 and section.finding.endswith("Planted 1, found 1, falsely claimed 0.")
    assert "The claims are the study’s own." in section.method


def test_predictions_with_the_best_and_with_a_failed_claim_stand_beside_each_other():
    symbols = speller(turned=20).inputs
    study = speller(
        turned=20,
        labels={"was_b": np.repeat(symbols[:, ::2].numpy(), 2, axis=1) == 1},
        groups=[n % 10 for n in range(40)],
        claims=[Claim("lstm.l0", 0, "was_b"), Claim("lstm.l0", 3, "was_b")],
    )
    section = verification.section(study, MEASURED)
    assert {name: one["unit"] for name, one in section.numbers["predictions"].items()} == {"best": 0, "failed": 3}
    assert [picture.name for picture in section.pictures][2:] == ["verification_text_best", "verification_text_failed"]
    assert "how far its predictions move, in nats" in section.method
    best, failed = (section.numbers["predictions"][name] for name in ("best", "failed"))
    assert best["ablated"] != best["clean"] and failed["ablated"] == failed["clean"]


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"loss": None}, "the study has no loss that could change"),
        ({"labels": {}}, "the study has no labels"),
        ({"groups": [n % 8 for n in range(30)]}, "needed at least 9 groups, a third to choose units on and the others to test them, got 8"),
        ({"labels": {"third": np.arange(1800).reshape(30, 60) % 3}}, "the study has no label that is yes or no or a number, and varies"),
        ({"labels": {"same": np.repeat(np.arange(30) % 2 == 0, 60).reshape(30, 60)}}, "needed label 'same' to vary within groups"),
    ],
)
def test_where_nothing_is_tested_the_reason_is_said(changes, reason):
    section = verification.section(latched(**changes), MEASURED)
    assert section.finding.startswith("No claim is tested: ") and reason in section.finding and section.pictures == ()


def test_a_studys_claims_are_about_its_labels():
    with pytest.raises(lx.InputError, match="needed claims about one of the labels latch, third, got 'lock'"):
        latched(claims=[Claim("lstm.l0", 3, "lock")])
    with pytest.raises(lx.InputError, match="needed claims as lx.Claim, got str"):
        latched(planted=["latch"])
