"""Pictures: what is on the axes is what the result says, and nothing else happens."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from mechanisms import leaky_bank

import lstm_explain as lx
from lstm_explain.plots import STYLE, panels


@pytest.fixture(scope="module")
def results():
    torch.manual_seed(0)
    model = lx.PeepholeLSTM(3, 6, 2, batch_first=True)
    with torch.no_grad(), lx.record(model, lengths=[30, 20]) as recording:
        model(torch.randn(2, 30, 3) * 4)
    text = "def f(x):\n\treturn '$x' if x else 1"
    return {
        "saturation": lx.saturation(recording),
        "timescale": lx.timescale(recording),
        "text": lx.unit_text(recording, text[:30], layer="l1", unit=2, marks=[c == "'" for c in text[:30]]),
        "gate": lx.unit_text(recording, text[:30], layer="l1", unit=2, signal="forget_gate"),
    }


def axes():
    return Figure().add_subplot()


PICTURES = [
    ("saturation", {}),
    ("saturation", {"kind": "histogram", "gate": "output_gate"}),
    ("saturation", {"layer": "l1"}),
    ("timescale", {}),
    ("timescale", {"kind": "half_life"}),
    ("timescale", {"kind": "retention"}),
    ("timescale", {"layer": "l0", "unit": 3}),
    ("text", {}),
    ("gate", {"columns": 12}),
]


@pytest.mark.parametrize("name, options", PICTURES)
def test_every_picture_draws_on_the_axes_it_was_given(results, name, options):
    ax = axes()
    assert lx.plot(results[name], ax, **options) is ax
    ax.figure.canvas.draw()
    assert ax.get_title(loc="left")
    if name in ("saturation", "timescale"):
        assert ax.get_xlabel() and ax.get_ylabel() and ax.get_legend()


def test_the_scatter_shows_each_unit_where_its_shares_are(results):
    ax = lx.plot(results["saturation"], axes())
    for dots, layer in zip(ax.collections, results["saturation"].layers.values(), strict=True):
        np.testing.assert_array_equal(np.asarray(dots.get_offsets()), np.stack([layer.left[1, 0], layer.right[1, 0]], 1))
    assert ax.get_xlim() == (0, 1) and ax.get_ylim() == (0, 1)


def test_survival_starts_at_one_and_shows_the_units_own_curve(results):
    ax = lx.plot(results["timescale"], axes(), layer="l1", unit=4)
    x, y = ax.lines[0].get_data()
    layer = results["timescale"].layers["l1"]
    assert (x[0], y[0]) == (0, 1)
    np.testing.assert_array_equal(x[1:], layer.lags)
    np.testing.assert_array_equal(y[1:], layer.survival[:, 4])


def test_half_lives_beyond_the_longest_lag_are_named_not_drawn():
    with torch.no_grad(), lx.record(model := leaky_bank([2, 1e6])) as recording:
        model(torch.zeros(1, 40, 1, dtype=torch.float64))
    ax = lx.plot(lx.timescale(recording), axes(), kind="half_life")
    assert "1 of 2 beyond 32 steps" in ax.get_legend().get_texts()[0].get_text()
    assert np.isfinite(ax.lines[0].get_xdata()).all()


@pytest.mark.parametrize("name, limits", [("text", "symmetric"), ("gate", (0.0, 1.0))])
def test_colours_have_a_fixed_scale(results, name, limits):
    (image,) = lx.plot(results[name], axes()).images
    low, high = image.get_clim()
    assert (low == -high and high == np.abs(results[name].values).max()) if limits == "symmetric" else (low, high) == limits


def test_text_shows_every_character_once_and_underlines_the_marked_ones(results):
    ax = lx.plot(results["text"], axes())
    shown = "".join(text.get_text() for text in ax.texts)
    assert shown == "".join(results["text"].tokens).replace("\n", "↵").replace("\t", "→").replace("$", r"\$")
    assert len(ax.lines) == results["text"].marks.sum()
    grid = ax.images[0].get_array()
    np.testing.assert_array_equal(np.ma.compressed(grid), results["text"].values)


def test_a_title_replaces_the_pictures_own(results):
    ax = lx.plot(results["saturation"], axes(), title="mine")
    assert ax.get_title(loc="left") == "mine" and ax.get_title(loc="center") == ""


def test_panels_have_our_style():
    figure, three = panels(9, 3, 3)
    assert len(three) == 3 and tuple(figure.get_size_inches()) == (9, 3) and not three[0].spines["top"].get_visible()
    assert STYLE.endswith(".mplstyle")


def test_the_readers_own_settings_stay_as_they_were(results):
    import matplotlib

    before = dict(matplotlib.rcParams)
    lx.plot(results["saturation"], axes())
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("saturation", {"kind": "bars"}, "needed kind as one of scatter, histogram, got 'bars'"),
        ("saturation", {"gate": "forget"}, "needed gate as one of input_gate, forget_gate, output_gate, got 'forget'"),
        ("timescale", {"layer": "l7"}, "needed layer as one of l0, l1, got 'l7'"),
        ("timescale", {"unit": 1}, 'needed unit= only with kind="survival" and one layer='),
        ("timescale", {"layer": "l0", "unit": 99}, "needed unit from 0 to 5 of l0, got 99"),
    ],
)
def test_what_a_picture_does_not_know_is_refused_in_one_line(results, name, options, message):
    with pytest.raises(lx.InputError, match=message) as refused:
        lx.plot(results[name], axes(), **options)
    assert "\n" not in str(refused.value)


def test_something_that_is_no_result_is_refused():
    with pytest.raises(lx.InputError, match="needed a result of one of lstm_explain's analyses, got dict"):
        lx.plot({}, axes())


def test_without_axes_pyplot_shows_it():
    code = (
        "import matplotlib; matplotlib.use('agg'); import torch, lstm_explain as lx\n"
        "model = lx.PeepholeLSTM(2, 3)\n"
        "with lx.record(model) as recording: model(torch.zeros(4, 1, 2))\n"
        "ax = lx.plot(lx.saturation(recording))\n"
        "from matplotlib import pyplot; assert pyplot.gca() is ax"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
