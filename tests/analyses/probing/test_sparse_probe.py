"""How many units it takes: the choice a second time, slowly; nothing of the scored groups; planted units; twins that chose as freely."""

import json
import math

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import balanced_accuracy_score, r2_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import lstm_explain as lx
from lstm_explain.accumulators import Gram
from lstm_explain.analyses.probing import fits
from lstm_explain.analyses.probing.forward import forward
from lstm_explain.analyses.probing.held_out import ask
from lstm_explain.analyses.probing.labels import read, resolve
from lstm_explain.analyses.probing.scores import Interval, draws
from lstm_explain.analyses.probing.sparse_probe import at_once, fewest_within

KINDS = ("binary", "continuous", "categorical")
GROUPS = np.repeat(range(12), [20, 30, 25, 25, 35, 15, 20, 30, 22, 28, 18, 32])
N = len(GROUPS)


def labelled(kind, wave):
    return {"binary": wave > 0, "continuous": wave, "categorical": np.digitize(wave, [-0.5, 1])}[kind]


def data(kind, units=6, seed=0):
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(N, units)) @ rng.normal(size=(units, units))
    return states, labelled(kind, states[:, 0] + 0.5 * states[:, 1] + rng.normal(size=N))


def truth_of(y):
    given = read("labels", y)
    return resolve("labels", given.values, given.continuous)


def folds_by_hand(folds, seed):
    return [held for _, held in GroupKFold(folds, shuffle=True, random_state=seed).split(GROUPS, groups=GROUPS)]


def explained(x, truth):
    """What a least-squares fit explains: of a number, or of each class's indicator by the class's size."""
    if truth.kind == "continuous":
        return LinearRegression().fit(x, truth.values).score(x, truth.values)
    total = 0.0
    for one in np.unique(truth.values):
        y = (truth.values == one) * 1.0
        total += ((LinearRegression().fit(x, y).predict(x) - y.mean()) ** 2).sum() / y.sum()
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_each_next_unit_is_the_one_with_which_least_squares_explains_most(kind):
    states, y = data(kind)
    truth, fold = truth_of(y), GROUPS % 3
    for out, order in enumerate(forward(states, truth, fold, 6)):
        rest = truth._replace(values=truth.values[fold != out])
        chosen = []
        for unit in order:
            gains = {one: explained(states[fold != out][:, [*chosen, one]], rest) for one in range(6) if one not in chosen}
            assert unit == max(gains, key=gains.get)
            chosen.append(unit)


def test_repeated_and_constant_units_come_last_by_number():
    states, y = data("continuous")
    repeated = np.column_stack([np.full(N, 0.1), states[:, 0], states[:, 0] * 3 - 1, states[:, 1:3], states[:, 1] - states[:, 2]])
    for order in forward(repeated, truth_of(y), GROUPS % 3, 6):
        assert set(order[:3].tolist()) in [{unit, *rest} for unit in (1, 2) for rest in ((3, 4), (3, 5), (4, 5))]
        assert order[3:].tolist() == sorted(order[3:]) and order[3] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_no_fold_has_a_part_in_choosing_or_fitting_what_it_is_scored_by(kind):
    states, y = data(kind)
    result = lx.sparse_probe(states, y, groups=GROUPS, folds=4, resamples=5)
    other_y, other_states = y.copy(), states.copy()
    (held, *_) = folds_by_hand(4, 0)
    other_y[held] = np.random.default_rng(9).permutation(y[held])
    other_states[held] = np.random.default_rng(9).normal(size=(len(held), 6))
    changed = lx.sparse_probe(other_states, other_y, groups=GROUPS, folds=4, resamples=5)
    assert changed.chosen[0].tolist() == result.chosen[0].tolist() and changed.chosen.tolist() != result.chosen.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_all_units_score_like_the_probes_of_other_results(kind):
    states, y = data(kind)
    truth, fold = truth_of(y), np.zeros(N, dtype=np.int64)
    for one, held in enumerate(folds_by_hand(4, 3)):
        fold[held] = one
    if kind == "continuous":
        grams = {one: Gram() for one in range(4)}
        for one, gram in grams.items():
            gram.update(states[fold == one], y[fold == one])
        told = fits.ridge(states, fold, grams)
    else:
        told = fits.logistic("labels", states, truth, fold)
    for one in range(4):
        mine = ask(truth, states[fold != one], fold != one, states[fold == one], fold)
        # Of predictions nine decimals are kept.
        np.testing.assert_allclose(mine.predicted, told.predicted[fold == one], rtol=0, atol=1e-8)
        assert mine.converged


@pytest.mark.parametrize("kind", ["continuous", "categorical"])
def test_each_count_scores_its_first_units_of_every_fold(kind):
    states, y = data(kind)
    result = lx.sparse_probe(states, y, groups=GROUPS, counts=[3, 1], folds=3, resamples=5, seed=2)
    assert result.counts == (1, 3) and result.chosen.shape == (3, 3)
    for count in (1, 3):
        predicted = np.zeros(N)
        for held, order in zip(folds_by_hand(3, 2), result.chosen, strict=True):
            rest, few = np.setdiff1d(range(N), held), order[:count]
            model = LinearRegression() if kind == "continuous" else LogisticRegression(max_iter=1000)
            predicted[held] = make_pipeline(StandardScaler(), model).fit(states[rest][:, few], y[rest]).predict(states[held][:, few])
        wanted = r2_score(y, predicted) if kind == "continuous" else balanced_accuracy_score(y, predicted)
        # Least squares without the penalty, which is 1e-6 to 0.01 per step.
        assert result.score_of(count).value == pytest.approx(wanted, abs=2e-3 if kind == "continuous" else 1e-12)


def test_two_planted_units_are_all_it_takes():
    rng = np.random.default_rng(0)
    states = rng.normal(size=(N, 20))
    y = states[:, 11] - states[:, 4] > 0.3
    result = lx.sparse_probe(states, y, groups=GROUPS, controls={"untrained": rng.normal(size=(N, 20))}, resamples=200)
    assert result.counts == (1, 2, 4, 8, 16, 20) and result.fewest == 2
    assert all(set(order[:2].tolist()) == {4, 11} for order in result.chosen)
    assert result.score_of(1).high < result.score_of(2).low and result.above[1].low > 0.3 and result.untrained[1].value < 0.65
    assert result.fewest == next(
        count for count, one in zip(result.counts, result.scores, strict=True) if one.value >= result.score_of(result.best).low
    )


def test_the_fewest_is_the_first_value_and_not_interval_that_reaches_the_best_ones():
    best, overlapping, within = Interval(0.9, 0.8, 0.95), Interval(0.7, 0.6, 0.85), Interval(0.8, 0.7, 0.85)
    assert (
        fewest_within((overlapping, within, best)) == 1 and fewest_within((overlapping, best)) == 1 and fewest_within((best, within)) == 0
    )
    undefined = Interval(np.nan, np.nan, np.nan)
    assert fewest_within((undefined, best)) == 1 and fewest_within((undefined, undefined)) == 0


def test_features_that_do_not_change_where_a_probe_is_fitted_have_no_part_in_it():
    states, y = data("continuous")
    truth, fold = truth_of(y), GROUPS % 3
    here = fold == 0
    still = np.column_stack([states, np.where(here, states[:, 0], 0)])
    with_it, without = (ask(truth, one[~here], ~here, one[here], fold).predicted for one in (still, states))
    np.testing.assert_allclose(with_it, without, rtol=0, atol=1e-12)


def test_a_unit_that_says_nothing_alone_is_chosen_where_it_takes_the_noise_from_another():
    rng = np.random.default_rng(1)
    noise, signal = 3 * rng.normal(size=N), rng.normal(size=N)
    states = np.column_stack([rng.normal(size=(N, 5)), signal + noise, noise])
    for order in forward(states, truth_of(signal > 0), GROUPS % 3, 2):
        assert order.tolist() == [5, 6]


def test_intervals_of_all_counts_at_once_are_by_the_largest_excess_and_wider_of_few_groups():
    rng = np.random.default_rng(0)
    each, other, times = rng.normal(size=(3, 8)), rng.normal(size=(3, 8)), draws(8, 400, 1)

    def mean_of(groups):
        return lambda drawn: drawn @ groups / 8

    found = at_once([mean_of(one) for one in each], times, [mean_of(one) for one in other])
    value = (each - other).mean(1)
    drawn = times @ (each - other).T / 8
    excess = drawn - drawn.mean(0)
    wider = math.sqrt(8 / 7) * 2.364624 / 1.959964  # Student's t of 7, and the normal's, at 97.5 %
    low = value - wider * np.quantile(excess.max(1), 0.975)
    high = value + wider * np.quantile(-excess.min(1), 0.975)
    np.testing.assert_allclose(found, np.stack([value, low, high], 1), rtol=0, atol=1e-6)
    alone = at_once([mean_of(each[0])], times)
    assert alone[0].value == pytest.approx(each[0].mean()) and alone[0].high - alone[0].low > 1.2 * 2 * 1.96 * each[0].std() / math.sqrt(8)


def test_units_that_drift_are_rarely_said_to_carry_a_label_that_does():
    rng, claimed = np.random.default_rng(0), np.zeros(2)
    for _ in range(40):
        series = rng.normal(size=(12, 60, 17))
        for t in range(1, 60):
            series[:, t] += 0.95 * series[:, t - 1]
        states, label = series[:, :, :8].reshape(-1, 8), series[:, :, 16].ravel() > 0
        twins = {"untrained": series[:, :, 8:16].reshape(-1, 8)}
        result = lx.sparse_probe(states, label, groups=np.repeat(range(12), 60), controls=twins, resamples=200)
        claimed += result.above_chance, any(one.low > 0 for one in result.above)
    assert (claimed <= 6).all()  # of 40 at 1 in 20: more with a chance of 0.3 %


def test_noise_is_carried_by_no_number_of_units():
    rng = np.random.default_rng(2)
    result = lx.sparse_probe(rng.normal(size=(N, 8)), rng.random(N) > 0.5, groups=GROUPS, resamples=200)
    assert result.score_of(result.best).low <= result.chance == 0.5 and "; no count is above chance; not controlled>" in repr(result)
    assert result.untrained == result.above == () and result.fewest_untrained is None


def test_several_twins_are_one_control_and_it_is_treated_as_the_states_are():
    states, y = data("categorical")
    twins = [data("categorical", seed=seed)[0] for seed in (5, 6)]
    given = {"groups": GROUPS, "resamples": 50, "folds": 3}
    both = lx.sparse_probe(states, y, controls={"untrained": twins}, **given)
    alone = [lx.sparse_probe(twin, y, **given) for twin in twins]
    for at in range(len(both.counts)):
        assert both.untrained[at].value == pytest.approx(np.mean([one.scores[at].value for one in alone]), abs=1e-12)
        assert both.above[at].value == pytest.approx(both.scores[at].value - both.untrained[at].value, abs=1e-12)
        assert both.above[at].low < both.above[at].value < both.above[at].high
    # They hold for all counts at once.
    np.testing.assert_allclose(np.ptp([(one.value - one.low, one.high - one.value) for one in both.above], axis=0), 0, atol=1e-12)
    itself = lx.sparse_probe(states, y, controls={"untrained": states}, **given)
    assert itself.untrained == itself.scores and all(one == (0, 0, 0) for one in itself.above) and itself.fewest_untrained == itself.fewest
    assert (both.twins, itself.twins, both.chance) == (2, 1, 1 / 3)


def test_one_series_is_cut_into_twenty_pieces_and_undefined_steps_are_left_out():
    states, y = data("continuous")
    pieces = np.arange(N) * 20 // N
    away = np.random.default_rng(0).random(N) < 0.2
    holes = np.where(away, np.nan, y)
    series, grouped = (
        lx.sparse_probe(states, holes, resamples=20),
        lx.sparse_probe(states[~away], y[~away], groups=pieces[~away], resamples=20),
    )
    assert series.to_dict() == grouped.to_dict() and series.groups == 20 and series.steps == (~away).sum()


def test_the_result_reads_and_exports():
    states, y = data("binary")
    result = lx.sparse_probe(states, y, groups=GROUPS, controls={"untrained": states[::-1].copy()}, resamples=20)
    assert repr(result).startswith("<SparseProbe: ") and "\n" not in repr(result) and "untrained 0." in repr(result)
    html = result._repr_html_()
    assert html.startswith("<table>") and "<th>above it, 95 %</th>" in html and f"<td>{result.scores[-1].value:.3f}</td>" in html
    exported = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert exported["scores"] == [list(one) for one in result.scores] and exported["best"] == result.best
    frame = result.to_frame()
    assert frame.index.tolist() == [1, 2, 4, 6] and frame["untrained_value"].tolist() == [one.value for one in result.untrained]
    assert frame.shape == (4, 9)
    with pytest.raises(lx.InputError, match="^needed one of the counts 1, 2, 4, 6, got 3$"):
        result.score_of(3)
