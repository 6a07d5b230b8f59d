"""Ridge regression from sums of products: the equations of a set of features, for any number of targets."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from lstm_explain.accumulators import Gram


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
