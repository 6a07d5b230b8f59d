"""Variances beside chance, and paths along the first two components."""

import numpy as np
import pytest
import torch
from cases import randomise
from matplotlib.figure import Figure
from torch import nn

import lstm_explain as lx


@pytest.fixture(scope="module")
def recording():
    model = randomise(nn.LSTM(2, 5, 2, batch_first=True).double())
    with torch.no_grad(), lx.record(model, lengths=[40, 25] * 5) as recording:
        model(torch.randn(10, 40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    return recording


@pytest.fixture(scope="module")
def result(recording):
    return lx.components(recording)


def axes():
    return Figure().add_subplot()


def test_variances_stand_beside_chance(result):
    ax = lx.plot(result, axes(), layer="l1", most=3)
    ax.figure.draw_without_rendering()
    own, chance = ax.lines
    layer = result.layers["l1"]
    np.testing.assert_array_equal(own.get_data(), [[1, 2, 3], 100 * layer.ratio[:3]])
    np.testing.assert_allclose(chance.get_ydata(), 100 * layer.by_chance.max(0)[:3] / layer.variance.sum(), rtol=0, atol=1e-12)
    assert f"participation ratio {layer.participation_ratio:.1f} of 5 units" in ax.get_title(loc="left")
    assert len(lx.plot(result, axes()).lines) == 4 and "l1: most by chance in 19 draws" in str(
        [text.get_text() for text in ax.get_legend().get_texts()]
    )


def test_without_draws_it_says_so(recording):
    ax = lx.plot(lx.components(recording, layer="l0", draws=0), axes())
    assert len(ax.lines) == 1 and "not controlled: needed draws from 1, got 0" in ax.get_title(loc="left")


def test_paths_are_those_of_the_sequences_without_padding(result, recording):
    paths = result.project(recording["l1"])
    ax = lx.plot(result, axes(), layer="l1", paths=paths, sequences=[1])
    ax.figure.draw_without_rendering()
    line, begin, end = ax.lines
    np.testing.assert_array_equal(line.get_data(), paths[1, :25, :2].T)
    np.testing.assert_array_equal(begin.get_data(), paths[1, :1, :2].T)
    np.testing.assert_array_equal(end.get_data(), paths[1, 24:25, :2].T)
    assert begin.get_markerfacecolor() == "white" and f"{100 * result.layers['l1'].ratio[0]:.0f} %" in ax.get_xlabel()
    assert lx.plot(result, axes(), kind="variance", paths=paths).get_xlabel() == "component"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"kind": "path"}, "needed kind as one of variance, paths, got 'path'"),
        ({"kind": "paths"}, r"needed paths= of l0, \(batch, time, 5\), .* got none"),
        ({"paths": np.zeros((2, 3, 4))}, r"got shape \(2, 3, 4\)"),
        ({"paths": np.zeros((2, 3, 5)), "sequences": [0, 2]}, "needed sequences from 0 to 1, got 2"),
        ({"most": 0}, "needed most from 1, got 0"),
        ({"layer": "l2"}, "needed layer as one of l0, l1, got 'l2'"),
    ],
)
def test_what_does_not_fit_is_refused(result, options, message):
    with pytest.raises(lx.InputError, match=message):
        lx.plot(result, axes(), **options)
