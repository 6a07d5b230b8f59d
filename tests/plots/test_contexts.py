"""Contexts as rows of text, or as small lines."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from mechanisms import blank

import lstm_explain as lx

TEXT = ["ab\ncd$fghijkl", "mnopqrstuvwxy"]


def of(values):
    """A recording of one layer whose cell state is what is given, ``(batch, time, unit)``."""
    zeros = torch.zeros(*values.shape[:2], 1, dtype=torch.float64)
    with torch.no_grad(), lx.record(model := blank(1, values.shape[2]), lengths=[values.shape[1]] * len(values)) as recording:
        model(zeros)
    return {"l0": replace(recording["l0"], signals={"cell_state": torch.as_tensor(values)})}


@pytest.fixture
def values():
    values = np.random.default_rng(0).normal(size=(2, 13, 2))
    values[0, 2, 1], values[1, 9, 1], values[1, 0, 1] = 9.0, 7.0, -12.0
    return values


@pytest.fixture
def result(values):
    return lx.contexts(of(values), TEXT, names=["first", "second"], count=2, before=4, after=2)


def axes():
    return Figure().add_subplot()


def grid(ax):
    """The characters that are drawn, line by line, and their boxes."""
    lines = {}
    for text in ax.texts:
        column, line = text.get_position()
        lines.setdefault(int(line), {})[int(column)] = text.get_text()
    return ["".join(cells[k] for k in sorted(cells)) for _, cells in sorted(lines.items())]


def boxes(ax):
    return [(int(line.get_xdata()[0]), int(line.get_xdata()[1]), int(line.get_ydata()[0])) for line in ax.lines]


def test_places_stand_below_each_other_in_boxes(result, values):
    ax = lx.plot(result, axes(), unit=1)
    ax.figure.draw_without_rendering()
    # A line's end is shown, and doesn't end the row.
    assert grid(ax) == ["  ab↵cd", "rstuvwx"] and boxes(ax) == [(4, 5, 0), (4, 5, 1)]
    shown = ax.images[0].get_array()
    np.testing.assert_array_equal(shown[0, 2:7].filled(np.nan), values[0, :5, 1])
    np.testing.assert_array_equal(shown[1].filled(np.nan), values[1, 5:12, 1])
    assert shown.mask[0, :2].all() and [tick.get_text() for tick in ax.get_yticklabels()] == ["9.00   first, 2", "7.00   second, 9"]
    assert ax.get_title(loc="left").startswith("l0 unit 1: its highest contexts by cell state in 26 steps (mean ")


def test_all_kinds_are_on_the_same_colours(result):
    assert len({lx.plot(result, axes(), unit=1, kind=kind).images[0].get_clim() for kind in ("top", "bottom", "average")}) == 1
    assert lx.plot(result, axes(), unit=1, kind="average").images[0].get_clim() == (-12.0, 12.0)
    bottom = lx.plot(result, axes(), unit=1, kind="bottom")
    assert bottom.get_yticklabels()[0].get_text() == "-12.00   second, 0" and grid(bottom)[0].strip() == "mno"


def test_what_does_not_fit_is_cut_off(result):
    ax = lx.plot(result, axes(), unit=1, columns=3)
    assert grid(ax) == ["ab↵", "tuv"] and boxes(ax) == [(2, 3, 0), (2, 3, 1)]


def test_words_are_boxed_whole():
    values = np.zeros((1, 3, 1))
    values[0, 1] = 1
    ax = lx.plot(lx.contexts(of(values), [["one ", "two", " three"]], count=1), axes())
    assert grid(ax) == ["one two three"] and boxes(ax) == [(4, 7, 0)]


def test_gates_have_their_own_scale(values):
    trajectory = of(values)["l0"]
    recording = {"l0": replace(trajectory, signals={"forget_gate": torch.as_tensor(values).sigmoid()})}
    ax = lx.plot(lx.contexts(recording, TEXT, signal="forget_gate"), axes())
    assert ax.images[0].get_clim() == (0, 1) and ax.images[0].get_cmap().name == "viridis"


def test_numbers_are_small_lines_around_the_place(values):
    inputs = torch.arange(52.0).view(2, 13, 2)
    result = lx.contexts(of(values), inputs, count=2, before=4, after=2)
    ax = lx.plot(result, axes(), unit=1, feature=1)
    ax.figure.draw_without_rendering()
    lines = [line.get_data() for line in ax.lines[:2]]
    assert [np.isfinite(heights).tolist() for _, heights in lines] == [[False] * 2 + [True] * 5, [True] * 7]
    assert lines[0][0].tolist() == list(range(-4, 3)) and (np.diff(lines[1][1]) < 0).all()  # rising, in a picture whose rows go down
    np.testing.assert_array_equal(ax.collections[1].get_array(), values[1, 5:12, 1])
    assert "feature 1" in ax.get_xlabel() and ax.get_yticklabels()[0].get_text().startswith("9.00   0, 2")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"kind": "best"}, "needed kind as one of top, bottom, average, got 'best'"),
        ({"layer": "l1"}, "needed layer as one of l0, got 'l1'"),
        ({"unit": 2}, "needed unit as one of 0, 1, got 2"),
    ],
)
def test_what_is_not_there_is_refused(result, options, message):
    with pytest.raises(lx.InputError, match=message):
        lx.plot(result, axes(), **options)


def test_what_can_not_be_drawn_is_refused(values):
    with pytest.raises(lx.InputError, match="needed a unit that is finite somewhere, got l0 unit 0"):
        lx.plot(lx.contexts(of(values * np.nan), TEXT), axes())
    with pytest.raises(lx.InputError, match="needed feature from 0 to 0, got 1"):
        lx.plot(lx.contexts(of(values), torch.zeros(2, 13)), axes(), feature=1)
