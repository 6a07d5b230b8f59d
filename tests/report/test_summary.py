"""The first screen: the best founded claim beside one that failed, and nothing where there is nothing."""

import re

import pytest
from page_text import Text

PARTS = {"strip": 'class="strip"', "legs": 'class="legs"', "found": 'class="said"', "missed": 'class="said missed"'}


@pytest.fixture(scope="module")
def spelled(report_of):
    return report_of("spelled")


def shown(page):
    return re.sub(r"\s+", " ", Text(page).sections["summary"])


def parts(page):
    return {name for name, mark in PARTS.items() if mark in page}


@pytest.mark.parametrize("study, counts", [("spelled", (2, 0)), ("planted", (384, 6))])
def test_the_best_claims_legs_are_those_that_were_verified(report_of, study, counts):
    sidecar = report_of(study).sidecar
    summary, section = sidecar["summary"], sidecar["sections"]["verification"]
    assert [claim["kind"] for claim in summary["claims"]] == ["best", "failed"]
    assert (summary["tested"], summary["verified"]) == (section["tested"], section["verified"]) == counts
    for claim in summary["claims"]:
        (exact,) = [
            one
            for one in section["claims"]
            if (f"{one['layer']} unit {one['units'][0]}", one["label"].replace("_", " ")) == (claim["unit"], claim["label"])
        ]
        knows, used, suffices = claim["legs"]
        assert (knows["exact"], used["exact"], suffices["exact"]) == (
            exact["knows"]["score"],
            exact["used"]["effect"]["value"],
            exact["suffices"]["share"]["value"],
        )
        assert [leg["verdict"] for leg in claim["legs"]] == [exact[name]["verdict"] for name in ("knows", "used", "suffices")]
        assert knows["control"].startswith(f"{max(exact['knows']['controls'].values()):.2f} for ")
        for leg, name, value, scale in ((used, "used", "effect", 1), (suffices, "suffices", "share", 100)):
            matched, own = exact[name]["matched"], exact[name][value]["value"]
            interval, _, beside = leg["control"].rpartition("; ")
            assert beside == f"{sum(one >= own for one in matched)} of {len(matched)} comparable units as much"
            ends = [float(end) / scale for end in re.findall(r"[-+]?[\d.]+(?:e[-+]\d+)?", interval)]
            family = [exact[name][value][f"family_{end}"] for end in ("low", "high")]
            assert ends == [pytest.approx(end, rel=0.06, abs=0.0006) for end in (*family, exact[name]["least"])]
            assert leg["verdict"] == "not shown" or family[0] > exact[name]["least"] >= max(sorted(matched)[: -(len(matched) + 1) // 20])
        assert claim["verdict"] == exact["verdict"]
        for leg in claim["legs"]:
            shown = float(re.findall(r"[-+]?[\d.]+", leg["value"])[-1]) / (100 if "%" in leg["value"] else 1)
            assert shown == pytest.approx(leg["exact"], rel=0.005, abs=0.005)


def test_the_excerpt_is_what_the_network_predicts(spelled):
    text = spelled.sidecar["summary"]["claims"][0]["text"]
    section = spelled.sections["verification"]["predictions"]["best"]
    at = text["start"] - section["start"]
    for name in ("tokens", "clean", "held", "clean_came", "held_came"):
        assert text[name] == section[name.replace("held", "ablated")][at : at + len(text["tokens"])]
    assert text["right"] == [sum(map(str.__eq__, section["tokens"], section[kind])) for kind in ("clean", "ablated")]
    assert text["of"] == len(section["tokens"])
    falls = [clean / held for clean, held in zip(text["clean_came"], text["held_came"], strict=True)]
    assert falls[text["costliest"]] == max(falls)


def test_what_the_first_screen_says_stands_in_the_sidecar(spelled):
    said, summary = shown(spelled.page), spelled.sidecar["summary"]
    assert parts(spelled.page) == set(PARTS)
    assert "2 claims tested, none verified" in said and "The best founded claim, and one as plausible that failed" in said
    for claim in summary["claims"]:
        for leg in claim["legs"]:
            assert leg["value"] in said and leg["control"] in said
    for one in summary["found"] + summary["missed"]:
        assert re.sub(r"\s+", " ", one["said"]) in said
    assert 'href="#verification"' in spelled.page


@pytest.mark.parametrize(
    "study, expected",
    [("make", {"found", "missed"}), ("unlabelled", {"found", "missed"}), ("rnn", {"missed"}), ("bare", {"found", "missed"})],
)
def test_without_claims_there_are_no_empty_boxes(report_of, study, expected):
    reported = report_of(study)
    assert parts(reported.page) == expected
    said, summary = shown(reported.page), reported.sidecar["summary"]
    assert summary["claims"] == [] and summary["tested"] is None and summary["tested_none"] == "no claim was tested"
    assert "tested, " not in said and "None" not in said and "best founded" not in said
    # Nothing is said that has no words, and no list is empty.
    assert all(one["said"].strip(". ") for one in summary["found"] + summary["missed"])
    ours = re.sub(r'<section id="viewer".*?</section>', "", reported.page, flags=re.DOTALL)
    assert not re.search(r"<(ul|h2|h3|p)\b[^>]*>\s*</\1>", ours)


def test_without_text_there_are_legs_and_no_strip(report_of):
    reported = report_of("secret", "--format", "html,json,svg,pdf,md", "--no-inputs")
    assert "strip" not in parts(reported.page) and "legs" in parts(reported.page)
    assert "At the marked place" not in reported.page
