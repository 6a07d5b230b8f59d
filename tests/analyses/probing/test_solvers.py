"""The probes' equations, and how near to their solutions scikit-learn gets."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from lstm_explain.accumulators import Gram
from lstm_explain.analyses.probing import fits
from lstm_explain.analyses.probing.labels import Truth
from lstm_explain.analyses.probing.solvers import Normal


def test_a_probe_says_how_many_of_its_fits_had_not_converged(monkeypatch):
    regressed, rng = fits.regressed, np.random.default_rng(0)
    x, fold = rng.normal(size=(300, 10)), np.arange(300) % 3
    truth = Truth("binary", (x[:, 0] + rng.logistic(size=300) > 1).astype(int), ("False", "True"))
    assert fits.logistic("y", x, truth, fold).unconverged == 0
    monkeypatch.setattr(fits, "regressed", lambda *given: (regressed(*given)[0], False))
    assert fits.logistic("y", x, truth, fold).unconverged == 3


def test_log_odds_are_those_of_an_exact_solution():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 40)) @ rng.normal(size=(40, 40))
    x, yes = StandardScaler().fit_transform(x), x[:, 0] + 3 * rng.logistic(size=400) > 1
    exact = LogisticRegression(solver="newton-cholesky", tol=1e-12, max_iter=1000).fit(x, yes)
    np.testing.assert_allclose(fits.regressed(x, yes)[0].decision_function(x), exact.decision_function(x), rtol=0, atol=1e-6)


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
