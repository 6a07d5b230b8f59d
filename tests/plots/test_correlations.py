"""Correlations in the order of their clusters."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from mechanisms import blank

import lstm_explain as lx


def result_of(units, **options):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(10, 60, units))
    values[:, :, 4] = values[:, :, 1] + 0.1 * rng.normal(size=(10, 60))
    values[:, :, 3] = 2.0
    with torch.no_grad(), lx.record(model := blank(1, units), lengths=[60] * 10) as recording:
        model(torch.zeros(10, 60, 1, dtype=torch.float64))
    return lx.correlations({"l0": replace(recording["l0"], signals={"cell_state": torch.as_tensor(values)})}, **options)


def axes():
    return Figure().add_subplot()


def test_the_matrix_is_in_the_order_of_the_clusters():
    result = result_of(6)
    ax = lx.plot(result, axes())
    ax.figure.draw_without_rendering()
    shown = ax.images[0].get_array()
    np.testing.assert_array_equal(shown.filled(np.nan), result.correlations[np.ix_(result.order, result.order)])
    assert [int(tick.get_text()) for tick in ax.get_yticklabels()] == list(result.order) and result.order[-1] == 3
    assert shown.mask[-1].all() and ax.images[0].get_clim() == (-1, 1)
    (box,) = ax.lines
    places = sorted(result.order.index(unit) for unit in (1, 4))
    assert (min(box.get_xdata()), max(box.get_ydata())) == (places[0] - 0.5, places[1] + 0.5)
    title = ax.get_title(loc="left")
    assert title.startswith(f"largest |r| {result.correlations[1, 4]:.2f}") and "l0 1 and l0 4" in title and "in 19 draws" in title


def test_many_units_are_not_named_but_their_clusters_are():
    ax = lx.plot(result_of(60), axes())
    assert not ax.get_yticklabels() and [text.get_text() for text in ax.texts] == ["cluster 0: 2"] and "60 units" in ax.get_xlabel()


def test_without_draws_it_says_so():
    title = lx.plot(result_of(6, draws=0), axes()).get_title(loc="left")
    assert title.endswith("not controlled: needed draws from 1, got 0")


def test_there_are_no_options():
    with pytest.raises(TypeError):
        lx.plot(result_of(6), axes(), kind="matrix")
