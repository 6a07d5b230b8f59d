"""The equations of linear probes, solved: ridge regression from sums of products, logistic regression by Newton's method."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit

from lstm_explain.accumulators import Gram

TOLERANCE = 1e-11
"""The largest slope, for each step, of a logistic regression that counts as converged."""
AT_ONCE = 4096
"""Rows of one product in single precision."""


class Normal:
    """The normal equations of standardised features, factored once for each penalty, whatever the target."""

    def __init__(self, grams: Sequence[Gram], size: int) -> None:
        self._n, self._size = sum(gram.n for gram in grams), size
        mean, xx = np.zeros(size), np.zeros((size, size))
        for gram in grams:
            mean[: len(gram.x)] += gram.x
            xx[: len(gram.x), : len(gram.x)] += gram.xx
        mean /= self._n
        variance = np.maximum(np.diag(xx) / self._n - mean**2, 0)
        # A feature that is constant but for rounding carries nothing.
        alive = variance > 1e-12 * (1e-12 + mean**2)
        self._mean, self._scale = mean, np.where(alive, np.sqrt(np.where(alive, variance, 1.0)), np.inf)
        self._a = (xx / self._n - np.outer(mean, mean)) / np.outer(self._scale, self._scale)
        self._factors: dict[float, Any] = {}

    def weights(self, grams: Sequence[Gram], penalty: float) -> tuple[NDArray[np.float64], float]:
        """Weights of the features as they are, and the intercept, for the target of some grams of the same features and steps."""
        if penalty not in self._factors:
            self._factors[penalty] = cho_factor(self._a + penalty * np.eye(self._size), lower=True, overwrite_a=True)
        y, xy = sum(gram.y for gram in grams) / self._n, np.zeros(self._size)
        for gram in grams:
            xy[: len(gram.xy)] += gram.xy
        weights = cho_solve(self._factors[penalty], (xy / self._n - self._mean * y) / self._scale) / self._scale
        return weights, float(y - weights @ self._mean)


class Logistic(NamedTuple):
    """A logistic regression of yes or no: log-odds are ``features @ weights + intercept``."""

    weights: NDArray[np.float64]
    intercept: float
    converged: bool


def newton(features: NDArray[np.float64], yes: NDArray[np.bool_], *, at_most: int = 100) -> Logistic:
    """Logistic regression with the penalty ½|w|² on the weights (scikit-learn's, with C = 1), by damped Newton steps.

    Slopes are exact. Curvatures, which only decide how fast it gets there, are computed in single precision, and used again as long as
    each step leaves less than a tenth of the slope.
    """
    steps, size = features.shape
    single, penalty = features.astype(np.float32), np.append(np.ones(size), 0.0)
    sign, weights, odds = np.where(yes, 1.0, -1.0), np.zeros(size + 1), np.zeros(steps)
    loss, before, factor = _loss(odds, sign, weights), 0.0, None
    for _ in range(at_most):
        chance = expit(odds)
        error = chance - yes
        slope = np.append(features.T @ error, error.sum()) + penalty * weights
        steepest = float(np.abs(slope).max())
        if steepest <= TOLERANCE * steps:
            return Logistic(weights[:-1], float(weights[-1]), True)
        if factor is None or steepest > 0.1 * before:
            factor = cho_factor(_curvature(single, chance * (1 - chance)), lower=True, overwrite_a=True)
        step, size_of_step, before = -cho_solve(factor, slope), 1.0, steepest
        along = features @ step[:-1] + step[-1]
        # Armijo's rule; what rounding leaves of the loss near the end is no reason to stop.
        while (after := _loss(odds + size_of_step * along, sign, weights + size_of_step * step)) > (
            loss + 1e-4 * size_of_step * (slope @ step) + 1e-12 * abs(loss)
        ):
            size_of_step /= 2
            if size_of_step < 1e-10:
                return Logistic(weights[:-1], float(weights[-1]), False)
        weights, odds, loss = weights + size_of_step * step, odds + size_of_step * along, after
    return Logistic(weights[:-1], float(weights[-1]), False)


def _loss(odds: NDArray[np.float64], sign: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    return float(np.logaddexp(0, -sign * odds).sum() + 0.5 * weights[:-1] @ weights[:-1])


def _curvature(features: NDArray[np.float32], chances: NDArray[np.float64]) -> NDArray[np.float64]:
    """The second derivatives by weights and intercept, penalty included."""
    size = features.shape[1]
    found, root = np.zeros((size + 1, size + 1)), np.sqrt(chances).astype(np.float32)
    for begin in range(0, len(features), AT_ONCE):
        part = slice(begin, begin + AT_ONCE)
        scaled = features[part] * root[part, None]
        found[:-1, :-1] += scaled.T @ scaled
        found[-1, :-1] += root[part] @ scaled
    found[:-1, -1] = found[-1, :-1]
    # Where every step is decided, next to nothing is left of the intercept's own.
    found[-1, -1] = max(float(chances.sum()), 1e-9 * len(features))
    found[np.arange(size), np.arange(size)] += 1.0
    return found
