"""Attributions over series: each step's piece of a line has its own colour, and padding has none."""

import dataclasses

import numpy as np
import pytest
import torch
from cases import randomise
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

import lstm_explain as lx

NAMES = ["speed", "$heat", "valve"]


@pytest.fixture(scope="module")
def model():
    return randomise(lx.PeepholeLSTM(3, 4, batch_first=True).double())


@pytest.fixture(scope="module")
def inputs():
    x = torch.randn(2, 13, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 50.0, 0.0]) + 2
    x[1, 9:] = 1e3  # padding that would be seen on any scale
    return x


@pytest.fixture(scope="module")
def why(model, inputs):
    return lx.attribute(model, inputs, target=(-1, 2), lengths=[13, 9])


@pytest.fixture(scope="module")
def by_step(model, inputs):
    return lx.attribute(model, inputs, target=(-1, 2), lengths=[13, 9], method="occlusion")


def axes():
    return Figure().add_subplot()


def points(ax):
    """The lines themselves, in the order of their rows: steps and heights."""
    return [line.get_data() for line in ax.lines]


def test_a_line_alone_stands_in_its_own_units_without_its_padding(why, inputs):
    ax = lx.plot(why, axes(), kind="series", inputs=inputs, example=1, features=[1], feature_names=NAMES)
    ((steps, heights),) = points(ax)
    assert steps.tolist() == list(range(9)) and heights.tolist() == inputs[1, :9, 1].tolist()
    assert ax.get_ylabel() == "$heat" and ax.get_ylim()[1] < 200 and ax.get_xlim() == (-0.5, 8.5)


def test_every_step_has_the_colour_of_its_own_attribution(why, inputs):
    ax = lx.plot(why, axes(), inputs=inputs, example=1, start=2)
    ax.figure.draw_without_rendering()
    limit = np.abs(why.attributions[1, 2:9]).max()
    for feature, band in enumerate(ax.collections):
        assert band.get_clim() == (-limit, limit) and band.get_cmap().name == "RdBu_r"
        steps, heights = ax.lines[feature].get_data()
        assert steps.tolist() == list(range(2, 9))
        for at, (piece, colour) in enumerate(zip(band.get_segments(), band.get_colors(), strict=True)):
            value = why.attributions[1, 2 + at, feature]
            assert tuple(colour) == band.get_cmap()(Normalize(-limit, limit)(value))
            before, after = heights[max(at - 1, 0)], heights[min(at + 1, len(heights) - 1)]
            x, y = steps[at], heights[at]
            np.testing.assert_allclose(piece, [(x - 0.5, (before + y) / 2), (x, y), (x + 0.5, (y + after) / 2)], rtol=0, atol=1e-12)


def test_each_feature_has_a_row_a_scale_of_its_own_and_its_range(why, inputs):
    ax = lx.plot(why, axes(), inputs=inputs, example=1, feature_names=NAMES)
    shown = inputs[1, :9].numpy()
    for row, (_, heights) in enumerate(points(ax)[:2]):
        own = shown[:, row]
        # The axis points down, so that the first feature is on top.
        np.testing.assert_allclose(heights, row + 0.4 - 0.8 * (own - own.min()) / (own.max() - own.min()), rtol=0, atol=1e-12)
    assert points(ax)[2][1].tolist() == [2.0] * 9 and ax.yaxis_inverted()
    labels = [label.get_text() for label in ax.get_yticklabels()]
    ranges = [f"{shown[:, at].min():.3g} to {shown[:, at].max():.3g}" for at in (0, 1)]
    assert labels == [f"speed\n{ranges[0]}", f"$heat\n{ranges[1]}", "valve\n2 throughout"] and not ax.get_ylabel()


def test_features_are_drawn_as_asked_by_place_or_by_name(why, inputs):
    ax = lx.plot(why, axes(), inputs=inputs.float().requires_grad_(), feature_names=NAMES, features=["valve", 0])
    assert [label.get_text().split("\n")[0] for label in ax.get_yticklabels()] == ["valve", "speed"]
    np.testing.assert_array_equal(ax.collections[1].get_array(), why.attributions[0, :, 0])
    assert ax.get_ylabel() == "2 of 3 features, as asked"


def test_of_many_features_those_with_the_largest_attributions_are_drawn_and_that_is_said(why):
    order = np.random.default_rng(0).permutation(30)
    many = dataclasses.replace(why, attributions=np.where(np.arange(13)[:, None] < 9, order * (-1.0) ** order, 0.0)[None].repeat(2, 0))
    ax = lx.plot(many, axes(), inputs=np.random.default_rng(1).standard_normal((2, 13, 30)))
    assert [label.get_text().split("\n")[0] for label in ax.get_yticklabels()] == [f"feature {at}" for at in np.flatnonzero(order > 17)]
    assert ax.get_ylabel() == "12 of 30 features, those with the largest attributions"


def test_attributions_of_steps_colour_every_line_and_say_so(by_step, inputs):
    ax = lx.plot(by_step, axes(), inputs=inputs, example=1)
    for band in ax.collections:
        np.testing.assert_array_equal(band.get_array(), by_step.attributions[1, :9])
    assert ax.figure.axes[1].get_ylabel() == "attribution of the step, in units of the output"


class Summed(torch.nn.Module):
    """Reads series of single numbers ``(batch, time)``."""

    def forward(self, x):
        return x.square().sum(1)


def test_of_a_stacks_cell_decomposition_the_axis_says_whose_steps_they_are(inputs):
    stack = randomise(lx.PeepholeLSTM(3, 4, 2, batch_first=True).double())
    ax = lx.plot(lx.attribute(stack, inputs, target=(-1, 2), method="cell_decomposition"), axes(), inputs=inputs)
    assert ax.get_xlabel() == "step of the input of l1, gates held"


@pytest.mark.parametrize("steps", [5, 1])
def test_a_series_of_single_numbers_is_one_line(steps):
    x = torch.randn(2, steps, generator=torch.Generator().manual_seed(0))
    result = lx.attribute(Summed(), x)
    ax = lx.plot(result, axes(), inputs=x)
    ((_, heights),) = points(ax)
    np.testing.assert_array_equal(heights, x[0].double())
    assert ax.get_ylabel() == "feature 0" and len(ax.collections[0].get_segments()) == steps


def test_the_title_says_what_is_left_over(why, by_step, model, inputs):
    def second(result):
        return lx.plot(result, axes(), inputs=inputs).get_title(loc="left").split("\n", 1)[1]

    assert second(why) == f"residual {why.relative_delta[0]:.0e} of the difference of outputs"
    assert second(by_step) == f"residual {by_step.relative_delta[0]:.0e} of the difference of outputs: it doesn't claim to add up"
    short = lx.attribute(model, inputs, target=(-1, 2), n_steps=1)
    assert not short.converged[0] and second(short).endswith("of outputs: it doesn't add up")
    assert second(lx.attribute(model, inputs, target=(-1, 2), method="saliency")) == "it doesn't claim to add up"
    shares = lx.attribute(model, inputs, target=(-1, 2), method="lrp")
    assert second(shares).startswith(f"{shares.output[0]:.3g} = ") and second(shares).count("residual") == 1


@pytest.mark.parametrize(
    "options, message",
    [
        ({"kind": "series"}, 'needed inputs=, what was attributed, for kind="series", got none'),
        ({"inputs": torch.zeros(2, 13, 4)}, r"needed inputs= of shape (2, 13, 3), as they were attributed, got (2, 13, 4)"),
        ({"inputs": torch.zeros(13, 3)}, r"needed inputs= of shape (2, 13, 3), as they were attributed, got (13, 3)"),
        ({"features": [0, 3]}, "needed features from 0 to 2, got 3"),
        ({"features": [-1]}, "needed features from 0 to 2, got -1"),
        ({"features": ["heat"], "feature_names": NAMES}, "needed features among speed, $heat, valve, got 'heat'"),
        ({"features": []}, "needed at least one feature, got none"),
        ({"feature_names": NAMES[:2]}, "needed feature_names for 3 features, got 2"),
        ({"start": 13}, "needed start from 0 to 12, got 13"),
    ],
)
def test_what_can_not_be_drawn_is_refused_in_one_line(why, inputs, options, message):
    given = {} if options.get("kind") else {"inputs": inputs}
    with pytest.raises(lx.InputError) as refused:
        lx.plot(why, axes(), **(given | options))
    assert str(refused.value) == message


def test_tokens_have_no_line():
    model = torch.nn.Sequential(torch.nn.Embedding(5, 3), torch.nn.LSTM(3, 2, batch_first=True))
    tokens = torch.tensor([[1, 2, 3, 4]])
    result = lx.attribute(model, tokens, target=(-1, 1))
    with pytest.raises(lx.InputError, match='got attributions to tokens: use kind="text" with tokens='):
        lx.plot(result, axes(), inputs=tokens)
