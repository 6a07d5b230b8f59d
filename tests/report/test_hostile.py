"""A study full of hostile texts: it runs nothing, breaks nothing, and every text shows as it is, or as its escape."""

import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import hostile_study
import pytest
from hostile_study import TEXTS
from safetensors.numpy import load_file

EVERY = "html,json,png,svg,pdf,md"
SHOWN = TEXTS | {
    "separators": r"line\u2028paragraph\u2029end",
    "nul": r"a\u0000b\u001b[31m\u007f",
    "surrogate": r"lone \ud800 half",
    "override": r"abc\u202egnirts\u202c",
    "unclosed": r"left \u202eopen",
    # What runs right to left is kept to itself, by two characters that nobody sees.
    "hebrew": "\u2068שלום\u2069 12",
}
"""How each stands on a page."""
JOINED = "".join(text for name, text in SHOWN.items() if name not in ("marks", "long"))


def named(function):
    return f"{Path(hostile_study.__file__)}:{function}"


@pytest.fixture(scope="module", params=["make", "series"])
def either(request, report_of):
    return report_of(named(request.param), "--format", EVERY)


@pytest.fixture(scope="module")
def reported(report_of):
    return report_of(named("make"), "--format", EVERY)


@pytest.fixture(scope="module")
def series(report_of):
    return report_of(named("series"), "--format", EVERY)


def test_the_report_is_written_without_a_warning(either):
    # A warning is an error in these tests, and an error a line and an exit code.
    assert (either.code, either.err) == (0, "")
    names = {path.name for path in either.place.iterdir()}
    assert names == {"index.html", "report.json", "report.md", "viewer.safetensors", "figures.pdf", "figures"}


def test_figures_are_well_formed(either):
    figures = sorted((either.place / "figures").glob("*.svg"))
    assert len(figures) >= 4
    for path in figures:
        ET.fromstring(path.read_bytes())


def test_the_sidecar_reads_back_every_text_as_it_was(reported, series):
    study, sidecar = hostile_study.make(), reported.sidecar
    assert sidecar["study"] == study.name and "\ud800" in study.name and "\x00" in study.name
    sections = sidecar["sections"]
    assert sections["overview"]["about"] == study.about
    assert list(sections["overview"]["layers"]) == [f"rooms.{study.name.replace('.', '')}.l0"]
    assert list(sections["probing"]["labels"]) == list(study.labels)
    assert list(sections["overview"]["loss_by_group"]) == study.groups
    start, shown = sections["unit_text"]["start"], sections["unit_text"]
    assert shown["text"] == "".join(study.tokens[shown["sequence"]][start:])
    assert series.sidecar["study"] == TEXTS["nul"]
    # A file's keys are UTF-8, which has no halves of surrogate pairs.
    names = [name for name in load_file(reported.place / "viewer.safetensors") if not name.startswith("piece_")]
    assert names and all(r"\ud800" in name for name in names)


class Seen(HTMLParser):
    """What a page's text would be, and its elements."""

    def __init__(self, page):
        super().__init__()
        self.tags = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


def test_the_page_has_no_element_or_handler_from_a_text(either):
    tags = Seen(either.page).tags
    assert {script.get("type") for tag, script in tags if tag == "script"} == {None, "application/json", "text/plain"}
    assert not [attributes for _, attributes in tags for name in attributes if name.startswith("on")]
    assert all(image["src"].startswith("data:image/") for tag, image in tags if tag == "img")


def test_markdown_has_no_live_html_and_no_link(either):
    text = (either.place / "report.md").read_text(encoding="utf-8")
    assert not re.search(r"<[A-Za-z/!?]", text)
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert links and all(re.fullmatch(r"figures/\w+\.(svg|png)", link) for link in links)
    # Some dialects make a link of an address.
    assert not re.search(r"(?i)https?://|www\.", text)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u2028-\u202e]", text)


TOLD = """
window.painted = new Set();
const paint = CanvasRenderingContext2D.prototype.fillText;
CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
  window.painted.add(text);
  return paint.call(this, text, ...rest);
};
"""
"""Keeps what is written on canvases."""


@pytest.fixture
def tab(opened, reported):
    return opened((reported.place / "index.html").as_uri(), before=TOLD)


def test_nothing_runs_and_every_element_is_the_pages_own(tab, reported):
    assert tab.evaluate("window.pwned") is None
    assert tab.evaluate("document.images.length") == len(list((reported.place / "figures").glob("*.svg")))
    assert tab.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 100)")
    assert tab.evaluate("document.querySelectorAll('img[src=x], pre *, option *, h1 *, output *, summary *').length") == 0


def test_every_text_shows_on_the_page(tab):
    assert tab.text_content("h1") == JOINED
    assert tab.title().startswith(JOINED[:60])
    what = tab.text_content(".what")
    assert what.removeprefix(JOINED).rstrip(".") == SHOWN["marks"]
    assert SHOWN["unclosed"] in tab.text_content(".data")
    cells = set(tab.locator("td, th").all_text_contents())
    shown = " ".join(cells)
    for label in (JOINED, SHOWN["long"], SHOWN["surrogate"] + SHOWN["nul"] + SHOWN["override"]):
        assert label in shown
    findings = " ".join(tab.locator(".finding").all_text_contents())
    assert JOINED in findings and "{{ 7 * 7 }}" in findings


def test_every_text_shows_in_the_viewer(tab):
    orders = tab.locator("#viewer-order option").all_text_contents()
    joined = JOINED.replace(SHOWN["hebrew"], TEXTS["hebrew"])
    labels = (joined, SHOWN["long"], SHOWN["surrogate"] + SHOWN["nul"] + SHOWN["override"])
    for label in labels:
        assert [one for one in orders if one.startswith(f"“{label}” by itself")]
        assert [term for term in tab.locator("#viewer-facts dt").all_text_contents() if term.startswith(f"“{label}”")]
    (layer,) = tab.locator("#viewer-layer option").all_text_contents()
    assert layer == f"rooms.{joined.replace('.', '')}.l0"
    # Where a text is a token, it is cut; as a group it isn't.
    painted = tab.evaluate("[...window.painted]")
    cut = {name: text if len(text) <= 40 else f"{text[:40]}…" for name, text in (SHOWN | {"hebrew": TEXTS["hebrew"]}).items()}
    assert {text for text in cut.values()} <= set(painted)
    assert [text for text in painted if re.match("sequence 0 of group ", text)] == [f"sequence 0 of group {SHOWN['script']}0, from step 0"]
    data = tab.evaluate("JSON.parse(document.getElementById('viewer-data').textContent)")
    places = [(piece["sequence"], step) for piece in data["pieces"] for step in range(piece["start"], piece["stop"])]
    for name, text in TEXTS.items():
        # A half of a pair has no way through the protocol that the test speaks with the browser.
        at = next(at for at, token in enumerate(data["tokens"]) if token == text or (name == "surrogate" and token.startswith("lone ")))
        sequence, step = places[at]
        tab.evaluate(f"location.hash = '#layer=0&unit=0&signal=cell_state&sequence={sequence}&step={step}'")
        tab.wait_for_function("(start) => document.getElementById('viewer-said').textContent.startsWith(start)", arg=f"“{cut[name]}” step")
    contexts = " ".join(tab.locator("#viewer-contexts-frame .context").all_text_contents())
    assert any(cut[name] in contexts for name in ("script", "image", "attribute"))
    assert tab.evaluate("window.pwned") is None


def test_names_of_features_are_texts(opened, series):
    tab = opened((series.place / "index.html").as_uri())
    joined = JOINED.replace(SHOWN["hebrew"], TEXTS["hebrew"])
    assert joined in tab.text_content("#viewer-said")
    assert [text for text in tab.locator("#viewer-key li").all_text_contents() if joined in text]
    assert tab.text_content("h1") == SHOWN["nul"] and tab.evaluate("window.pwned") is None


@pytest.mark.parametrize("function", ["make", "series"])
@pytest.mark.parametrize("width", [360, 768])
def test_no_text_makes_the_page_scroll_sideways(opened, report_of, function, width):
    place = report_of(named(function), "--format", EVERY).place
    tab = opened((place / "index.html").as_uri(), viewport={"width": width, "height": 740})
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    # Marks that climb over the lines around, or a name of several thousand letters, don't bury the page.
    assert tab.locator("h1").bounding_box()["height"] < 400


def test_the_island_reads_back_what_was_read(reported):
    (island,) = re.findall(r'<script type="application/json" id="viewer-data">(.*?)</script>', reported.page, re.DOTALL)
    assert "<" not in island and island.isascii()
    data, study = json.loads(island), hostile_study.make()
    assert data["tokens"] == [token for row in study.tokens for token in row]
    assert [piece["group"] for piece in data["pieces"]] == study.groups
