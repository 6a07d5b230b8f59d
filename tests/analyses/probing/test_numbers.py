"""Every number of a probing a second time, by scikit-learn."""

import numpy as np
import pytest
import torch
from probed import KINDS, Steps, as_label, planted, slow_ridge, slow_waves
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, PredefinedSplit, cross_val_predict

import lstm_explain as lx
from lstm_explain.accumulators import Gram
from lstm_explain.analyses.probing import fits
from lstm_explain.analyses.probing.labels import Truth
from lstm_explain.analyses.probing.unit_scores import Moved


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


def test_thinning_leaves_nothing_of_many_short_sequences():
    # "needed at least two values ..., got none defined": stride 16, phase 13, sequences of 10 steps. 25,000 sequences of 20 steps do it
    # with the default at_most.
    rng = np.random.default_rng(0)
    result = lx.probe(planted(rng.normal(size=(400, 10, 3))), rng.random((400, 10)) > 0.5, at_most=250, resamples=5, permutations=5)
    assert result.labels["label"].steps > 150


def test_the_same_seed_gives_the_same_result_and_another_one_other_folds():
    rng = np.random.default_rng(0)
    recording, label = planted(slow_waves(rng, 12, 30, 3)), rng.random((12, 30)) > 0.5
    one, again, other = (lx.probe(recording, label, resamples=20, permutations=20, seed=seed) for seed in (1, 1, 2))
    assert one.to_dict() == again.to_dict() and one.fold_of == again.fold_of != other.fold_of
