"""Scores whose groups are repeated, against scikit-learn on data in which they really are."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import balanced_accuracy_score, r2_score, roc_auc_score

from lstm_explain.analyses.probing.labels import Truth
from lstm_explain.analyses.probing.scores import AUC, Interval, draws, interval, score

GROUPS, FOLDS, STEPS = 12, 4, 600
KINDS = ("binary", "continuous", "categorical")


def case(kind, seed=0):
    """A truth, predictions with ties, and each step's group and fold; groups lie across the rows."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, GROUPS, STEPS)
    fold = rng.permutation(np.arange(GROUPS) % FOLDS)[group]
    wave = rng.normal(size=STEPS) + 0.7 * rng.normal(size=GROUPS)[group]
    noisy = wave + rng.normal(size=STEPS)
    if kind == "binary":
        return Truth(kind, (wave > 0.5).astype(int), ("False", "True")), noisy.round(1), group, fold
    if kind == "continuous":
        return Truth(kind, wave, ()), noisy / 2, group, fold
    edges = [-0.5, 0.8]
    return Truth(kind, np.digitize(wave, edges), ("0", "1", "2")), np.digitize(noisy, edges).astype(float), group, fold


def slowly(truth, predicted, fold):
    if truth.kind == "continuous":
        return r2_score(truth.values, predicted)
    if truth.kind == "categorical":
        return balanced_accuracy_score(truth.values, predicted)
    parts = []
    for one in np.unique(fold):
        y = truth.values[fold == one]
        pairs = y.sum() * (1 - y).sum()
        if pairs:
            parts.append((roc_auc_score(y, predicted[fold == one]), pairs))
    return np.average([auc for auc, _ in parts], weights=[pairs for _, pairs in parts])


def everywhere(truth):
    return np.ones(len(truth.values), dtype=bool)


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_equals_scikit_learns(kind):
    truth, predicted, group, fold = case(kind)
    found = score(truth, predicted, group, fold, GROUPS, everywhere(truth))(np.ones((1, GROUPS)))
    np.testing.assert_allclose(found, [slowly(truth, predicted, fold)], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_that_counts_several_times_is_one_that_stands_in_the_data_several_times(kind):
    truth, predicted, group, fold = case(kind)
    times = draws(GROUPS, 20, seed=1)
    found = score(truth, predicted, group, fold, GROUPS, everywhere(truth))(times)
    for value, m in zip(found, times.astype(int), strict=True):
        at = np.repeat(np.arange(STEPS), m[group])
        expected = slowly(Truth(kind, truth.values[at], truth.classes), predicted[at], fold[at])
        assert value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_steps_of_the_mask_are_scored(kind):
    truth, predicted, group, fold = case(kind)
    here = np.random.default_rng(3).random(STEPS) < 0.5
    found = score(truth, predicted, group, fold, GROUPS, here)(np.ones((1, GROUPS)))
    expected = slowly(Truth(kind, truth.values[here], truth.classes), predicted[here], fold[here])
    np.testing.assert_allclose(found, [expected], rtol=0, atol=1e-12)


def test_pairs_of_different_folds_are_not_compared():
    y, predicted = np.array([0, 1, 0, 1]), np.array([0.0, 1.0, 10.0, 11.0])
    group, once = np.array([0, 0, 1, 1]), np.ones((1, 2))
    assert AUC(y, predicted, group, fold=np.array([0, 0, 1, 1]))(once) == 1
    assert AUC(y, predicted, group, fold=np.array([0, 0, 0, 0]))(once) == 0.75


def test_a_class_that_no_drawn_group_has_is_left_out_of_balanced_accuracy():
    truth, group = Truth("categorical", np.array([0, 0, 1, 2]), ("a", "b", "c")), np.array([0, 1, 0, 1])
    found = score(truth, np.array([0.0, 1.0, 1.0, 0.0]), group, group, 2, everywhere(truth))
    np.testing.assert_allclose(found(np.array([[1.0, 1], [1, 0], [0, 1], [2, 1]])), [1.5 / 3, 1, 0, (2 / 3 + 1) / 3], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_defined_is_nan_and_has_no_interval(kind):
    truth, predicted, group, fold = case(kind)
    nowhere = score(truth, predicted, group, fold, GROUPS, ~everywhere(truth))
    assert np.isnan(nowhere(np.ones((1, GROUPS)))).all()
    assert np.isnan(interval(nowhere, draws(GROUPS, 10, 0))).all()
    assert np.isnan(score(truth, predicted, group, fold, GROUPS, everywhere(truth))(np.zeros((1, GROUPS)))).all()


@pytest.mark.parametrize("kind", ["binary", "continuous"])
def test_one_value_only_has_no_score(kind):
    truth, predicted, group, fold = case(kind)
    constant = Truth(kind, np.ones_like(truth.values), truth.classes)
    assert np.isnan(score(constant, predicted, group, fold, GROUPS, everywhere(truth))(np.ones((1, GROUPS)))).all()


def test_each_bootstrap_sample_has_as_many_groups_as_there_are_and_the_seed_decides_which():
    times = draws(7, 4000, seed=2)
    assert times.shape == (4000, 7) and (times.sum(1) == 7).all() and (times >= 0).all()
    # Binomial (7, 1/7): mean 1 and variance 6/7, each to five standard errors.
    np.testing.assert_allclose(times.mean(0), 1, atol=5 * (6 / 7 / 4000) ** 0.5)
    np.testing.assert_allclose(times.var(0), 6 / 7, atol=0.12)
    assert (draws(7, 50, 2) == draws(7, 50, 2)).all() and (draws(7, 50, 2) != draws(7, 50, 3)).any()


def test_an_interval_is_the_percentiles_of_the_samples_and_leaves_out_undefined_ones():
    times = draws(5, 300, seed=0)

    def most(times):
        return np.where(times[:, 0] > 2, np.nan, times.max(1))

    drawn = times.max(1)[times[:, 0] <= 2]
    assert interval(most, times) == Interval(1.0, *np.quantile(drawn, [0.025, 0.975]))


def test_a_difference_is_taken_on_the_same_samples():
    one = score(*case("continuous"), GROUPS, everywhere(case("continuous")[0]))
    times = draws(GROUPS, 200, seed=0)
    assert interval(one, times, one) == Interval(0, 0, 0)
    truth, predicted, group, fold = case("continuous")
    other = score(truth, predicted / 2, group, fold, GROUPS, everywhere(truth))
    gap = one(times) - other(times)
    once = np.ones((1, GROUPS))
    np.testing.assert_allclose(
        interval(one, times, other), [(one(once) - other(once))[0], *np.quantile(gap, [0.025, 0.975])], rtol=0, atol=1e-12
    )


def test_intervals_cover_the_truth_about_as_often_as_they_say_where_groups_differ():
    # How far apart yes and no are differs between groups, 1 ± 1 with noise of 1 on every step: each pair is right by Φ(1 / √3).
    groups, steps, by_group, by_step = 40, 30, [], []
    truth, group, y = norm.cdf(1 / np.sqrt(3)), np.repeat(range(groups), steps), np.tile([0, 1], groups * steps // 2)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        predicted = y * (1 + rng.normal(size=groups))[group] + rng.normal(size=len(y))
        found = interval(AUC(y, predicted, group, group % 4), draws(groups, 200, seed))
        by_group.append(found.low <= truth <= found.high)
        if seed < 20:
            found = interval(AUC(y, predicted, np.arange(len(y)), group % 4), draws(len(y), 50, seed))
            by_step.append(found.low <= truth <= found.high)
    # 95 % is asked for, and percentiles of forty groups are a little narrow; steps as the unit of resampling pretend to know more.
    assert 0.88 <= np.mean(by_group) <= 0.98 and np.mean(by_step) < 0.8
