"""Pictures of attributions to gates: what is on the axes is what the result says, its residual among it."""

import numpy as np
import pytest
import torch
from cases import randomise
from matplotlib.figure import Figure
from torch import nn

import lstm_explain as lx


def why(**options):
    model = randomise(nn.LSTM(2, 3, batch_first=True).double())
    x = torch.randn(2, 6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return lx.gate_attribution(model, x, "l0", "forget_gate", target=(-1, 2), lengths=[6, 4], **options)


def axes():
    return Figure().add_subplot()


def test_bars_are_sums_over_units_or_steps():
    result = why()
    for kind, expected in ((None, result.by_step[1, :4]), ("units", result.by_unit[1])):
        ax = lx.plot(result, axes(), kind=kind, example=1)
        ax.figure.draw_without_rendering()
        np.testing.assert_array_equal([bar.get_height() for bar in ax.patches], expected)
        assert ax.get_xlabel() == (kind or "steps")[:-1] and "in units of the output" in ax.get_ylabel()
        title = ax.get_title(loc="left")
        assert "forget gate of l0: attribution to output[3, 2]" in title and "of the difference of outputs" in title


def test_the_map_has_steps_and_units_on_a_symmetric_scale():
    result = why()
    ax = lx.plot(result, axes(), kind="map", example=1, tokens=list("abcd"))
    ax.figure.draw_without_rendering()
    (image,) = ax.images
    np.testing.assert_array_equal(image.get_array(), result.attributions[1, :4].T)
    assert image.norm.vmax == -image.norm.vmin == np.abs(result.attributions[1]).max()
    assert [label.get_text() for label in ax.get_xticklabels()] == list("abcd")


def test_the_title_says_what_does_not_add_up():
    assert "it doesn't add up" in lx.plot(why(n_steps=1, tolerance=1e-12), axes()).get_title(loc="left")
    assert "it doesn't claim to add up" in lx.plot(why(method="gradient"), axes()).get_title(loc="left")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"example": 2}, "needed example from 0 to 1, got 2"),
        ({"kind": "text"}, "needed kind as one of steps, units, map, got 'text'"),
        ({"tokens": ["a"]}, "needed tokens= for the example's 6 steps, got 1"),
    ],
)
def test_what_can_not_be_drawn_says_why(options, message):
    with pytest.raises(lx.InputError, match=message):
        lx.plot(why(), axes(), **options)
