"""``--no-inputs``: nothing of what was read is in anything that is written, and a page says what data it holds."""

import base64
import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
import small_study
from matplotlib.text import Text
from safetensors.numpy import load_file

import lstm_explain as lx
from lstm_explain.report.private import without_inputs

EVERY = ("--format", "html,json,svg,pdf,md")
TOKEN, VALUE = "zyzzyva", "7.12345"


def texts(place):
    """All that can be read of a report as text, what is packed in the page too; with each figure's own source."""
    made = {path.relative_to(place).as_posix(): path.read_bytes() for path in Path(place).rglob("*") if path.is_file()}
    page = made["index.html"].decode()
    for at, packed in enumerate(re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)):
        made[f"picture {at}"] = base64.b64decode(packed)
    for at, packed in enumerate(re.findall(r'<script type="text/plain"[^>]*>([^<]+)<', page)):
        made[f"block {at}"] = gzip.decompress(base64.b64decode(packed))
    return made


def holding(place, what):
    return {name for name, made in texts(place).items() if what.encode() in made}


@pytest.mark.parametrize("study, what", [("secret", TOKEN), ("secret_series", VALUE)])
def test_what_was_read_is_in_a_usual_report_and_nowhere_in_one_without(report_of, study, what):
    usual, without = report_of(study, *EVERY), report_of(study, *EVERY, "--no-inputs")
    assert (usual.code, without.code, without.err) == (0, 0, "")
    assert "index.html" in holding(usual.place, what)
    assert holding(without.place, what) == set()
    assert {path.name for path in without.place.iterdir()} == {path.name for path in usual.place.iterdir()}


def test_tokens_are_in_no_excerpt_either(report_of):
    usual, without = (report_of("secret", *EVERY, *more) for more in ((), ("--no-inputs",)))
    assert holding(usual.place, TOKEN) >= {"index.html", "report.json", "report.md"}
    assert without.sidecar["summary"]["claims"][0]["text"] is None and without.sidecar["summary"]["claims"][0]["legs"]
    island = json.loads(re.search(r'id="viewer-data">(.*?)</script>', without.page, re.DOTALL)[1])
    assert island["tokens"] is island["series"] is island["why"] is None
    assert all(layer["contexts"] is None for layer in island["layers"])
    assert without.sidecar["inputs"] | {"shape": 0} == {
        "shape": 0, "sha256": None, "sha256_none": "inputs are kept out of this report", "shown": False,
    }  # fmt: skip


def test_a_study_without_inputs_has_no_text_of_them():
    study = without_inputs(small_study.secret())
    assert TOKEN not in repr((study.tokens, study.next_tokens, study.places))
    assert study.next_tokens == ["class 0", "class 1", "class 2"] and study.places[0].what == "step 6 of sequence 1"


def drawn(report):
    """All texts of all figures, one after the other: their files have text as outlines."""
    figures = [picture.figure for section in report.sections for picture in section.pictures]
    return "".join(text.get_text() for figure in figures for text in figure.findobj(Text))


def test_no_figure_draws_a_token():
    made = [lx.explain(small_study.secret(), progress=False, inputs=inputs) for inputs in (True, False)]
    assert [TOKEN in drawn(report) for report in made] == [True, False]


def test_values_beside_the_page_are_the_units_own(report_of):
    exact = load_file(report_of("secret_series", *EVERY, "--no-inputs").place / "viewer.safetensors")
    assert exact and not any(np.isclose(values, 7.1234567).any() for values in exact.values())


@pytest.mark.parametrize("study", ["secret", "secret_series", "spelled"])
def test_the_page_says_what_data_it_holds(report_of, study):
    usual, without = (report_of(study, *EVERY, *more) for more in ((), ("--no-inputs",)))
    held = usual.sidecar["summary"]["holds"]
    assert held.startswith("Of what was read it holds ") and "in the viewer" in held
    kept = without.sidecar["summary"]["holds"]
    assert kept.startswith("It holds no input values, tokens or contexts: these were kept out.")
    for reported, said in ((usual, held), (without, kept)):
        # At the head of the page, and where it says how to get it again.
        assert reported.page.count(said) == 2
        assert ("--no-inputs</code>" in reported.page) == (reported is without)
