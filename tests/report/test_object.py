"""A report as an object: every result, a table for a notebook, and a page when it is asked for."""

import re

import pytest
import small_study

import lstm_explain as lx


@pytest.fixture(scope="module")
def report():
    return lx.explain(small_study.make(), progress=False)


def test_it_has_every_result_that_its_sections_are_made_from(report):
    kinds = {name: {key: type(one).__name__ for key, one in results.items()} for name, results in report.results.items()}
    assert kinds == {
        "overview": {"certificate": "Certificate", "coverage": "Coverage"},
        "unit_text": {"unit_text": "UnitTextResult"},
        "attribution": {"places": "tuple", "comparison": "ComparisonResult", "faithfulness": "dict"},
        "probing": {"probing": "ProbingResult"},
        "verification": {},
        "ablation": {"ablation": "dict"},
        "saturation": {"saturation": "SaturationResult"},
        "timescale": {"timescale": "TimescaleResult"},
    }
    places = report.results["attribution"]["places"]
    assert len(places) == len(report.study.places) and {type(one).__name__ for one in places} == {"AttributionResult"}
    assert list(report.results["ablation"]["ablation"]) == ["lstm.l0"]


def test_a_result_is_the_one_whose_numbers_are_shown(report):
    saturation = report.results["saturation"]["saturation"]
    shown = report.facts["sections"]["saturation"]["units_saturated_more_than_half"]
    assert saturation.units_saturated("left")[0] == shown[saturation.keeps]["left"]
    probing = report.results["probing"]["probing"]
    assert set(probing.labels) == set(report.facts["sections"]["probing"]["labels"])


def test_a_notebook_shows_its_findings_as_text(report):
    shown = report._repr_html_()
    assert len(shown) < 200_000 and "report.save(" in shown
    assert set(re.findall(r"<\s*/?\s*(\w+)", shown)) == {"table", "caption", "thead", "tbody", "tr", "th", "td", "p", "code"}
    assert small_study.HOSTILE not in shown and "&lt;script&gt;window.pwned=1" in shown
    assert all(section.title in shown for section in report.sections)


def test_a_finding_of_any_length_is_cut_for_a_notebook():
    study = lx.Study(**vars(small_study.bare()) | {"name": "<b>" * 50_000, "about": {"what": "é<i>" * 100_000}})
    shown = lx.explain(study, progress=False)._repr_html_()
    assert len(shown) < 200_000 and "<b>" not in shown and "<i>" not in shown


def test_it_is_saved_where_nothing_is(report, tmp_path):
    assert report.save(tmp_path / "mine") == tmp_path / "mine" / "index.html"
    with pytest.raises(lx.OutputError, match="needed a directory that is new or empty"):
        report.save(tmp_path / "mine")
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(lx.OutputError, match="can't write to"):
        report.save(tmp_path / "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "mine"]
