"""``--max-mb``: what a page may weigh, and what it leaves out for it."""

import base64
import re
from dataclasses import replace
from io import BytesIO

import pytest
import small_study
from PIL import Image as Pixels

import lstm_explain as lx
from lstm_explain.report.images import COLOURS, HEAVY, drawn, images


@pytest.fixture(scope="module")
def report():
    return lx.explain(small_study.make(), progress=False)


@pytest.fixture(scope="module")
def sizes(report, tmp_path_factory):
    """Pages of so many MB."""
    found = {}
    for most in (5, 1, 0.6, 0.3, 0.05):
        place = replace(report, max_mb=most).save(tmp_path_factory.mktemp("page") / "made", ("html", "json"))
        found[most] = place.read_bytes()
    return found


def tables(page):
    """Without their links, of which there are as many as units in the viewer."""
    return re.findall(r"<table>.*?</table>", re.sub(r"</?a\b[^>]*>", "", page.decode()), re.DOTALL)


def test_a_page_is_no_larger_than_it_may_be(sizes):
    assert {most: len(page) <= most * 1e6 for most, page in sizes.items()} == {5: True, 1: True, 0.6: True, 0.3: True, 0.05: False}
    assert all(len(page) > 0.88 * most * 1e6 for most, page in sizes.items() if most <= 1)
    # Texts and tables aren't cut.
    assert len(sizes[0.05]) < 0.14e6 and tables(sizes[0.05]) == tables(sizes[5])


def test_its_figures_are_coarser_first_and_what_is_left_out_is_said(sizes, report):
    pictures = [picture for section in report.sections for picture in section.pictures]
    for most, page in sizes.items():
        text = page.decode()
        kinds = re.findall(r'<img src="data:image/([a-z]+)', text)
        said = text.count("This figure is left out: a larger page, by --max-mb, has it.")
        assert len(kinds) + said == len(pictures)
        assert {5: {"svg"}, 1: {"svg", "png"}, 0.6: {"svg", "png"}, 0.3: {"png"}, 0.05: set()}[most] == set(kinds)
        assert (said > 0) == (most < 0.6)
        assert all(picture.name in text or picture.alt[:20] in text for picture in pictures)


def test_what_it_says_that_it_holds_is_what_it_holds(sizes):
    for page in sizes.values():
        text = page.decode()
        steps = int(re.search(r"(\d+) tokens? in the viewer", text)[1])
        assert f"Here are {'all ' if steps == 270 else ''}{steps}" in text
    assert "270 tokens in the viewer" in sizes[5].decode() and "No unit’s contexts are in it" not in sizes[5].decode()
    assert "; 1 token in the viewer" in sizes[0.05].decode() and "No unit’s contexts are in it" in sizes[0.05].decode()


def test_each_figure_becomes_lighter_the_largest_first(report):
    pictures = [picture for section in report.sections for picture in section.pictures]
    files = {(picture.name, kind): drawn(picture, kind) for picture in pictures for kind in ("svg", "png")}
    whole = sum(image.size for image in images(pictures, files, 10**9).values())
    before = images(pictures, files, 10**9)
    assert all(image.kind == "svg" and len(image.drawn) <= HEAVY for image in before.values())
    for room in range(whole, 0, -whole // 12):
        found = images(pictures, files, room)
        assert sum(image.size for image in found.values()) <= room
        assert all(image.size <= before[name].size for name, image in found.items())
        before = found
    assert {image.kind for image in images(pictures, files, 0).values()} == {""}


def test_a_light_figure_has_few_colours_and_can_be_read(sizes):
    shown = re.findall(r'<img src="data:image/png;base64,([^"]+)"', sizes[0.6].decode())
    assert shown
    for one in shown:
        with Pixels.open(BytesIO(base64.b64decode(one))) as image:
            assert image.width >= 250 and (image.mode != "P" or len(image.getcolors()) <= COLOURS)


def test_the_same_room_gives_the_same_bytes(report, sizes, tmp_path):
    again = replace(report, max_mb=0.6).save(tmp_path / "again", ("html", "json"))
    assert again.read_bytes() == sizes[0.6]


def test_a_heavy_figure_is_pixels_where_these_are_lighter(report):
    picture = report.sections[-1].pictures[0]
    png, name = drawn(picture, "png"), picture.name
    for svg, expected in ((b"x" * HEAVY, "svg"), (b"x" * (HEAVY + 1), "png")):
        assert images([picture], {(name, "svg"): svg, (name, "png"): png}, 10**9)[name].kind == expected
    assert images([picture], {(name, "svg"): b"x" * (HEAVY + 1), (name, "png"): png * 100}, 10**9)[name].kind == "svg"
