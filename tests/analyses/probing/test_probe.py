"""What states tell of a label, beside their controls: every number a second time, and networks whose answer is known."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mechanisms import OPEN, blank, counter, rows
from scipy.signal import lfilter
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score, r2_score, roc_auc_score
from sklearn.model_selection import GroupKFold, PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import nn

import lstm_explain as lx
from lstm_explain.accumulators import Gram
from lstm_explain.analyses.probing import fits
from lstm_explain.analyses.probing.labels import Truth, read
from lstm_explain.analyses.probing.probe import _verdict
from lstm_explain.analyses.probing.scores import Interval, draws
from lstm_explain.analyses.probing.unit_scores import Moved
from lstm_explain.nn.equations import Form

KINDS = ("binary", "continuous", "categorical")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Several only wait for each other on matrices this small."""
    with threadpool_limits(1):
        yield


def planted(cells, hidden=None, lengths=None, name="l0"):
    """A recording of one layer whose cells are these; the hidden state is their hyperbolic tangent if none is given."""
    cells = torch.as_tensor(cells)
    batch, time, units = cells.shape
    lengths = torch.full((batch,), time) if lengths is None else torch.as_tensor(lengths)
    valid = torch.arange(time) < lengths[:, None]
    gates = dict.fromkeys(("input_gate", "forget_gate", "cell_candidate", "output_gate"), torch.zeros_like(cells))
    signals = gates | {"cell_state": cells, "hidden_state": cells.tanh() if hidden is None else torch.as_tensor(hidden)}
    zeros, begins = torch.zeros(batch, units), torch.zeros(batch, dtype=torch.long)
    padding = "none" if valid.all() else "known"
    return {
        name: lx.Trajectory(name, "lstm", signals, valid, padding, {"hidden_state": zeros, "cell_state": zeros}, begins, False, Form(None))
    }


def recorded(lstm, inputs):
    with torch.no_grad(), lx.record(lstm, lengths=[inputs.shape[1]] * len(inputs)) as recording:
        lstm(inputs)
    return recording


def one_hot(symbols, of):
    return torch.nn.functional.one_hot(torch.as_tensor(symbols), of).double()


def slow_waves(rng, batch, time, units):
    """Independent AR(.95) series with unit noise."""
    return lfilter([1.0], [1.0, -0.95], rng.normal(size=(batch, time + 100, units)), axis=1)[:, 100:]


def as_label(kind, wave):
    if kind == "continuous":
        return wave
    return wave > 0.3 if kind == "binary" else np.digitize(wave, [-1, 1])


def mark_keeper(units=6, seed=0):
    """Inputs a, b, c, d. Unit 3 is 1 since the last a and -1 since the last b, c and d go by; the others are random and don't see it."""
    lstm, generator = blank(4, units), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in (lstm.weight_ih_l0, lstm.weight_hh_l0):
            weight.copy_(0.7 * torch.randn(weight.shape, generator=generator, dtype=torch.float64))
        own = torch.arange(4) * units + 3
        lstm.weight_hh_l0[:, 3] = lstm.weight_hh_l0[own] = lstm.weight_ih_l0[own] = 0
        for gate in "ifo":
            rows(lstm, gate)[3] = OPEN
        lstm.weight_ih_l0[own[1], :2] = -2 * OPEN
        lstm.weight_ih_l0[own[2]] = torch.tensor([OPEN, -OPEN, 0, 0], dtype=torch.float64)
    return lstm


def marked_sequences(batch=20, time=120, seed=0):
    """Symbols 0 to 3; 0 and 1 come at the first step and every 25th or so, and which of them came last is the label."""
    rng = np.random.default_rng(seed)
    marks = rng.random((batch, time)) < 0.04
    marks[:, 0] = True
    symbols = np.where(marks, rng.integers(0, 2, (batch, time)), rng.integers(2, 4, (batch, time)))
    last = np.maximum.accumulate(np.where(marks, np.arange(time), 0), axis=1)
    return symbols, np.take_along_axis(symbols, last, 1) == 0, marks


class Steps:
    """The steps of a probing, one row each, for doing it by hand."""

    def __init__(self, result, groups, lengths, label, name="y", events=None):
        self.sequence = np.repeat(range(len(lengths)), lengths)
        self.step = np.concatenate([np.arange(n) for n in lengths])
        self.group_names = list(dict.fromkeys(groups))
        self.group = np.array([self.group_names.index(groups[b]) for b in self.sequence])
        self.fold = np.array([result.fold_of[groups[b]] for b in self.sequence])
        self.y = label[self.sequence, self.step]
        self.window = result.window
        if events is None:
            events = np.array([[t == 0 or row[t] != row[t - 1] for t in range(len(row))] for row in label])
        self.far = np.array(
            [
                t - max(e for e in range(t + 1) if e == 0 or events[b, e]) > result.window
                for b, t in zip(self.sequence, self.step, strict=True)
            ]
        )

    def rows(self, values):
        return np.asarray(values)[self.sequence, self.step]

    def predictions(self, kind, x, solver="newton-cholesky"):
        """Held-out predictions by scikit-learn."""
        if kind == "continuous":
            return slow_ridge(x, self.y, self.fold)
        solver = solver if kind == "binary" else "lbfgs"
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, solver=solver, max_iter=1000))
        method = "decision_function" if kind == "binary" else "predict"
        return cross_val_predict(probe, x, self.y, cv=PredefinedSplit(self.fold), method=method)

    def best_units(self, kind, x):
        """Of each fold the unit that scores best on the others."""
        chosen = []
        for out in np.unique(self.fold):
            rest, scores = self.fold != out, []
            for unit in x.T:
                if np.ptp(unit[rest]) == 0:
                    scores.append(0)
                elif kind == "binary":
                    scores.append(abs(self.score(kind, unit, self.y, rest) - 0.5))
                elif kind == "continuous":
                    scores.append(np.corrcoef(unit[rest], self.y[rest])[0, 1] ** 2)
                else:
                    mean = unit[rest].mean()
                    classes = [unit[rest & (self.y == one)] for one in np.unique(self.y)]
                    scores.append(sum(len(c) * (c.mean() - mean) ** 2 for c in classes) / ((unit[rest] - mean) ** 2).sum())
            chosen.append(int(np.argmax(scores)))
        return tuple(chosen)

    def single(self, kind, x, chosen):
        predicted = np.zeros(len(x))
        for out, unit in zip(np.unique(self.fold), chosen, strict=True):
            here, rest, one = self.fold == out, self.fold != out, x[:, [unit]]
            if kind == "binary":
                predicted[here] = one[here, 0] * (1 if one[rest & self.y].mean() > one[rest & ~self.y].mean() else -1)
            elif kind == "continuous":
                predicted[here] = Ridge(alpha=0).fit(one[rest], self.y[rest]).predict(one[here])
            else:
                probe = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))
                predicted[here] = probe.fit(one[rest], self.y[rest]).predict(one[here])
        return predicted

    def score(self, kind, predicted, y, at):
        """On some rows, which may come several times."""
        predicted, y, fold = predicted[at], y[at], self.fold[at]
        if kind == "continuous":
            return r2_score(y, predicted)
        if kind == "categorical":
            return balanced_accuracy_score(y, predicted)
        each = [(y[fold == one], predicted[fold == one]) for one in np.unique(fold)]
        each = [(y, p) for y, p in each if y.any() and not y.all()]
        return np.average([roc_auc_score(y, p) for y, p in each], weights=[y.sum() * (~y).sum() for y, _ in each])

    def drawn(self, kind, predicted, seed, resamples, mask=None):
        """The score on each bootstrap sample of groups."""
        mask = np.ones(len(self.y), dtype=bool) if mask is None else mask
        samples = []
        for times in draws(len(self.group_names), resamples, seed).astype(int):
            at = np.concatenate([np.flatnonzero(mask & (self.group == one)) for one, m in enumerate(times) for _ in range(m)])
            samples.append(self.score(kind, predicted, self.y, at))
        return np.array([self.score(kind, predicted, self.y, np.flatnonzero(mask))]), np.array(samples)


def slow_ridge(x, y, fold):
    """Held-out predictions, the penalty chosen by the other folds among themselves; it is for each step."""

    def fitted(rows, penalty):
        return make_pipeline(StandardScaler(), Ridge(alpha=penalty * rows.sum())).fit(x[rows], y[rows])

    predicted = np.zeros(len(x))
    for out in np.unique(fold):
        rest, errors = fold != out, []
        for penalty in fits.RIDGE:
            held_out = [(fitted(rest & (fold != one), penalty), fold == one) for one in np.unique(fold[rest])]
            errors.append(sum(((fit.predict(x[held]) - y[held]) ** 2).sum() for fit, held in held_out))
        predicted[fold == out] = fitted(rest, fits.RIDGE[int(np.argmin(errors))]).predict(x[fold == out])
    return predicted


def as_interval(value, samples):
    return [value[0], *np.quantile(samples, [0.025, 0.975])]


def close(found, expected):
    # Logistic regressions stop when they are near enough; ranks and classes hold all the same.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_equals_scikit_learns_by_hand(kind):
    rng = np.random.default_rng(3)
    groups = ["c", "a", "c", "b", "e", "d", "e", "f", "g", "b", "h", "h"]
    lengths = rng.integers(20, 41, 12)
    cells = slow_waves(rng, 12, 40, 4).astype(np.float32)
    hidden, twin = rng.normal(size=(12, 40, 3)).astype(np.float32), slow_waves(rng, 12, 40, 2).astype(np.float32)
    noise = np.random.default_rng(4).normal(size=(12, 40, 3)).astype(np.float32)
    cells[:, :, 3] = 7
    wave = cells[:, :, 1] - 0.4 * cells[:, :, 0] + 1.5 * slow_waves(rng, 12, 40, 1)[:, :, 0]
    label, inputs = as_label(kind, wave), rng.normal(size=(12, 40, 2)).astype(np.float32)
    events = np.asarray(np.abs(inputs[:, :, 0]) > 1.5)
    result = lx.probe(
        planted(cells, hidden, lengths),
        {"y": label},
        groups=groups,
        controls={"untrained": planted(twin, noise, lengths), "window": torch.as_tensor(inputs)},
        events={"y": events},
        folds=4,
        window=3,
        resamples=12,
        permutations=30,
        seed=5,
    )
    found, steps = result.labels["y"], Steps(result, groups, lengths, label, events=events)
    assert (found.kind, found.steps, found.long_range_steps) == (kind, lengths.sum(), steps.far.sum()) and steps.far.any()
    features = {
        "l0 cell_state": steps.rows(cells).astype(float),
        "l0 hidden_state": steps.rows(hidden).astype(float),
        "untrained l0 cell_state": steps.rows(twin).astype(float),
        "untrained l0 hidden_state": steps.rows(noise).astype(float),
        "window": np.array(
            [
                np.concatenate([inputs[b, t - lag] if t >= lag else np.zeros(2) for lag in range(3)])
                for b, t in zip(steps.sequence, steps.step, strict=True)
            ]
        ),
    }
    everywhere, far = {}, {}
    for source, x in features.items():
        predicted, chosen = steps.predictions(kind, x), steps.best_units(kind, x)
        probed = (found.probes | found.controls)[source]
        everywhere[source] = steps.drawn(kind, predicted, 5, 12)
        far[source] = steps.drawn(kind, predicted, 5, 12, steps.far)
        close(probed.score, as_interval(*everywhere[source]))
        close(probed.long_range, as_interval(*far[source]))
        close(probed.unit_score, as_interval(*steps.drawn(kind, steps.single(kind, x, chosen), 5, 12)))
        assert probed.units == chosen
    assert found.best == "l0 cell_state" and found.probes.keys() == {"l0 cell_state", "l0 hidden_state"}
    assert found.controls.keys() == {"majority", "window", "untrained l0 cell_state", "untrained l0 hidden_state"}
    best_untrained = max(list(features)[2:4], key=lambda source: everywhere[source][0][0])
    for control, source in (("window", "window"), ("untrained", best_untrained)):
        for above, drawn in ((found.above, everywhere), (found.above_long_range, far)):
            value, samples = (ours - theirs for ours, theirs in zip(drawn[found.best], drawn[source], strict=True))
            close(above[control], as_interval(value, samples))
    predicted = steps.predictions(kind, features[found.best])
    moves = np.concatenate(list(Moved(steps.sequence, "circular_shift").places(30, 5)))
    drawn = [steps.score(kind, predicted, steps.y[move], np.arange(len(move))) for move in moves]
    assert found.p_value == (1 + sum(one >= everywhere[found.best][0][0] - 1e-9 for one in drawn)) / 31
    alone = lx.unit_scores(steps.rows(cells[:, :, :3]), steps.y, groups=steps.sequence, permutations=30, seed=5)
    np.testing.assert_allclose(found.units.scores[:3], alone.scores, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found.units.p_values_family[:3], alone.p_values_family)
    assert result.cells == (("l0", 0), ("l0", 1), ("l0", 2), ("l0", 3)) and found.units.constant == (3,)


@pytest.mark.parametrize("kind", ["binary", "continuous"])
def test_a_window_of_symbols_has_a_column_for_each_symbol_at_each_lag(kind):
    rng = np.random.default_rng(0)
    symbols, lengths = rng.integers(0, 4, (9, 30)), rng.integers(15, 31, 9)
    symbols[np.arange(30) >= lengths[:, None]] = -100
    label = as_label(kind, np.roll(symbols == 3, 1, axis=1) - 0.8 * (symbols == 0) + rng.normal(size=(9, 30)))
    controls = {"window": torch.as_tensor(symbols)}
    result = lx.probe(planted(slow_waves(rng, 9, 30, 2), lengths=lengths), {"y": label}, controls=controls, folds=3, window=2, resamples=5)
    steps = Steps(result, list(range(9)), lengths, label)
    x = np.array(
        [
            [float(t >= lag and symbols[b, t - lag] == one) for lag in range(2) for one in range(4)]
            for b, t in zip(steps.sequence, steps.step, strict=True)
        ]
    )
    if kind == "binary":
        predicted = cross_val_predict(
            LogisticRegression(max_iter=1000), x, steps.y, cv=PredefinedSplit(steps.fold), method="decision_function"
        )
    else:
        predicted = slow_ridge(x, steps.y, steps.fold)
    close(result.labels["y"].controls["window"].score, as_interval(*steps.drawn(kind, predicted, 0, 5)))


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_folds_are_scikit_learns_of_whole_groups(folds):
    groups = list("abcabdefgghijjj")
    fold_of = lx.Probing(groups, folds=folds, seed=4).fold_of
    at = {name: place for place, name in enumerate(dict.fromkeys(groups))}
    split = GroupKFold(folds, shuffle=True, random_state=4).split(groups, groups=[at[group] for group in groups])
    assert fold_of == {groups[row]: fold for fold, (_, held) in enumerate(split) for row in held}
    assert lx.Probing(groups, folds=folds, seed=5).fold_of != fold_of


def predicted_by_all(kind, x, values, fold):
    truth = Truth(kind, values, tuple(map(str, np.unique(values))) if kind != "continuous" else ())
    chosen = fits.Units(x, fold).best(truth)
    predicted = {"single": fits.single(x, truth, fold, chosen), "majority": fits.majority(truth, fold)}
    if kind == "continuous":
        grams = {int(one): Gram() for one in np.unique(fold)}
        for one, gram in grams.items():
            gram.update(x[fold == one], values[fold == one])
        return predicted | {"ridge": fits.ridge(x, fold, grams)}
    return predicted | {"logistic": fits.logistic("y", x, truth, fold)}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_predicted_of_a_fold_does_not_depend_on_its_own_labels(kind):
    rng = np.random.default_rng(0)
    x, fold = rng.normal(size=(160, 5)), np.repeat(range(4), 40)
    values = as_label(kind, 0.2 * x[:, 0] - 0.2 * x[:, 1] + rng.normal(size=160)) * (1.0 if kind == "continuous" else 1)
    before = predicted_by_all(kind, x, values, fold)
    for out in range(4):
        # What its own labels would say loudly: another unit, upside down.
        values_there = as_label(kind, -9 * x[:, 3]) * (1.0 if kind == "continuous" else 1)
        after = predicted_by_all(kind, x, np.where(fold == out, values_there, values), fold)
        for name, fitted in before.items():
            np.testing.assert_array_equal(fitted.predicted[fold == out], after[name].predicted[fold == out], err_msg=name)
            assert name == "majority" or (fitted.predicted[fold != out] != after[name].predicted[fold != out]).any()


@pytest.mark.parametrize("folds", [3, 5])
def test_ridge_from_sums_of_products_equals_scikit_learns(folds):
    rng = np.random.default_rng(folds)
    x = rng.normal(size=(150, 12)) * np.logspace(-3, 3, 12) + rng.normal(size=12)
    y, fold = x[:, 2] * 200 + rng.normal(size=150) * 3 + 50, rng.integers(0, folds, 150)
    x[:, 4], x[fold > 0, 5] = 1e6, 1 / 7000  # constant; constant in all folds but one, up to the rounding of its sums
    grams = {one: Gram() for one in range(folds)}
    for one, gram in grams.items():
        gram.update(x[fold == one], y[fold == one])
    np.testing.assert_allclose(fits.ridge(x, fold, grams).predicted, slow_ridge(x, y, fold), rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_that_only_says_which_group_it_is_says_nothing_of_the_label(kind):
    values = as_label(kind, np.random.default_rng(0).permutation(np.linspace(-2, 2, 20)))
    cells = np.broadcast_to(np.eye(20)[:, None], (20, 15, 20)).copy()
    found = lx.probe(planted(cells), np.repeat(values[:, None], 15, 1), resamples=20, permutations=20).labels["label"]
    assert found.null == "group_permutation"
    for probed in found.probes.values():
        for one in (probed.score, probed.unit_score):
            if kind == "binary":
                assert one.value == 0.5
            else:
                assert one.value <= (0 if kind == "continuous" else 1 / 3 + 0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_cell_is_the_best_unit_in_every_fold(kind):
    rng = np.random.default_rng(1)
    cells = slow_waves(rng, 20, 60, 64)
    label = as_label(kind, cells[:, :, 41] + 3 * rng.normal(size=(20, 60)))
    hidden = slow_waves(rng, 20, 60, 64)
    result = lx.probe(planted(cells, hidden), {"y": label}, resamples=20, permutations=39)
    name, probed = result.labels["y"].best_unit()
    assert name == "l0 cell_state" and probed.units == (41,) * 5
    assert result.labels["y"].units.scores.argmax() == 41 and result.labels["y"].units.p_values_family[41] <= 0.05
    assert result.labels["y"].best_unit("hidden_state")[0] == "l0 hidden_state"


def probed_marks(**options):
    symbols, label, marks = marked_sequences()
    model, inputs = mark_keeper(), one_hot(symbols, 4)
    recording = recorded(model, inputs)
    everything = {"untrained": recorded(lx.untrained(model), inputs), "window": torch.as_tensor(symbols)}
    controls = {name: everything[name] for name in options.pop("controls", everything)}
    labels = options.pop("label", lambda *_: label)(symbols, label)
    return lx.probe(recording, {"y": labels}, controls=controls, resamples=200, permutations=39, **options)


def test_what_only_a_long_memory_knows_is_shown_and_far_from_the_mark_the_window_is_at_chance():
    symbols, label, marks = marked_sequences()
    found = probed_marks(events={"y": marks}).labels["y"]
    assert (found.verdict, found.verdict_long_range) == ("shown", "shown")
    name, keeper = found.best_unit()
    assert name == "l0 cell_state" and keeper.units == (3,) * 5
    assert keeper.unit_score == keeper.long_range == Interval(1, 1, 1) and found.probes[found.best].score.value > 0.999
    assert found.p_value == 1 / 40 and found.units.scores.argmax() == 3
    window = found.controls["window"]
    assert window.score.value > 0.6 and abs(window.long_range.value - 0.5) < 0.1
    assert all(above.low > 0 for above in (found.above | found.above_long_range).values())


def test_without_both_controls_nothing_is_shown():
    for controls in ([], ["untrained"], ["window"]):
        found = probed_marks(controls=controls).labels["y"]
        assert (found.verdict, found.verdict_long_range) == ("not controlled",) * 2 and found.p_value == 1 / 40
        assert found.above.keys() == {"majority", *controls}
        assert (found.best_control("window") is None) == ("window" not in controls)


def test_what_the_window_knows_is_not_shown():
    found = probed_marks(label=lambda symbols, _: np.roll(symbols, 2, axis=1) == 2).labels["y"]
    assert found.verdict == "not shown" and found.controls["window"].score.value > 0.99 and found.p_value == 1 / 40


def test_what_the_untrained_network_knows_as_well_is_not_shown():
    symbols, label, marks = marked_sequences()
    recording = recorded(mark_keeper(), one_hot(symbols, 4))
    controls = {"untrained": recorded(mark_keeper(seed=1), one_hot(symbols, 4)), "window": torch.as_tensor(symbols)}
    found = lx.probe(recording, {"y": label}, controls=controls, events={"y": marks}, resamples=50, permutations=39).labels["y"]
    assert (found.verdict, found.verdict_long_range) == ("not shown",) * 2 and found.above["window"].low > 0.1
    assert found.best_control("untrained")[0].startswith("untrained l0 ")


def test_the_counter_counts_in_its_cell_and_not_in_its_hidden_state():
    symbols = np.random.default_rng(0).integers(0, 2, (12, 60))
    inputs, model = one_hot(symbols, 2), counter()
    controls = {"untrained": recorded(lx.untrained(model), inputs), "window": torch.as_tensor(symbols)}
    count = (1 - 2.0 * symbols).cumsum(1)
    result = lx.probe(recorded(model, inputs), {"count": count}, controls=controls, resamples=100, permutations=39)
    found = result.labels["count"]
    assert found.verdict == "shown" and found.best == "l0 cell_state" and found.kind == "continuous"
    # Up to the smallest penalty and to float32, in which states are kept.
    assert found.probes["l0 cell_state"].score.value == pytest.approx(1, abs=1e-6)
    assert found.probes["l0 hidden_state"].score.value < 0.8 and found.best_unit()[1].units == (0,) * 5
    # It changes at every step, so none is far from its deciding event.
    assert found.long_range_steps == 0 and np.isnan(found.probes["l0 cell_state"].long_range.value)
    assert found.verdict_long_range == "not shown" and "–" in result._repr_html_()


@pytest.mark.parametrize(
    "lows, p_value, verdict",
    [
        ({"majority": 0.01, "untrained": 0.01, "window": 0.01}, 0.05, "shown"),
        ({"majority": 0.01, "untrained": 0.01, "window": 0.01}, 0.051, "not shown"),
        ({"majority": 0.0, "untrained": 0.01, "window": 0.01}, 0.01, "not shown"),
        ({"majority": 0.01, "untrained": 0.0, "window": 0.01}, 0.01, "not shown"),
        ({"majority": 0.01, "untrained": 0.01, "window": 0.0}, 0.01, "not shown"),
        ({"majority": 0.01, "untrained": np.nan, "window": 0.01}, 0.01, "not shown"),
    ],
)
def test_shown_is_above_every_control_and_not_chance(lows, p_value, verdict):
    above = {name: Interval(0.2, low, 0.3) for name, low in lows.items()}
    assert _verdict(True, above, p_value) == verdict and _verdict(False, above, p_value) == "not controlled"


def test_an_independent_label_is_hardly_ever_shown():
    shown = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        cells, twin, other = (slow_waves(rng, 15, 50, units) for units in (6, 6, 1))
        controls = {"untrained": planted(twin), "window": torch.as_tensor(rng.integers(0, 3, (15, 50)))}
        result = lx.probe(planted(cells), other[:, :, 0] > 0, controls=controls, window=2, resamples=60, permutations=39, seed=seed)
        shown += result.labels["label"].verdict == "shown"
    # Its interval would have to lie above three controls and its p-value under 5 %: 2 % of 120 were. At that rate two or more of twenty
    # come once in 17 times.
    assert shown <= 1


def test_events_decide_what_is_far():
    symbols, label, marks = marked_sequences(batch=10)
    recording = planted(slow_waves(np.random.default_rng(0), 10, 120, 2))
    by_change, by_events = (
        lx.probe(recording, {"y": label}, events=events, window=5, resamples=5, permutations=5).labels["y"].long_range_steps
        for events in (None, {"y": marks})
    )

    def far(events):
        return sum(t - max(e for e in range(t + 1) if e == 0 or events[b, e]) > 5 for b in range(10) for t in range(120))

    assert by_events == far(marks) < by_change == far(np.diff(label, axis=1, prepend=label[:, :1]))


def kinds_of(wave):
    """All kinds of label, undefined here and there."""
    away = np.random.default_rng(9).random(wave.shape) < 0.1
    return {
        "binary": np.where(away, -1, wave > 0.3),
        "continuous": np.where(away, np.nan, wave),
        "categorical": np.where(away, "", np.digitize(wave, [-1, 1]).astype(str)),
    }


def test_labels_do_not_see_each_other():
    rng = np.random.default_rng(0)
    cells, symbols = slow_waves(rng, 10, 20, 3), torch.as_tensor(rng.integers(0, 3, (10, 20)))
    labels = kinds_of(rng.normal(size=(10, 20)))
    for name, label in kinds_of(rng.normal(size=(10, 20))).items():
        labels[f"other {name}"] = label.copy()
        labels[f"other {name}"][rng.random((10, 20)) < 0.2] = {"binary": -1, "continuous": np.nan, "categorical": ""}[name]
    options = {"controls": {"window": symbols}, "folds": 3, "window": 2, "resamples": 10, "permutations": 10}
    together = lx.probe(planted(cells), labels, **options).to_dict()["labels"]
    for name, label in labels.items():
        assert together[name] == lx.probe(planted(cells), {name: label}, **options).to_dict()["labels"][name]


def test_undefined_steps_are_left_out():
    rng = np.random.default_rng(0)
    cells, twin = slow_waves(rng, 10, 20, 3), slow_waves(rng, 10, 20, 3)
    labels = kinds_of(rng.normal(size=(10, 20)))
    away = np.isnan(labels["continuous"])
    results = []
    for there in (cells[away], 1e3):
        cells[away] = twin[away] = there
        controls = {"untrained": planted(twin)}
        results.append(lx.probe(planted(cells), labels, controls=controls, folds=3, resamples=10, permutations=10).to_dict())
    assert results[0] == results[1] and results[0]["labels"]["binary"]["steps"] == (~away).sum()


def test_what_stands_in_the_padding_changes_nothing():
    rng = np.random.default_rng(0)
    lengths, symbols = rng.integers(8, 31, 15), rng.integers(0, 5, (15, 30))
    cells, twin, wave, inputs = slow_waves(rng, 15, 30, 3), slow_waves(rng, 15, 30, 3), slow_waves(rng, 15, 30, 1)[:, :, 0], None
    pad = np.arange(30) >= lengths[:, None]
    results = []
    for padded in (False, True):
        labels = kinds_of(wave)
        if padded:
            cells[pad], twin[pad], symbols[pad] = np.nan, 1e30, 99
            labels["binary"][pad], labels["continuous"][pad], labels["categorical"][pad] = 7, 1e30, "padding"
        inputs = torch.as_tensor(symbols)
        controls = {"untrained": planted(twin, lengths=lengths), "window": inputs}
        events = {"binary": (wave > 1) | (pad & padded)}
        recording = planted(cells, lengths=lengths)
        results.append(lx.probe(recording, labels, controls=controls, events=events, folds=3, resamples=20, permutations=20))
    assert results[0].to_dict() == results[1].to_dict() and results[0].padding == "known"
    assert results[0].labels["continuous"].steps == np.isfinite(kinds_of(wave)["continuous"][~pad]).sum()


def test_padding_of_float_inputs_does_not_enter_the_window():
    rng = np.random.default_rng(0)
    lengths, inputs = rng.integers(8, 31, 15), torch.randn(15, 30, 2)
    recording, label = planted(slow_waves(rng, 15, 30, 2), lengths=lengths), rng.random((15, 30)) > 0.5
    before = lx.probe(recording, label, controls={"window": inputs}, resamples=20, permutations=20).to_dict()
    inputs[torch.arange(30) >= torch.as_tensor(lengths)[:, None]] = torch.nan
    assert lx.probe(recording, label, controls={"window": inputs}, resamples=20, permutations=20).to_dict() == before


@settings(max_examples=4)
@given(st.lists(st.integers(1, 11), max_size=3, unique=True), st.randoms())
def test_any_split_into_whole_sequences_in_any_order_is_the_whole(cuts, random):
    rng = np.random.default_rng(0)
    groups, lengths = list("abcabdefgghi"), rng.integers(15, 31, 12)
    cells, twin = slow_waves(rng, 12, 30, 3), slow_waves(rng, 12, 30, 3)
    symbols = rng.integers(0, np.arange(2, 14)[:, None], (12, 30))  # later sequences bring symbols that earlier ones don't have
    labels = kinds_of(cells[:, :, 1] + rng.normal(size=(12, 30)))
    settings = {"folds": 3, "stride": 2, "window": 3, "seed": 1}
    parts = [list(range(a, b)) for a, b in pairwise([0, *sorted(cuts), 12])]

    def stream(sequences):
        one = lx.Probing(groups, **settings)
        one.update(
            planted(cells[sequences], lengths=lengths[sequences]),
            {name: label[sequences] for name, label in labels.items()},
            [groups[at] for at in sequences],
            untrained=planted(twin[sequences], lengths=lengths[sequences]),
            inputs=torch.as_tensor(symbols[sequences]),
        )
        return one

    whole = stream(list(range(12))).compute(resamples=50, permutations=20)
    in_order = lx.Probing(groups, **settings)
    for part in parts:
        in_order.merge(stream(part))
    random.shuffle(parts)
    merged = lx.Probing(groups, **settings)
    for part in parts:
        merged.merge(stream(part))
    for split, same_order in (
        (in_order.compute(resamples=50, permutations=20), True),
        (merged.compute(resamples=50, permutations=20), False),
    ):
        assert (split.fold_of, split.stride, split.padding, split.cells) == (whole.fold_of, 2, "known", whole.cells)
        for name, found in whole.labels.items():
            again = split.labels[name]
            assert (again.steps, again.long_range_steps, again.classes) == (found.steps, found.long_range_steps, found.classes)
            np.testing.assert_allclose(again.units.scores, found.units.scores, rtol=0, atol=1e-9)
            # Moves of the labels follow the order of the sequences.
            assert not same_order or (again.p_value, again.units.p_values.tolist()) == (found.p_value, found.units.p_values.tolist())
            # Logistic regression stops when it is near enough.
            tolerance = 1e-9 if found.kind == "continuous" else 1e-3
            for source, probed in (found.probes | found.controls).items():
                other = (again.probes | again.controls)[source]
                assert other.units == probed.units
                np.testing.assert_allclose(np.ravel(other[:3]), np.ravel(probed[:3]), rtol=0, atol=tolerance)


def test_a_stream_takes_updates_one_after_another():
    rng = np.random.default_rng(0)
    cells, label = slow_waves(rng, 10, 20, 3), rng.random((10, 20)) > 0.5
    whole = lx.probe(planted(cells), label, resamples=20, permutations=20)
    stream = lx.Probing(range(10))
    for part in (range(1), range(1, 10)):
        stream.update(planted(cells[part]), {"label": label[part]}, list(part))
    assert stream.compute(resamples=20, permutations=20).to_dict() == whole.to_dict()


def test_a_stream_computes_some_of_its_labels():
    rng = np.random.default_rng(0)
    stream, labels = lx.Probing(range(10)), kinds_of(rng.normal(size=(10, 20)))
    stream.update(planted(slow_waves(rng, 10, 20, 3)), labels, range(10))
    every = stream.compute(resamples=20, permutations=20).to_dict()["labels"]
    some = stream.compute(labels=["categorical", "binary"], resamples=20, permutations=20).to_dict()["labels"]
    assert list(some) == ["categorical", "binary"] and list(every) == list(labels)
    assert all(some[name] == every[name] for name in some)


def test_longer_data_are_thinned_and_the_result_says_so_while_numbers_are_fitted_on_all_steps():
    rng = np.random.default_rng(0)
    lengths = rng.integers(40, 61, 10)
    cells = slow_waves(rng, 10, 60, 5).astype(np.float32)
    label = cells[:, :, 1] + rng.normal(size=(10, 60))
    result = lx.probe(planted(cells, lengths=lengths), {"y": label, "b": label > 0}, at_most=lengths.sum() // 3, resamples=5, seed=2)
    assert result.stride == 4  # a little more than a third is asked for
    steps = Steps(result, list(range(10)), lengths, label)
    x = steps.rows(cells).astype(float)
    predicted, phases = slow_ridge(x, steps.y, steps.fold), []
    for phase in range(4):
        kept = steps.step % 4 == phase
        if kept.sum() == result.labels["y"].steps == result.labels["b"].steps:
            phases.append(abs(steps.score("continuous", predicted, steps.y, kept) - result.labels["y"].probes["l0 cell_state"].score.value))
    assert min(phases) < 1e-9
    assert lx.probe(planted(cells, lengths=lengths), {"y": label}, at_most=int(lengths.sum()), resamples=5, permutations=5).stride == 1


def test_the_same_seed_gives_the_same_result_and_another_one_other_folds():
    rng = np.random.default_rng(0)
    recording, label = planted(slow_waves(rng, 12, 30, 3)), rng.random((12, 30)) > 0.5
    one, again, other = (lx.probe(recording, label, resamples=20, permutations=20, seed=seed) for seed in (1, 1, 2))
    assert one.to_dict() == again.to_dict() and one.fold_of == again.fold_of != other.fold_of


RNG = np.random.default_rng(0)
CELLS, Y, SYMBOLS = RNG.normal(size=(6, 9, 2)), RNG.random((6, 9)) > 0.5, torch.as_tensor(RNG.integers(0, 3, (6, 9)))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"recording": {}}, "needed at least one recorded layer, got none: call the model inside lx.record first"),
        ({"recording": planted(np.where(CELLS > 2, np.nan, CELLS))}, "needed finite states to probe, got 1 NaN .* in l0 cell_state"),
        ({"recording": planted(CELLS, np.where(CELLS > 2, np.inf, 0))}, "needed finite states to probe, got 1 .* in l0 hidden_state"),
        ({"labels": Y[:, :8]}, r"needed label 'label' of shape \(6, 9\), one value for each step, got \(6, 8\)"),
        ({"labels": {"z": Y[0]}}, r"needed label 'z' of shape \(6, 9\), one value for each step, got \(9,\)"),
        ({"labels": Y | True}, "needed at least two values of label 'label', got only 1"),
        ({"labels": np.full((6, 9), np.nan)}, "needed at least two values of label 'label', got none defined"),
        ({"labels": np.where(Y, np.inf, 0.0)}, "needed finite numbers .* in label 'label', got infinite ones"),
        ({"labels": Y * 1j}, "needed label 'label' as booleans, whole numbers, numbers or text, got complex128"),
        ({"labels": np.where(np.arange(6)[:, None] == 2, Y, -1)}, "needed two classes of label 'label' outside each fold, got one"),
        ({"groups": range(5)}, "needed groups for 6 sequences, got 5"),
        ({"groups": "aabbcc"}, "needed at least 5 groups for 5 folds, got 3: give finer groups, or fewer folds"),
        ({"folds": 1}, "needed at least 2 folds, and a positive stride and window, got 1, 1 and 8"),
        ({"window": 0}, "needed at least 2 folds, and a positive stride and window, got 5, 1 and 0"),
        ({"controls": {"random": SYMBOLS}}, "needed controls named untrained and window, got 'random'"),
        ({"controls": {"untrained": planted(CELLS, name="l1")}}, "needed the untrained recording of the same layers, l0, got l1"),
        ({"controls": {"untrained": {}}}, "needed the untrained recording of the same layers, l0, got none"),
        ({"controls": {"untrained": planted(CELLS, lengths=[8] * 6)}}, "needed recordings of the same steps .* got others in untrained l0"),
        ({"controls": {"untrained": planted(CELLS * np.nan)}}, "needed finite states to probe, got 108 .* in untrained l0 cell_state"),
        ({"controls": {"window": SYMBOLS[:, :8]}}, r"needed the window's inputs of shape \(6, 9\) \+ \(feature,\), got \(6, 8\)"),
        (
            {"controls": {"window": SYMBOLS - 1}},
            r"needed the window's inputs as features .* or symbols \(batch, time\) from 0, got \(6, 9\)",
        ),
        ({"controls": {"window": SYMBOLS[:, :, None]}}, r"needed the window's inputs as features .* or symbols .* got \(6, 9, 1\)"),
        ({"events": {"label": Y[:, 1:]}}, r"needed events of 'label' of shape \(6, 9\), got \(6, 8\)"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(arguments, message):
    with pytest.raises(lx.InputError, match=f"^{message}") as refused:
        lx.probe(**{"recording": planted(CELLS), "labels": Y, "resamples": 5, "permutations": 5} | arguments)
    assert "\n" not in str(refused.value)


def test_a_stream_refuses_what_does_not_go_together():
    stream = lx.Probing(range(6))
    with pytest.raises(lx.InputError, match="^needed at least one recording, got none: call update first$"):
        stream.compute()
    with pytest.raises(lx.InputError, match="^needed groups that were announced, got 9$"):
        stream.update(planted(CELLS), {"y": Y}, [0, 1, 2, 9, 4, 5])
    with pytest.raises(lx.InputError, match="^needed at least one recorded layer, got none"):
        stream.update({}, {"y": Y}, range(6))
    stream.update(planted(CELLS), {"y": Y}, range(6))
    with pytest.raises(lx.InputError, match="^needed label 'y' of one kind throughout, got numbers and classes$"):
        stream.update(planted(CELLS), {"y": Y * 1.0}, range(6))
    for other in ({"folds": 3}, {"stride": 2}, {"window": 3}, {"seed": 1}):
        with pytest.raises(lx.InputError, match="^needed streams with the same groups, folds, stride, window and seed, got others$"):
            stream.merge(lx.Probing(range(6), **other))


def test_the_result_reads_and_exports():
    rng = np.random.default_rng(0)
    labels = kinds_of(rng.normal(size=(10, 20))) | {"<script>": rng.random((10, 20)) > 0.5}
    controls = {"untrained": planted(rng.normal(size=(10, 20, 3))), "window": torch.as_tensor(rng.normal(size=(10, 20)))}
    result = lx.probe(planted(rng.normal(size=(10, 20, 3))), labels, controls=controls, window=20, resamples=20, permutations=20)
    assert repr(result).startswith("<Probing by 10 groups in 5 folds: binary: AUC ") and repr(result).endswith("; padding none>")
    assert "\n" not in repr(result)
    html = result._repr_html_()
    assert html.startswith("<table>") and "&lt;script&gt;" in html and "<script" not in html and html.count("<tr>") == 5
    exported = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert (
        exported["window"] == 20 and exported["labels"].keys() == labels.keys() and exported["cells"] == [["l0", 0], ["l0", 1], ["l0", 2]]
    )
    binary = exported["labels"]["binary"]
    assert binary["probes"]["l0 cell_state"]["score"]["value"] == result.labels["binary"].probes["l0 cell_state"].score.value
    assert binary["probes"]["l0 cell_state"]["long_range"] is None and exported["labels"]["categorical"]["mean"] is None
    frame = result.to_frame()
    assert frame.shape == (4 * 6, 12) and frame["source"].tolist()[:2] == ["l0 cell_state", "l0 hidden_state"]
    assert frame["unit_score_high"][0] == result.labels["binary"].probes["l0 cell_state"].unit_score.high
    assert result.labels["continuous"].mean == pytest.approx(np.nanmean(labels["continuous"]))


# ---- What once went wrong


def labelled(kind, values):
    if kind == "continuous":
        return values
    return values > np.median(values) if kind == "binary" else np.digitize(values, np.quantile(values, [0.2, 0.7]))


def share_of_false_positives(p_values):
    return np.mean(np.array(p_values) <= 0.05)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", ["4 to 20", "lognormal"])
def test_group_permutation_with_groups_of_different_lengths(kind, lengths):
    p_values = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        of = np.repeat(
            range(24), rng.integers(4, 21, 24) if lengths == "4 to 20" else np.maximum(2, 12 * np.exp(rng.normal(size=24))).astype(int)
        )
        states = rng.normal(size=24)[of] + 0.1 * rng.normal(size=len(of))
        y = labelled(kind, rng.normal(size=24))[of]
        p_values.append(lx.unit_scores(states[:, None], y, groups=of, permutations=99, seed=seed).p_values[0])
    assert share_of_false_positives(p_values) <= 0.1


def by_patient(seed):
    rng, patient = np.random.default_rng(seed), np.repeat(range(12), 8)
    cells = rng.normal(size=(12, 1, 3))[patient] + 0.3 * rng.normal(size=(96, 6, 3))
    label = np.repeat((rng.permutation(12) % 2 == 0)[patient][:, None], 6, 1)
    return lx.probe(planted(cells), label, groups=patient, folds=3, resamples=5, permutations=39, seed=seed).labels["label"]


def test_probe_moves_labels_by_sequence_although_groups_are_given():
    # Twelve patients, eight sequences each; label and state go by patient, and independently.
    found = [by_patient(seed) for seed in range(24)]
    assert np.mean([one.units.p_values <= 0.05 for one in found]) <= 0.15 and np.mean([one.p_value <= 0.05 for one in found]) <= 0.15


def test_the_long_range_control_is_the_one_that_is_best_overall():
    # The untrained hidden state is as good as the trained cell at long range, though not everywhere.
    symbols, label, marks = marked_sequences(40, 120)
    step = np.arange(120)
    far = step - np.maximum.accumulate(np.where(marks, step, 0), axis=1) > 12
    rng, wave = np.random.default_rng(0), 2.0 * label - 1
    noise, other, another = 1.5 * rng.normal(size=label.shape), rng.normal(size=label.shape), rng.normal(size=label.shape)
    knows_near, knows_far = np.where(far, other, 3 * wave), np.where(far, wave + 1.5 * another, other)
    controls = {"untrained": planted(knows_near[:, :, None], knows_far[:, :, None]), "window": torch.as_tensor(symbols)}
    cells, hidden = (wave + noise)[:, :, None], rng.normal(size=(*label.shape, 1))
    found = lx.probe(
        planted(cells, hidden), label, controls=controls, events={"label": marks}, window=12, resamples=100, permutations=19
    ).labels["label"]
    print({name: (round(p.score.value, 2), round(p.long_range.value, 2)) for name, p in (found.probes | found.controls).items()})
    assert found.controls["untrained l0 hidden_state"].long_range.value > found.probes["l0 cell_state"].long_range.value
    assert found.verdict_long_range == "not shown"


def test_one_step_that_differs_turns_the_answer_over():
    # A shift within groups would know next to nothing here.
    rng = np.random.default_rng(0)
    of, label = np.repeat(range(40), 20), np.repeat(np.arange(40) % 2, 20)
    states = (label + 0.5 * rng.normal(size=40)[of] + 0.1 * rng.normal(size=800))[:, None]
    assert lx.unit_scores(states, label, groups=of).p_values[0] == 0.001
    label[5] = 1 - label[5]
    assert lx.unit_scores(states, label, groups=of).p_values[0] < 0.05


def test_a_score_that_is_not_defined_has_the_smallest_p_value():
    # Five groups in five folds, the label constant in each: there are no pairs to compare.
    label = np.repeat([[True], [False], [True], [False], [True]], 20, axis=1)
    with np.errstate(all="ignore"):
        found = lx.probe(planted(np.random.default_rng(0).normal(size=(5, 20, 3))), label, resamples=5, permutations=19).labels["label"]
    assert np.isnan(found.probes[found.best].score.value) and not found.p_value < 1


def test_the_best_unit_is_chosen_by_ranks_and_turned_by_its_slope():
    rng = np.random.default_rng(0)
    label = rng.random((20, 100)) > 0.5
    cells = np.where(label & (rng.random((20, 100)) < 0.02), -1000, label + 0.01 * rng.normal(size=(20, 100)))
    probed = lx.probe(planted(cells[:, :, None]), label, resamples=5, permutations=5).labels["label"].probes["l0 cell_state"]
    assert probed.unit_score.value > 0.9


def test_a_window_longer_than_the_sequences():
    inputs, rng = torch.randn(20, 5, 2), np.random.default_rng(0)
    lx.probe(planted(rng.normal(size=(20, 5, 3))), rng.random((20, 5)) > 0.5, controls={"window": inputs}, resamples=5, permutations=5)


def test_thinning_leaves_nothing_of_many_short_sequences():
    # "needed at least two values ..., got none defined": stride 16, phase 13, sequences of 10 steps. 25,000 sequences of 20 steps do it
    # with the default at_most.
    rng = np.random.default_rng(0)
    result = lx.probe(planted(rng.normal(size=(400, 10, 3))), rng.random((400, 10)) > 0.5, at_most=250, resamples=5, permutations=5)
    assert result.labels["label"].steps > 150


def test_infinite_padding_of_a_label_is_refused():
    label = np.where(np.arange(9) < 7, RNG.normal(size=(6, 9)), np.inf)
    lx.probe(planted(CELLS, lengths=[7] * 6), label, resamples=5, permutations=5)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(
            {"labels": np.where(np.arange(6)[:, None] == 2, CELLS[:, :, 0], np.nan)}, id="number in one fold only: ZeroDivisionError"
        ),
        pytest.param({"controls": {"window": torch.full((6, 9, 1), torch.nan)}}, id="window of NaN: sklearn's ValueError, many lines"),
        pytest.param({"events": {"lable": Y}}, id="events of no label: ignored silently"),
        pytest.param({"at_most": 0}, id="at_most=0: ZeroDivisionError"),
        pytest.param({"labels": {}}, id="no label: an empty result"),
    ],
)
def test_should_be_refused_in_one_line(arguments):
    with pytest.raises(lx.InputError) as refused:
        lx.probe(**{"recording": planted(CELLS), "labels": Y, "resamples": 5, "permutations": 5} | arguments)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "second", [{"labels": {"z": Y}}, {"untrained": planted(CELLS)}, {"inputs": SYMBOLS}, {"recording": planted(CELLS, name="l1")}]
)
def test_updates_that_do_not_go_together(second):
    stream = lx.Probing(range(6))
    first = {"recording": planted(CELLS), "labels": {"y": Y}, "groups": range(6)}
    stream.update(**first)
    with pytest.raises(lx.InputError):
        stream.update(**first | second)
        stream.compute(resamples=5, permutations=5)


def test_an_update_that_was_refused_leaves_half_of_itself():
    # Labels must not be kept before states are looked at.
    stream = lx.Probing(range(6))
    with pytest.raises(lx.InputError):
        stream.update(planted(CELLS * np.nan), {"y": Y}, range(6))
    stream.update(planted(CELLS), {"y": Y}, range(6))
    assert stream.compute(resamples=5, permutations=5).labels["y"].steps == 54


def test_merge_does_not_compare_the_phase():
    # The message says seed; fold_of of few groups can be the same for two seeds, and the steps kept then aren't.
    one, other = (lx.Probing(range(2), folds=2, stride=5, seed=seed) for seed in (0, 4))
    with pytest.raises(lx.InputError):
        one.merge(other)


@pytest.mark.parametrize("nothing", [None, float("nan")])
def test_nothing_becomes_a_class(nothing):
    # None and NaN are how pandas marks missing text.
    assert read("x", np.array(["a", nothing, "b"], dtype=object)).defined.tolist() == [True, False, True]


class Scaled(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)
        self.scale = nn.Parameter(torch.tensor([3.0, 2.0]))


@pytest.mark.parametrize("make", [Scaled, lambda: nn.utils.spectral_norm(nn.Linear(2, 2))], ids=["subclass", "spectral_norm"])
def test_what_the_bases_reset_parameters_does_not_reach_stays_trained(make):
    with pytest.raises(lx.InputError, match="would stay trained"):
        lx.untrained(make())


def test_some_labels_that_are_none():
    stream = lx.Probing(range(6))
    stream.update(planted(CELLS), {"y": Y}, range(6))
    with pytest.raises(lx.InputError):
        stream.compute(labels=["z"])
