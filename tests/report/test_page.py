"""The page and its sidecar: self-contained, safe with any text, and every number where it belongs."""

import re
from html.parser import HTMLParser

import pytest
from small_study import HOSTILE


@pytest.fixture(scope="module")
def report(report_of):
    return report_of("make").place


class Elements(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def page(report_of):
    return report_of("make").page


@pytest.fixture(scope="module")
def sidecar(report_of):
    return report_of("make").sidecar


def test_the_page_asks_nobody_for_anything(page):
    elements = Elements(page)
    # One script runs, ours; the others are data, which no browser runs.
    kinds = [script.get("type") for script in elements.all("script")]
    assert kinds.count(None) == 1 and set(kinds) == {None, "application/json", "text/plain"}
    assert not elements.all("iframe") and not elements.all("object")
    for tag, attributes in elements.found:
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith(("data:", "#")), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)
    (policy,) = [meta["content"] for meta in elements.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-") and "; script-src 'sha256-" in policy and "unsafe" not in policy


def test_hostile_text_is_text(page):
    assert HOSTILE not in page and "<script>window" not in page and "<img src=x" not in page and "onerror" in page


def test_every_figure_is_on_the_page_with_words_for_it(report, page):
    images = Elements(page).all("img")
    figures = sorted(path.stem for path in (report / "figures").glob("*.svg"))
    assert len(images) == len(figures) and all(re.search(r"\d|Histograms", image["alt"]) for image in images)
    for path in (report / "figures").iterdir():
        assert path.stat().st_size > 5_000


def test_it_has_one_main_one_heading_and_sections_that_can_be_linked(page):
    elements = Elements(page)
    assert len(elements.all("main")) == len(elements.all("h1")) == 1
    names = [section["id"] for section in elements.all("section")]
    assert names == [
        "summary",
        "viewer",
        "overview",
        "unit_text",
        "attribution",
        "probing",
        "verification",
        "ablation",
        "saturation",
        "timescale",
        "again",
    ]
    links = {link["href"] for link in elements.all("a")}
    units = {link for link in links if link.startswith("#layer=lstm.l")}
    assert units and links - units == {f"#{name}" for name in names}


def test_the_sidecar_says_where_it_all_comes_from(sidecar):
    assert sidecar["schema_version"] == 2 and sidecar["seed"] == 0 and sidecar["study"] == "small" and sidecar["device"] == "cpu"
    assert len(sidecar["model"]["sha256"]) == len(sidecar["inputs"]["sha256"]) == 64
    assert {"lstm_explain", "python", "torch", "numpy", "matplotlib"} <= set(sidecar["versions"])
    overview = sidecar["sections"]["overview"]
    assert overview["steps"] == 270 and overview["groups"] == 4 and overview["certificate"]["state"] == "certified"


def test_a_missing_value_is_null_with_its_reason(sidecar):
    def walk(value, path=()):
        if isinstance(value, dict):
            for key, item in value.items():
                if item is None and not key.endswith("_none"):
                    assert value.get(f"{key}_none"), (*path, key)
                walk(item, (*path, key))
            for key in [key for key in value if key.endswith("_none")]:
                assert key.removesuffix("_none") in value

    walk(sidecar["sections"])
