"""The probes' equations, against scikit-learn's solvers at tolerances that it isn't set to by itself."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from lstm_explain.accumulators import Gram
from lstm_explain.analyses.probing import fits
from lstm_explain.analyses.probing.solvers import Normal, newton


def problem(steps, size, signal, seed=0):
    """Features that resemble each other, some much larger than others, and a yes-or-no label."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(steps, size)) @ rng.normal(size=(size, size)) * np.logspace(0, -4, size)
    return StandardScaler().fit_transform(x), signal * x[:, 0] + rng.logistic(size=steps) > 1


@pytest.mark.parametrize("steps, size, signal", [(400, 5, 0.5), (300, 40, 1.0), (60, 80, 3.0), (9000, 6, 0.2), (200, 4, 0.0)])
def test_newton_is_scikit_learns_logistic_regression(steps, size, signal):
    x, yes = problem(steps, size, signal)
    found, expected = newton(x, yes), LogisticRegression(solver="newton-cholesky", tol=1e-12, max_iter=1000).fit(x, yes)
    assert found.converged
    np.testing.assert_allclose(found.weights, expected.coef_[0], rtol=0, atol=1e-8)
    assert found.intercept == pytest.approx(expected.intercept_[0], abs=1e-8)


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_what_can_be_told_without_error_and_what_is_rare_are_found_too(scale):
    rng = np.random.default_rng(0)
    x = scale * rng.normal(size=(500, 3))
    for yes in (x[:, 0] > 0, np.arange(500) == 7):
        found = newton(x, yes)
        # The slope of the penalised loss is zero there and nowhere else.
        error = expit(x @ found.weights + found.intercept) - yes
        slope = np.append(x.T @ error + found.weights, error.sum())
        assert found.converged and np.abs(slope).max() < 1e-6


def test_constant_features_have_no_weight():
    x, yes = problem(300, 4, 1.0)
    found = newton(np.insert(x, 2, 0.0, axis=1), yes)
    assert found.weights[2] == 0
    np.testing.assert_allclose(np.delete(found.weights, 2), newton(x, yes).weights, atol=1e-9)


def test_too_few_steps_are_told():
    x, yes = problem(300, 10, 1.0)
    assert not newton(x, yes, at_most=1).converged


def test_a_probe_says_how_many_of_its_fits_had_not_converged(monkeypatch):
    from functools import partial

    from lstm_explain.analyses.probing.labels import Truth

    x, yes = problem(300, 10, 1.0)
    truth, fold = Truth("binary", yes.astype(int), ("False", "True")), np.arange(300) % 3
    assert fits.logistic("y", x, truth, fold).unconverged == 0
    monkeypatch.setattr(fits, "newton", partial(newton, at_most=1))
    assert fits.logistic("y", x, truth, fold).unconverged == 3


@pytest.mark.parametrize("penalty", [1e-6, 1e-2, 1e2])
def test_normal_equations_of_several_grams_are_ridge_regression_for_each_target(penalty):
    rng = np.random.default_rng(0)
    x, ys = rng.normal(size=(200, 6)) * np.logspace(-2, 2, 6) + 3, rng.normal(size=(2, 200))
    x[:, 4] = 7
    parts, normal = np.split(np.arange(200), [50, 120]), None
    for y in ys:
        grams = [Gram() for _ in parts]
        for gram, part in zip(grams, parts, strict=True):
            gram.update(x[part], y[part])
        normal = normal or Normal(grams, 6)
        weights, intercept = normal.weights(grams, penalty)
        scaler = StandardScaler().fit(x)
        expected = Ridge(alpha=penalty * 200).fit(scaler.transform(x), y)
        np.testing.assert_allclose(x @ weights + intercept, expected.predict(scaler.transform(x)), rtol=0, atol=1e-10)
        assert weights[4] == 0


def test_targets_that_share_their_equations_are_fitted_as_they_are_alone():
    rng = np.random.default_rng(0)
    x, fold, shared = rng.normal(size=(90, 5)), np.arange(90) % 3, {}
    for y in rng.normal(size=(3, 90)):
        grams = {one: Gram() for one in range(3)}
        for one, gram in grams.items():
            gram.update(x[fold == one], y[fold == one])
        alone = fits.ridge(x, fold, grams).predicted
        np.testing.assert_array_equal(fits.ridge(x, fold, grams, shared).predicted, alone)
    assert sorted(shared) == [(0,), (0, 1), (0, 2), (1,), (1, 2), (2,)]
