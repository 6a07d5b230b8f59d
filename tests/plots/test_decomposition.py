"""Pictures of decompositions: what is on the axes is what the result says, its residual among it."""

import numpy as np
import pytest
import torch
from cases import randomise
from matplotlib.figure import Figure

import lstm_explain as lx

TOKENS = [*"it isn't $bad"]


@pytest.fixture(scope="module")
def model():
    return randomise(lx.PeepholeLSTM(3, 4, 2, batch_first=True).double())


@pytest.fixture(scope="module")
def inputs():
    return torch.randn(2, 13, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def phrase(model, inputs):
    return lx.contextual_decomposition(model, inputs, phrase=[3, 4, 5, -1], target=(-1, 2), lengths=[13, 9])


def axes():
    return Figure().add_subplot()


def test_the_shares_stand_on_each_other_up_to_the_output(phrase):
    ax = lx.plot(phrase, axes(), example=1)
    ax.figure.draw_without_rendering()
    starts, ends = zip(*((bar.get_y(), bar.get_y() + bar.get_height()) for bar in ax.patches), strict=True)
    shares = [phrase.beta[1], phrase.gamma[1], phrase.bias[1]]
    np.testing.assert_allclose(ends, np.cumsum(shares))
    np.testing.assert_allclose(starts, [0, *np.cumsum(shares)[:-1]])
    assert ax.get_legend().get_texts()[0].get_text() == f"the output, {phrase.output[1]:.3g}"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["phrase\n(steps 3-5, 8)", "everything else", "bias"]


def test_over_text_the_phrase_is_underlined_and_has_its_share(phrase):
    ax = lx.plot(phrase, axes(), tokens=TOKENS)
    ax.figure.draw_without_rendering()
    values = np.asarray(ax.images[0].get_array()).ravel()
    np.testing.assert_allclose(values, np.where(phrase.phrase[0], phrase.beta[0], phrase.gamma[0]))
    low, high = ax.images[0].get_clim()
    assert low == -high == -max(abs(phrase.beta[0]), abs(phrase.gamma[0])) and len(ax.lines) == 4


@pytest.mark.parametrize("options", [{}, {"tokens": TOKENS}])
def test_a_decomposition_says_what_it_can_not_see_and_what_is_left_over(phrase, options):
    title = lx.plot(phrase, axes(), **options).get_title(loc="left")
    assert "doesn't see resets" in title and f"residual {phrase.residual[0]:.1e}" in title


@pytest.mark.parametrize("method", ["lrp", "cell_decomposition"])
@pytest.mark.parametrize("options", [{}, {"tokens": TOKENS}])
def test_the_title_of_an_attribution_says_where_the_output_went(model, inputs, method, options):
    result = lx.attribute(model, inputs, target=(-1, 2), method=method)
    title = lx.plot(result, axes(), **options).get_title(loc="left")
    assert f"{result.output[0]:.3g} = " in title and "to steps" in title and f"residual {result.convergence_delta[0]:.1e}" in title
    assert (f"{abs(result.elsewhere['bias'][0]):.3g} to bias" in title) if method == "lrp" else ("constant" not in title)


def test_of_a_cell_decomposition_the_axis_says_whose_steps_they_are(model, inputs):
    ax = lx.plot(lx.attribute(model, inputs, target=(-1, 2), method="cell_decomposition"), axes())
    assert ax.get_xlabel() == "step of the input of l1, gates held"
    text = lx.plot(lx.attribute(model, inputs, target=(-1, 2), method="cell_decomposition"), axes(), tokens=TOKENS)
    assert "attribution to steps of the input of l1, gates held" in text.figure.axes[1].get_xlabel()
    assert lx.plot(lx.attribute(model, inputs, target=(-1, 2), method="lrp"), axes()).get_xlabel() == "step"


def test_what_does_not_add_up_is_said_in_the_title(model, inputs):
    wrong = {"target": None, "output": lambda returned: returned[0][:, -1].exp().sum(1)}
    for result in (lx.attribute(model, inputs, method="lrp", **wrong), lx.contextual_decomposition(model, inputs, phrase=0, **wrong)):
        assert not result.converged[0] and lx.plot(result, axes()).get_title(loc="left").endswith(": it doesn't add up")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"example": 2}, "needed example from 0 to 1, got 2"),
        ({"kind": "pie"}, "needed kind as one of shares, text, got 'pie'"),
        ({"kind": "text"}, "needed tokens= for the example's 13 steps, got 0"),
    ],
)
def test_a_picture_that_can_not_be_drawn_says_why(phrase, options, message):
    with pytest.raises(lx.InputError) as caught:
        lx.plot(phrase, axes(), **options)
    assert str(caught.value) == message
