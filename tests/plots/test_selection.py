"""Selected units over their span, and the spans that match."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from mechanisms import blank

import lstm_explain as lx

TEXT = ["abcdefghijklmnop", "ABCDEFGHIJKLMNOP"]


@pytest.fixture(scope="module")
def recording():
    values = np.zeros((2, 16, 3))
    for sequence, start, stop in [(0, 4, 7), (0, 12, 14), (1, 2, 6)]:
        values[sequence, start:stop, 0], values[sequence, start:stop, 2] = 0.8, -0.6
    values[1, 10:12, 0] = 0.5
    with torch.no_grad(), lx.record(model := blank(1, 3), lengths=[16, 15]) as recording:
        model(torch.zeros(2, 16, 1, dtype=torch.float64))
    return {"l0": replace(recording["l0"], signals={"cell_state": torch.as_tensor(values)})}


@pytest.fixture(scope="module")
def selection(recording):
    return lx.select(recording, (0, 4, 7), around=3)


def axes():
    return Figure().add_subplot()


def test_units_are_lines_over_what_was_read(selection):
    ax = lx.plot(selection, axes(), tokens=TEXT[0])
    ax.figure.draw_without_rendering()
    for line, unit in zip(ax.lines, (0, 1), strict=False):
        np.testing.assert_array_equal(line.get_data(), [np.arange(1, 10), selection.values[unit]])
    # Both directions have their threshold.
    assert [line.get_ydata()[0] for line in ax.lines[2:]] == [-0.3, 0.3]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == [*"bcdefghij"]
    span = ax.patches[0].get_extents().transformed(ax.transData.inverted())
    assert (round(span.x0, 9), round(span.x1, 9)) == (3.5, 6.5)
    assert ax.get_title(loc="left").startswith("l0: 2 units on in the span and off around it; at random places ")
    assert "step of sequence 0" in lx.plot(selection, axes()).get_xlabel()


def test_many_units_have_no_legend_and_none_is_said(recording, selection):
    many = replace(selection, units=tuple(range(9)), values=np.zeros((9, 9)), signs=np.ones(9, dtype=int))
    assert lx.plot(many, axes()).get_legend() is None
    nothing = lx.plot(lx.select(recording, (0, 0, 16), draws=0), axes())
    assert "0 units on in the span and off around it: not controlled" in nothing.get_title(loc="left")


def test_matches_are_rows_with_their_span_in_a_box(recording, selection):
    result = lx.match(recording, selection, around=2)
    ax = lx.plot(result, axes(), tokens=TEXT)
    ax.figure.draw_without_rendering()
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["2 of 2   1, 2", "2 of 2   0, 12", "1 of 2   1, 10"]
    boxes = [(int(line.get_xdata()[0]), int(line.get_xdata()[1]), int(line.get_ydata()[0])) for line in ax.lines]
    assert boxes == [(2, 6, 0), (2, 4, 1), (2, 4, 2)]
    shown = ax.images[0].get_array().filled(np.nan)
    np.testing.assert_array_equal(shown[0], [0, 0, 1, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(shown[2, :6], [0, 0, 0.5, 0.5, 0, 0])
    lines = {}
    for text in ax.texts:
        lines.setdefault(int(text.get_position()[1]), []).append(text.get_text())
    assert "".join(lines[0]) == "ABCDEFGH" and "".join(lines[1]).strip() == "klmnop"
    assert "2 other spans have all 2 selected units; by chance" in ax.get_title(loc="left")
    assert len(lx.plot(result, axes(), count=1).get_yticklabels()) == 1


def test_what_does_not_fit_is_refused(recording, selection):
    result = lx.match(recording, selection, draws=0)
    assert "not controlled" in lx.plot(result, axes()).get_title(loc="left")
    for call, message in [
        (lambda: lx.plot(selection, axes(), tokens="abc"), "needed tokens for 10 steps, got 3"),
        (lambda: lx.plot(result, axes(), tokens=TEXT[:1]), "needed tokens= for .* steps of sequence 1, got fewer"),
        (lambda: lx.plot(result, axes(), tokens=["abc", "abc"]), "needed tokens= for .* steps of sequence 1, got fewer"),
        (lambda: lx.plot(result, axes(), count=0), "needed count from 1, got 0"),
        (lambda: lx.plot(lx.match(recording, selection, shortest=9), axes()), "needed at least one match, got none"),
    ]:
        with pytest.raises(lx.InputError, match=message):
            call()
