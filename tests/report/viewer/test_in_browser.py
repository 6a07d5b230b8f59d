"""The viewer in a real browser: its read-outs are the network's numbers, by pointer, by keys and by link."""

import re
import time
from dataclasses import replace
from html import escape

import numpy as np
import pytest
import small_study
import torch
from safetensors.numpy import load_file

import lstm_explain as lx
from lstm_explain.report.page import page
from lstm_explain.report.viewer import painted
from lstm_explain.report.viewer.markup import part
from lstm_explain.report.viewer.packed import packed
from lstm_explain.report.viewer.pieces import Piece
from lstm_explain.report.viewer.view import Seen, View


@pytest.fixture(scope="module")
def address(report_of):
    return (report_of("make").place / "index.html").as_uri()


@pytest.fixture(scope="module")
def recording():
    study = small_study.make()
    with torch.no_grad(), lx.record(study.model, lengths=study.lengths) as recording:
        study.model(study.inputs)
    return recording


LENGTHS = [40, 33, 40, 12, 40, 40, 25, 40]


def place(step):
    for sequence, length in enumerate(LENGTHS):
        if step < length:
            return sequence, step
        step -= length
    raise AssertionError


def linked(step):
    """Where a step of all data is, as a link says it."""
    return "sequence={}&step={}".format(*place(step))


def said(tab):
    return tab.inner_text("#viewer-said")


def close(shown, exact, size):
    """Within half of one of 254 levels, and three digits."""
    return abs(shown - exact) <= size / 254 + 0.006 * abs(exact) + 1e-9


@pytest.mark.parametrize(
    "layer, unit, signal, step",
    [(0, 0, "cell_state", 0), (1, 3, "forget_gate", 100), (0, 4, "hidden_state", 269), (1, 2, "cell_candidate", 73)],
)
def test_a_link_restores_the_view_and_the_read_out_is_what_was_recorded(opened, address, recording, layer, unit, signal, step):
    tab = opened(f"{address}#layer={layer}&unit={unit}&signal={signal}&{linked(step)}")
    sequence, own = place(step)
    values = recording[f"lstm.l{layer}"].signal(signal)[sequence, own].numpy()
    found = re.fullmatch(
        rf"(?s)“.*” step {own} of sequence {sequence}: {signal.replace('_', ' ')} of unit {unit}, lstm\.l{layer}: (\S+), rank (\d) of 5",
        said(tab),
    )
    assert found, said(tab)
    assert close(float(found[1]), values[unit], 2 * np.abs(recording[f"lstm.l{layer}"].signal(signal).numpy()).max())
    assert int(found[2]) == 1 + (values > values[unit]).sum()
    assert tab.input_value("#viewer-layer") == str(layer) and tab.input_value("#viewer-signal") == signal
    # A link that is followed within the page, and one that is made by choosing.
    tab.evaluate("location.hash = '#layer=lstm.l1&unit=4&signal=output_gate&sequence=0&step=5'")
    tab.wait_for_selector("#viewer-said:has-text('output gate of unit 4, lstm.l1')")
    tab.select_option("#viewer-signal", "input_gate")
    tab.wait_for_selector("#viewer-said:has-text('input gate of unit 4, lstm.l1')")
    assert tab.evaluate("location.hash") == "#layer=lstm.l1&unit=4&signal=input_gate&sequence=0&step=5"
    again = tab.url
    tab.goto("about:blank")
    tab.goto(again)
    tab.wait_for_selector("#viewer[data-ready]")
    assert "step 5 of sequence 0: input gate of unit 4, lstm.l1" in said(tab)


def test_keys_move_and_choose(opened, address):
    tab = opened(f"{address}#layer=0&unit=1&signal=cell_state&sequence=1&step=0")
    tab.focus("#viewer-frame")
    for key, expected in [
        ("ArrowRight", "step 1 of sequence 1: cell state of unit 1"),
        ("ArrowLeft", "step 0 of sequence 1"),
        ("ArrowLeft", "step 39 of sequence 0"),
        ("ArrowDown", "step 32 of sequence 1"),
        ("ArrowDown", "step 32 of sequence 2"),
        ("Home", "step 0 of sequence 2"),
        ("ArrowUp", "step 0 of sequence 1"),
        ("End", "step 32 of sequence 1"),
        (".", "hidden state of unit 1"),
        (".", "input gate of unit 1"),
        (",", "hidden state of unit 1"),
    ]:
        tab.keyboard.press(key)
        tab.wait_for_selector(f"#viewer-said:has-text('{expected}')", timeout=3000)
    units = [option for option in tab.locator("#viewer-units option").all_inner_texts()]
    here = units.index("unit 1")
    tab.keyboard.press("]" if here < 4 else "[")
    tab.wait_for_selector(f"#viewer-said:has-text('{units[here + 1 if here < 4 else here - 1]},')", timeout=3000)


def test_the_pointer_reads_out(opened, address):
    tab = opened(f"{address}#layer=0&unit=1&signal=cell_state&sequence=1&step=0")
    box = tab.locator("#viewer-frame").bounding_box()
    tab.mouse.move(box["x"] + 12, box["y"] + 26 + 10)
    tab.wait_for_selector("#viewer-said:has-text('step 0 of sequence 0')", timeout=3000)
    tab.mouse.move(box["x"] + 12, box["y"] + 26 + 24 + 26 + 10)
    tab.wait_for_selector("#viewer-said:has-text('step 0 of sequence 1')", timeout=3000)


def selected(recording, layer, signal, span, threshold=0.3):
    return lx.select(recording, span, layer=layer, signal=signal, threshold=threshold, draws=1)


@pytest.mark.parametrize("signal, threshold", [("cell_state", 0.05), ("hidden_state", 0.05), ("forget_gate", 0.6)])
def test_a_span_has_the_units_and_the_matches_that_the_functions_find(opened, address, recording, signal, threshold):
    values = recording["lstm.l1"].signal(signal).numpy()
    # A span that is the run of some unit, away from rounding by bytes: all of sequence 0's runs are tried.
    unit, start, stop = next(
        (unit, start, stop)
        for unit in range(5)
        for start in range(2, 30)
        for stop in range(start + 2, 36)
        if (values[0, start:stop, unit] >= threshold).all() and values[0, start - 1, unit] < threshold and values[0, stop, unit] < threshold
    )
    chosen = selected(recording, "lstm.l1", signal, (0, start, stop), threshold)
    assert unit in chosen.units
    tab = opened(f"{address}#layer=1&unit={unit}&signal={signal}&sequence=0&step={start}")
    tab.fill("#viewer-threshold", str(threshold), force=True) if tab.is_visible("#viewer-threshold") else tab.evaluate(
        f"document.getElementById('viewer-threshold').value = {threshold}"
    )
    tab.focus("#viewer-frame")
    for _ in range(stop - start - 1):
        tab.keyboard.press("Shift+ArrowRight")
    tab.wait_for_selector(f"#viewer-selected:has-text('Steps {start} to {stop - 1} of sequence 0')", timeout=3000)
    text = tab.inner_text("#viewer-selected")
    signed = [f"{unit}" if sign > 0 else f"{unit} (low)" for unit, sign in zip(chosen.units, chosen.signs, strict=True)]
    assert f"{len(signed)} of 5 units are on throughout and off just before and after: {', '.join(signed)}." in text
    found = lx.match(recording, chosen, draws=1)
    assert f"{found.complete} other spans have all of them, {int(found.found.sum())} have some." in text
    first = found.matches[0]
    shown = tab.locator("#viewer-matches button").first
    assert shown.inner_text().startswith(
        f"sequence {first.sequence}, steps {first.start} to {first.stop - 1}: {first.matched} of {len(signed)}"
    )
    shown.click()
    tab.wait_for_selector(f"#viewer-said:has-text('step {first.start} of sequence {first.sequence}')", timeout=3000)
    tab.focus("#viewer-frame")
    tab.keyboard.press("Escape")
    tab.wait_for_selector("#viewer-span-frame", state="hidden", timeout=3000)


def test_units_are_put_in_order_found_and_picked(opened, address, report_of):
    tab = opened(f"{address}#layer=0&unit=1&signal=cell_state")
    half = np.array(report_of("make").sections["timescale"]["layers"]["lstm.l0"]["half_life"])
    tab.select_option("#viewer-order", "half-life, steps, at most 32")
    listed = [int(re.match(r"unit (\d)", text)[1]) for text in tab.locator("#viewer-units option").all_inner_texts()]
    assert listed == np.argsort(-half, kind="stable").tolist()
    tab.fill("#viewer-search", "3")
    assert [text.partition(" ·")[0] for text in tab.locator("#viewer-units option").all_inner_texts()] == ["unit 3"]
    tab.select_option("#viewer-units", "3")
    tab.wait_for_selector("#viewer-said:has-text('cell state of unit 3')", timeout=3000)
    # The nearest to a corner of the scatter.
    saturation = report_of("make").sections["saturation"]["layers"]["lstm.l0"]
    left, right = (np.array(saturation[side])[saturation["gates"].index("forget_gate"), 0] for side in ("left", "right"))
    tab.locator("#viewer-scatter").click(position={"x": 191, "y": 9})
    nearest = np.hypot(left - 1, right - 1).argmin()
    tab.wait_for_selector(f"#viewer-said:has-text('cell state of unit {nearest}')", timeout=3000)


def test_a_row_of_the_probe_table_picks_its_unit(opened, address):
    tab = opened(address)
    row = tab.locator("#probing tbody tr").first
    named = row.locator("td").nth(9).inner_text()
    layer, unit = re.search(r"\((\S+) (\d+)", named).groups()
    row.locator("a").click()
    tab.wait_for_selector(f"#viewer-said:has-text('cell state of unit {unit}, {layer}')", timeout=3000)
    assert tab.evaluate("document.getElementById('viewer').getBoundingClientRect().top") < 50


def test_contexts_stand_beside_the_unit(opened, address, recording):
    tab = opened(f"{address}#layer=0&unit=2&signal=cell_state")
    found = lx.contexts(recording, small_study.make().tokens, count=4, before=24, after=8).layers["lstm.l0"]
    assert "of unit 2 is furthest" in tab.inner_text("#viewer-contexts-title")
    for kind in ("top", "bottom"):
        best = found.of(2, kind)
        shown = tab.locator(f"#viewer-{kind} li p:first-child").all_inner_texts()
        assert [text.split(" at ")[1] for text in shown] == [f"step {one.step} of sequence {one.sequence}" for one in best]
    tab.locator("#viewer-bottom button").first.click()
    tab.wait_for_selector(f"#viewer-said:has-text('step {best[0].step} of sequence {best[0].sequence}')", timeout=3000)


@pytest.mark.parametrize(("sequence", "step"), [(0, 0), (0, 39), (3, 7)])
def test_what_an_output_hangs_on_is_painted(opened, address, report_of, sequence, step):
    tab = opened(f"{address}#layer=0&unit=2&signal=cell_state&sequence={sequence}&step={step}")
    before = tab.locator("#viewer-canvas").screenshot()
    tab.check("#viewer-why")
    tab.wait_for_selector("#viewer-said:has-text('; output 3 at each step: ')", timeout=3000)
    number = r"(-?[\d.e-]+)"
    found = re.search(rf"each step: {number}, largest contribution {number} by “.*” step (\d+), left over {number}$", said(tab))
    exact = load_file(report_of("make").place / "viewer.safetensors")
    each = exact[f"piece_{sequence}.contributions"][step]
    strongest = int(np.abs(each).argmax())
    assert int(found[3]) == strongest
    for shown, name in ((found[1], "output"), (found[4], "residual")):
        np.testing.assert_allclose(float(shown), exact[f"piece_{sequence}.{name}"][step], rtol=0.06 if name == "residual" else 0.006)
    np.testing.assert_allclose(float(found[2]), each[strongest], rtol=0.006)
    assert tab.locator("#viewer-canvas").screenshot() != before and tab.inner_text("#viewer-high") == "raises it most"


def test_of_long_data_each_output_hangs_on_the_steps_near_it_and_beyond_what_was_asked_on_nothing(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(painted, "BLOCK", 8)
    study = small_study.make()
    report = lx.explain(study, progress=False)
    why = report.view.why._replace(parts=report.view.why.parts[:2])
    place = replace(report, view=replace(report.view, why=why)).save(tmp_path / "page", "html")
    for step in (39, 70):
        tab = opened(f"{place.as_uri()}#layer=0&unit=2&signal=cell_state&{linked(step)}")
        tab.check("#viewer-why")
        tab.wait_for_selector("#viewer-said:has-text('left over')", timeout=3000)
        each = why.parts[step // 40].contributions[step % 40]
        found = re.search(r"largest contribution (\S+) by “.*” step (\d+), left over", said(tab))
        assert np.isnan(each[:16]).all() and int(found[2]) == np.nanargmax(np.abs(each))
        np.testing.assert_allclose(float(found[1]), each[int(found[2])], rtol=0.006)
    tab.focus("#viewer-frame")
    for _ in range(3):
        tab.keyboard.press("ArrowRight")
    tab.wait_for_selector("#viewer-said:has-text('was not computed here')", timeout=3000)


def test_a_unit_that_is_not_in_the_page_is_said_so(opened, address):
    tab = opened(f"{address}#layer=0&unit=99&signal=cell_state")
    assert tab.inner_text("#viewer-missing") == "Unit 99 of lstm.l0 isn’t in this page."
    tab = opened(f"{address}#layer=rnn.l7&unit=0")
    assert tab.inner_text("#viewer-missing") == "Layer rnn.l7 isn’t in this page."


def test_a_step_that_is_not_in_the_page_is_said_so_and_the_rest_of_the_link_holds(opened, address):
    for wrong in ("sequence=3&step=12", "sequence=8&step=0", "sequence=0&step=x"):
        tab = opened(f"{address}#layer=1&unit=3&signal=output_gate&{wrong}")
        sequence, step = re.findall(r"=(\w+)", wrong)
        assert tab.inner_text("#viewer-missing") == f"Step {step} of sequence {sequence} isn’t in this page."
        assert "output gate of unit 3, lstm.l1" in said(tab)
    tab.evaluate("location.hash = '#layer=0&unit=2&sequence=1&step=33'")
    tab.wait_for_selector("#viewer-missing:has-text('Step 33 of sequence 1')", timeout=3000)


def test_a_span_ends_with_its_sequence_and_a_link_restores_it(opened, address):
    tab = opened(f"{address}#layer=0&unit=1&signal=cell_state&sequence=1&step=30")
    tab.focus("#viewer-frame")
    for _ in range(5):
        tab.keyboard.press("Shift+ArrowRight")
    tab.wait_for_selector("#viewer-selected:has-text('Steps 30 to 32 of sequence 1')", timeout=3000)
    assert tab.evaluate("location.hash") == "#layer=lstm.l0&unit=1&signal=cell_state&sequence=1&step=32&span=30-33"
    again = opened(tab.url)
    again.wait_for_selector("#viewer-selected:has-text('Steps 30 to 32 of sequence 1')", timeout=3000)
    assert "step 32 of sequence 1" in said(again)


def test_hostile_text_is_shown_and_does_nothing(opened, address, recording):
    found = lx.contexts(recording, small_study.make().tokens, count=4, before=24, after=8).layers["lstm.l1"]
    unit = next(unit for unit in found.units if any(small_study.HOSTILE in one.read for one in found.of(unit)))
    tab = opened(f"{address}#layer=1&unit={unit}&signal=cell_state")
    assert "</script>" in tab.inner_text("#viewer-contexts-frame")
    assert tab.evaluate("[window.pwned ?? null, document.querySelectorAll('#viewer :is(img, script:not([type]))').length]") == [None, 0]
    tab.click("#viewer-text-frame summary")
    assert small_study.HOSTILE in tab.evaluate("document.getElementById('viewer-text').textContent")


@pytest.mark.parametrize(
    "options", [{"color_scheme": "dark"}, {"viewport": {"width": 360, "height": 740}}, {"viewport": {"width": 1280, "height": 900}}]
)
def test_it_fits_in_any_window(opened, address, options):
    tab = opened(address, **options)
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    width = tab.evaluate("document.getElementById('viewer-canvas').clientWidth")
    assert 200 < width <= tab.evaluate("document.getElementById('viewer-frame').clientWidth")


def test_in_a_notebooks_frame_it_runs_without_an_origin(opened, browser, tmp_path):
    report = lx.explain(small_study.bare(), progress=False)
    around = tmp_path / "notebook.html"
    around.write_text(f"<!doctype html><div id=viewer data-ready=true>{report.viewer()._repr_html_()}</div>", encoding="utf-8")
    tab = opened(around.as_uri())
    frame = tab.frames[1]
    frame.wait_for_selector("#viewer[data-ready]")
    assert "cell state of unit" in frame.inner_text("#viewer-said") and frame.evaluate("origin") == "null"
    frame.focus("#viewer-frame")
    frame.press("#viewer-frame", "ArrowRight")
    frame.wait_for_selector("#viewer-said:has-text('step 1 of sequence 0')", timeout=3000)


def test_series_are_lines_with_their_numbers(opened, report_of):
    tab = opened((report_of("bare").place / "index.html").as_uri() + "#layer=0&unit=2&signal=cell_state&sequence=1&step=1")
    inputs = small_study.bare().inputs[1, 1]
    shown = [float(n) for n in re.search(r"step 1 of sequence 1, feature 0 (\S+), feature 1 (\S+):", said(tab)).groups()]
    np.testing.assert_allclose(shown, inputs.numpy(), rtol=0.006, atol=0)


def large(steps, units):
    """A view as large as a page may be."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(units, steps)).astype(np.float32)
    tokens = tuple("abcdefgh ij\n"[n] for n in rng.integers(12, size=steps))
    ranked = tuple(("l0", unit) for unit in range(units))
    return View(
        (Piece(0, "", 0, steps),), tokens, None, (), {"l0": Seen("lstm", "cell_state", {"cell_state": values})}, ranked, (), None, steps
    )


@pytest.mark.long
def test_a_hundred_thousand_characters_are_switched_in_a_moment(opened, tmp_path, capsys):
    shown = large(100_000, 64)
    small = small_study.bare()
    report = lx.explain(small, progress=False)
    made = packed(shown, 10**9)
    text = page(replace(report, sections=()), {}, part(made), ["html"])
    place = tmp_path / "large.html"
    place.write_text(text, encoding="utf-8")
    began = time.perf_counter()
    tab = opened(place.as_uri())
    ready = time.perf_counter() - began
    switch = tab.evaluate(
        """async () => {
        const units = document.getElementById("viewer-units"), taken = [];
        for (const unit of [5, 40, 11, 63, 2, 30, 17]) {
          const began = performance.now();
          units.value = String(unit);
          units.dispatchEvent(new Event("change"));
          await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
          taken.push(performance.now() - began);
        }
        return taken.sort((one, other) => one - other);
        }"""
    )
    with capsys.disabled():
        print(f"\n100,000 characters, 64 units: {len(text) / 1e6:.1f} MB, ready in {ready:.2f} s, unit switch {switch[3]:.0f} ms")
    # A busy machine is slow; ten times the goals is a defect on any.
    assert ready < 15 and switch[3] < 500
    assert escape("cell state of unit 17") in said(tab)
