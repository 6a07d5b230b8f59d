"""Pictures of verdicts: what is on the axes is what the result says."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import lstm_explain as lx

METHODS = ("integrated_gradients", "occlusion", "saliency")


@pytest.fixture(scope="module")
def results():
    torch.manual_seed(0)
    model, inputs, lengths = torch.nn.LSTM(3, 6, batch_first=True), torch.randn(8, 30, 3), [30, 20, 30, 25, 30, 30, 30, 30]
    why = {method: lx.attribute(model, inputs, target=(-1, 2), lengths=lengths, method=method) for method in METHODS}
    few = {"draws": 1, "subsets": 4, "perturbations": 0, "resamples": 200}
    return {
        "signed": lx.faithfulness(model, inputs, why["integrated_gradients"], twins=2, **few),
        "size": lx.faithfulness(model, inputs, why["saliency"], twins=1, **few),
        "not drawn": lx.faithfulness(model, inputs, why["integrated_gradients"], twins=0, **few),
        "comparison": lx.compare_attributions(why),
    }


def axes():
    return Figure().add_subplot()


@pytest.mark.parametrize("name", ["signed", "size"])
@pytest.mark.parametrize("kind", ["deletion", "insertion"])
def test_the_curves_are_the_means_beside_the_controls(results, name, kind):
    result = results[name]
    ax = lx.plot(result, axes(), kind=kind)
    curves = getattr(result.removal, kind)
    for line, curve in zip(ax.lines, curves, strict=False):
        np.testing.assert_allclose(line.get_ydata(), curve.mean(0))
        np.testing.assert_allclose(line.get_xdata(), result.removal.shares.mean(0))
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert len(texts) == 1 + len(result.controls) and texts[1].startswith("random: area ")
    assert result.claims["random"].verdict(f"{kind}, area") in ax.get_title(loc="left")
    assert ax.get_ylabel() == ("fall of the output, mean" if name == "signed" else "size of the output's change, mean")


def test_deletion_is_what_is_drawn_if_nothing_is_said(results):
    assert (
        lx.plot(results["signed"], axes())
        .get_title(loc="left")
        .startswith("integrated gradients: more faithful than random steps by deletion:")
    )


def test_bars_are_comprehensiveness_and_say_what_is_shown(results):
    result = results["signed"]
    ax = lx.plot(result, axes(), kind="comprehensiveness")
    own = result.comprehensiveness[0]
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches[:6]], [*own.mean(0), own.mean()])
    claims = result.claims["random"]
    shown = dict(zip(claims.measures, claims.shown, strict=True))
    ticks = [text.get_text() for text in ax.get_xticklabels()]
    assert ticks[1] == f"5 %\n{'shown' if shown['comprehensiveness at 5 %'] else 'not shown'}"
    assert ticks[5] == f"mean (AOPC)\n{'shown' if shown['comprehensiveness, AOPC'] else 'not shown'}"


@pytest.mark.parametrize("name", ["signed", "size"])
def test_what_is_left_stands_beside_what_was_drawn_anew(results, name):
    result = results[name]
    ax = lx.plot(result, axes(), kind="randomisation")
    assert [text.get_text() for text in ax.get_yticklabels()] == list(result.randomisation.parts)
    means = result.randomisation.means["cascade" if name == "signed" else "cascade_size"]
    np.testing.assert_allclose(ax.lines[0].get_xdata(), means.value)
    assert ("sizes" in ax.get_xlabel()) == (name == "size")


def test_weights_that_were_not_drawn_anew_are_not_drawn(results):
    with pytest.raises(lx.InputError, match="twins=0"):
        lx.plot(results["not drawn"], axes(), kind="randomisation")


def test_rows_are_each_a_share_of_its_own_largest(results):
    result = results["comparison"]
    ax = lx.plot(result, axes(), example=1, start=4, tokens=["$", "longer than that", *"abcdefghijklmnopqr"])
    values = result.by_step[:, 1, 4:20]
    np.testing.assert_allclose(ax.images[0].get_array(), values / np.abs(values).max(1, keepdims=True))
    assert ax.images[0].get_clim() == (-1, 1) and len(ax.texts) == 3 * 16
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert labels[0].startswith("integrated gradients\n(largest ") and labels[2].endswith(", sizes)")
    ax.figure.draw_without_rendering()


@pytest.mark.parametrize("agreement", ["signed", "size", "overlap"])
def test_the_matrix_is_the_medians(results, agreement):
    result = results["comparison"]
    ax = lx.plot(result, axes(), kind="matrix", agreement=agreement)
    np.testing.assert_allclose(ax.images[0].get_array(), getattr(result, agreement).median)
    assert ax.images[0].get_clim() == ((0, 1) if agreement == "overlap" else (-1, 1))
    ax.figure.draw_without_rendering()


def test_what_has_no_order_is_said_so(results):
    result = results["comparison"]
    flat = replace(result.signed, median=np.full((3, 3), np.nan))
    ax = lx.plot(replace(result, signed=flat), axes(), kind="matrix")
    assert {text.get_text() for text in ax.texts} == {"no order"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"example": 8}, "needed example from 0 to 7, got 8"),
        ({"start": 30}, "needed start from 0 to 29, got 30"),
        ({"tokens": "ab"}, "needed tokens= for the example's 30 steps, got 2"),
        ({"kind": "heat"}, "needed kind as one of rows, matrix, got 'heat'"),
        ({"kind": "matrix", "agreement": "all"}, "needed agreement as one of signed, size, overlap, got 'all'"),
    ],
)
def test_what_a_picture_does_not_know_is_refused(results, options, message):
    with pytest.raises(lx.InputError, match=message):
        lx.plot(results["comparison"], axes(), **options)
