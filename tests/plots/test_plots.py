"""Pictures: what is on the axes is what the result says, and nothing else happens."""

import dataclasses
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from mechanisms import leaky_bank

import lstm_explain as lx
from lstm_explain.analyses.ablation.predictions import predictions
from lstm_explain.analyses.probing.scores import Interval
from lstm_explain.plots import STYLE, panels


@pytest.fixture(scope="module")
def results():
    torch.manual_seed(0)
    model = lx.PeepholeLSTM(3, 6, 2, batch_first=True)
    with torch.no_grad(), lx.record(model, lengths=[30, 20]) as recording:
        model(torch.randn(2, 30, 3) * 4)
    inputs = torch.randn(12, 30, 3)
    with torch.no_grad(), lx.record(model, lengths=[30] * 12) as several:
        model(inputs)
    twins = []
    for seed in range(2):
        with torch.no_grad(), lx.record(twin := lx.untrained(model, seed=seed), lengths=[30] * 12) as control:
            twin(inputs)
        twins.append(control)
    controls = {"untrained": twins, "window": inputs, "types": (inputs[:, :, 0] > 0).int().numpy()}
    labels = {
        "warm": inputs[:, :, 0].numpy() > 0,
        "sum": inputs[:, :, 1].cumsum(1).numpy(),
        "third": inputs[:, :, 2].numpy().round().clip(0, 2).astype(int),
    }
    with (
        lx.record(model, lengths=[30, 20]) as edited,
        lx.intervene(model, "l1", forget_gate=1.0, steps=slice(5, 9), units=[2], feedback=True),
    ):
        model(torch.randn(2, 30, 3))
    with torch.no_grad():
        wanted = model(inputs)[0]
    ablation = lx.ablation(
        model,
        inputs,
        "l1",
        loss=lambda output, rows: (output[0] - wanted[rows]).square().sum(-1),
        by={"warm": labels["warm"]},
        groups=list("aabbccddeeff"),
        order="removal",
    )
    text = "def f(x):\n\treturn '$x' if x else 1"
    return {
        "saturation": lx.saturation(recording),
        "timescale": lx.timescale(recording),
        "text": lx.unit_text(recording, text[:30], layer="l1", unit=2, marks=[c == "'" for c in text[:30]]),
        "why": lx.attribute(model, inputs[:2], target=(-1, 2), lengths=[30, 20]),
        "steps": lx.attribute(model, inputs[:2], target=(-1, 2), lengths=[30, 20], method="occlusion"),
        "probing": lx.probe(several, labels, controls=controls, folds=3, permutations=99),
        "units": lx.unit_scores(several["l1"].steps("cell_state").numpy(), labels["warm"].ravel(), permutations=99),
        "runs": lx.compare_runs(recording, edited, layer="l1", units=[2, 4]),
        "clamped": lx.compare_runs(recording, edited, layer="l1", units=2, signal="forget_gate", sequence=1),
        "ablation": ablation,
        "predictions": predictions(torch.eye(3)[[0, 1, 2, 0]] * 9, torch.eye(3)[[0, 2, 2, 0]] * 9, "b\n$b", "\n$b"),
        "gate": lx.unit_text(recording, text[:30], layer="l1", unit=2, signal="forget_gate"),
    }


def axes():
    return Figure().add_subplot()


TOKENS = [*"def f(x):\n\treturn '$x' if x els"]
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
    ("runs", {}),
    ("clamped", {}),
    ("why", {}),
    ("why", {"kind": "map", "feature_names": ["a", "b", "c"], "example": 1}),
    ("why", {"tokens": TOKENS}),
    ("why", {"kind": "steps", "tokens": TOKENS, "start": 12}),
    ("steps", {}),
    ("probing", {}),
    ("probing", {"label": "warm"}),
    ("probing", {"kind": "selectivity"}),
    ("probing", {"kind": "matrix", "units": 3}),
    ("units", {}),
    ("ablation", {}),
    ("ablation", {"label": "warm", "units": 3, "notes": {"1": "this one"}}),
    ("ablation", {"kind": "removal"}),
    ("predictions", {}),
    ("predictions", {"columns": 2}),
]


@pytest.mark.parametrize("name, options", PICTURES)
def test_every_picture_draws_on_the_axes_it_was_given(results, name, options):
    ax = axes()
    assert lx.plot(results[name], ax, **options) is ax
    ax.figure.draw_without_rendering()
    assert ax.get_title(loc="left")
    if name in ("saturation", "timescale"):
        assert ax.get_xlabel() and ax.get_ylabel() and ax.get_legend()


def test_the_scatter_shows_each_unit_where_its_shares_are(results):
    ax = lx.plot(results["saturation"], axes())
    for dots, layer in zip(ax.collections, results["saturation"].layers.values(), strict=True):
        np.testing.assert_array_equal(np.asarray(dots.get_offsets()), np.stack([layer.left[1, 0], layer.right[1, 0]], 1))
    assert ax.get_xlim() == (0, 1) and ax.get_ylim() == (0, 1)


def test_effects_are_sorted_with_their_intervals_and_hollow_where_not_shown(results):
    result = results["ablation"]
    ax = lx.plot(result, axes(), units=4, notes={result.names[result.order[-1]]: "this one"})
    largest = [at for at in result.order if at in np.argsort(-np.abs(result.effects.change))[:4]]
    ticks = [text.get_text() for text in ax.get_yticklabels()]
    assert ticks == [*(result.names[at] for at in largest[:-1]), f"this one  {result.names[largest[-1]]}"]
    (bars,) = [lines.get_segments() for lines in ax.collections]
    np.testing.assert_array_equal([bar[:, 0] for bar in bars], np.stack([result.effects.low, result.effects.high], 1)[largest])
    filled, hollow = ax.lines[:2]
    shown = result.effects.shown[largest]
    np.testing.assert_array_equal(filled.get_xdata(), result.effects.change[largest][shown])
    np.testing.assert_array_equal(hollow.get_xdata(), result.effects.change[largest][~shown])
    assert f"{shown.sum() if len(shown) == 6 else result.effects.shown.sum()} of 6 ablations are shown" in ax.get_title(loc="left")
    split = lx.plot(result, axes(), label="warm")
    assert [text.get_text().split(" (")[0] for text in split.get_legend().get_texts()[:2]] == ["warm: no", "warm: yes"]


def test_the_removal_curve_starts_at_the_clean_loss(results):
    result = results["ablation"]
    ax = lx.plot(result, axes(), kind="removal")
    x, y = ax.lines[0].get_data()
    assert x.tolist() == list(range(7)) and y[0] == result.effects.clean
    np.testing.assert_allclose(y[1:] - y[0], result.removal.change, atol=1e-12)
    assert ax.get_title(loc="left").startswith(f"{result.removable} of 6 ")


def test_predictions_stand_below_what_came_on_the_probability_they_gave_it(results):
    found = results["predictions"]
    assert (found.tokens, found.clean, found.ablated, found.right) == (("\n", "$", "b"), ("\n", "$", "b"), ("\n", "b", "b"), (3, 2))
    ax = lx.plot(found, axes())
    assert [text.get_text() for text in ax.texts] == [*("↵", "$", "b"), *("↵", "$", "b"), *("↵", "b", "b")]
    grid = ax.images[0].get_array()
    assert grid.mask[0].all()
    np.testing.assert_array_equal(grid[1:].filled(), [found.clean_came, found.ablated_came])
    assert found.ablated_came[1] < 0.01 < 0.99 < found.clean_came[1] and ax.images[0].get_clim() == (0, 1)


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
    assert shown == "".join(results["text"].tokens).replace("\n", "↵").replace("\t", "→")
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


def test_bars_are_the_attributions_of_the_steps(results):
    ax = lx.plot(results["why"], axes(), example=1, start=4)
    bars = ax.patches
    np.testing.assert_allclose([bar.get_height() for bar in bars], results["why"].by_step[1, 4:20])
    assert [round(bar.get_x() + bar.get_width() / 2) for bar in bars] == list(range(4, 20))


def test_attributions_over_text_are_on_a_symmetric_scale_and_stand_on_their_tokens(results):
    ax = lx.plot(results["why"], axes(), tokens=TOKENS, start=9)
    (image,) = ax.images
    low, high = image.get_clim()
    assert low == -high == -np.abs(results["why"].by_step[0, 9:]).max()
    assert [text.get_text() for text in ax.texts][:7] == ["↵", "→", *"retur"]
    shown = np.ma.compressed(image.get_array())
    np.testing.assert_allclose(shown, results["why"].by_step[0, 9:30])


def test_the_map_has_a_row_for_each_feature(results):
    (image,) = lx.plot(results["why"], axes(), kind="map", example=1).images
    np.testing.assert_array_equal(image.get_array(), results["why"].attributions[1, :20].T)
    assert image.get_clim()[0] == -image.get_clim()[1]


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("why", {"example": 2}, "needed example from 0 to 1, got 2"),
        ("why", {"start": 30}, "needed start from 0 to 29, got 30"),
        ("why", {"kind": "text"}, "needed tokens= for the example's 30 steps, got 0"),
        ("why", {"tokens": ["x"]}, "needed tokens= for the example's 30 steps, got 1"),
        ("steps", {"kind": "map"}, "needed attributions to features"),
        ("why", {"kind": "pie"}, "needed kind as one of steps, text, map, groups, series, got 'pie'"),
        ("probing", {"label": "cold"}, "needed label as one of warm, sum, third, got 'cold'"),
        ("probing", {"kind": "matrix", "units": 0}, "needed at least one unit, got 0"),
    ],
)
def test_a_picture_that_can_not_be_drawn_says_why(results, name, options, message):
    with pytest.raises(lx.InputError, match=message):
        lx.plot(results[name], axes(), **options)


def test_every_label_has_its_probe_and_its_controls_where_their_scores_are(results):
    probing = results["probing"]
    ax = lx.plot(probing, axes())
    drawn = {(round(float(x), 9), int(y)) for line in ax.lines for x, y in zip(*line.get_data(), strict=True)}
    for row, found in zip((2, 1, 0), probing.labels.values(), strict=True):
        best = found.probes[found.best].score
        values = [best.value, best.low, best.high, found.best_unit()[1].unit_score.value]
        values += [found.best_control(of)[1].score.value for of in ("majority", "untrained", "window")]
        assert {(round(value, 9), row) for value in values} <= drawn
    assert [tick.get_text().split("\n")[0] for tick in ax.get_yticklabels()] == ["warm", "sum", "third"]
    assert {text.get_text().split("  ")[1] for text in ax.texts} == {found.verdict for found in probing.labels.values()}


def test_twins_are_drawn_as_a_range_and_the_highest_of_them_as_the_control(results):
    probing = results["probing"]
    ax = lx.plot(probing, axes())
    spans = [line for line in ax.lines if line.get_color() == "C1" and line.get_linestyle() == "-" and line.get_linewidth() == 2.5]
    for span, found in zip(spans, probing.labels.values(), strict=True):
        values = [twin.score.value for twin in found.twins]
        assert span.get_xdata().tolist() == [min(values), max(values)] and max(values) == found.best_control("untrained")[1].score.value
    assert "untrained network, best of 2 (bar: all)" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_selectivity_lies_between_the_probe_and_its_control_task(results):
    probing = results["probing"]
    ax = lx.plot(probing, axes(), kind="selectivity")
    for line, text, found in zip(ax.lines[::3], ax.texts, probing.labels.values(), strict=True):
        best = found.probes[found.best]
        assert line.get_xdata().tolist() == [best.control_task.value, best.score.value]
        assert text.get_text().startswith(f"{best.score.value - best.control_task.value:+.3f} ({best.selectivity.low:+.3f} to")
    without = replace(probing, labels={"warm": replace(found, probes={found.best: best._replace(selectivity=Interval(*[np.nan] * 3))})})
    with pytest.raises(lx.InputError, match=r"^needed a probing with a control task, got none: give types, as in probe\("):
        lx.plot(without, axes(), kind="selectivity")


def test_the_matrix_names_the_best_cell_of_every_label_and_brackets_what_is_not_shown(results):
    probing = results["probing"]
    ax = lx.plot(probing, axes(), kind="matrix", units=4)
    rows = [tick.get_text() for tick in ax.get_yticklabels()]
    for column, found in enumerate(probing.labels.values()):
        layer, unit = probing.cells[int(found.units.scores.argmax())]
        assert f"{layer} unit {unit}" in rows
        for text in ax.texts:
            x, y = text.get_position()
            if x == column:
                name, _, number = rows[int(y)].rpartition(" unit ")
                at = probing.cells.index((name, int(number)))
                assert text.get_text().strip("()") == f"{found.units.scores[at]:.2f}"
                assert text.get_text().startswith("(") == (found.units.p_values_family[at] > 0.05)


def test_a_changed_run_is_drawn_beside_the_clean_one(results):
    ax = axes()
    lx.plot(results["clamped"], ax=ax)
    clean, edited, put = ax.lines
    assert np.array_equal(clean.get_ydata(), results["clamped"].clean[0]) and clean.get_linestyle() == "--"
    assert np.array_equal(edited.get_ydata(), results["clamped"].edited[0]) and put.get_ydata().tolist() == [1.0] * 4
    assert put.get_xdata().tolist() == [5, 6, 7, 8] and len(ax.patches) == 1 and ax.patches[0].get_x() == 4.5


@pytest.fixture(scope="module")
def ablated():
    model, x = torch.nn.LSTM(3, 5, batch_first=True), torch.randn(6, 7, 3)
    label = {"rising": (x[:, :, 0] > 0).numpy()}
    return lx.ablation(model, x, "l0", loss=lambda output, rows: output[0].sum(2), by=label, order="removal", progress=False)


@pytest.mark.parametrize(
    ("options", "title"),
    [
        ({}, "of 5 ablations are shown to change the loss over all steps"),
        ({"units": 2}, "the 2 largest"),
        ({"label": "rising"}, "of 5 ablations are shown"),
        ({"kind": "removal"}, "of 5 held together before a rise of the loss is shown"),
    ],
)
def test_ablations_say_what_is_shown(ablated, options, title):
    ax = lx.plot(ablated, Figure().add_subplot(), **options)
    assert title in ax.get_title(loc="left") and ax.get_xlabel() and ax.get_ylabel()
    ax.figure.draw_without_rendering()


def test_an_ablation_without_removal_has_no_curve(ablated):
    with pytest.raises(lx.InputError, match="^needed an ablation with order='removal'"):
        lx.plot(dataclasses.replace(ablated, removal=None), Figure().add_subplot(), kind="removal")
