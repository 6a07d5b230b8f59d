"""One linear probe at a time: fitted at some steps, asked at others.

`fits` does the same for one set of features in every fold; here features differ from fold to fold, as they do where units are
chosen, or states are changed, by what the other folds say. The probes are the same ones.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from lstm_explain.analyses.probing import fits
from lstm_explain.analyses.probing.fits import RIDGE, regressed
from lstm_explain.analyses.probing.labels import Truth
from lstm_explain.analyses.probing.rows import Rows
from lstm_explain.analyses.probing.scores import Score
from lstm_explain.errors import InputError

PIECES = 20
"""What one series is cut into where there are no groups."""
DECIMALS = 9
"""Predictions that differ by less are one: what rounding leaves is no order."""


class Told(NamedTuple):
    """What a probe says of the steps it was asked about, and whether its fit converged."""

    predicted: NDArray[np.float64]
    converged: bool = True


class Mean:
    """The mean of several scores on the same groups: as a control of several twins, or of several draws, counts."""

    def __init__(self, scores: list[Score]) -> None:
        self._scores = scores

    def __call__(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """``(draw, group)`` to ``(draw,)``."""
        return np.asarray(np.mean([one(times) for one in self._scores], axis=0))


def folds_of(rows: Rows, folds: int, seed: int) -> NDArray[np.int64]:
    """Each step's fold, as `fits.folds_of` draws it.

    Raises
    ------
    InputError
        If there are fewer groups than folds, or a fold leaves one class to fit on.
    """
    fold = fits.folds_of(rows.groups, folds, seed)
    for one in range(folds):
        if len(np.unique(rows.truth.values[fold != one])) < 2:
            raise InputError("needed two values of the label outside each fold, got one: give more groups, or fewer folds")
    return fold


def ask(truth: Truth, known: NDArray[Any], of: NDArray[np.bool_], asked: NDArray[Any], fold: NDArray[np.int64]) -> Told:
    """A probe fitted to features ``(step, feature)`` of the steps `of` a mask, and asked about others.

    The penalty for numbers is chosen by the folds of these steps among themselves.
    """
    if truth.kind == "continuous":
        return Told(_ridge(known, truth.values[of], fold[of], asked))
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(known)
    probe, converged = regressed(scaler.transform(known), truth.values[of])
    decision = probe.decision_function(scaler.transform(asked)).round(DECIMALS)
    many = truth.kind != "binary"
    predicted = probe.classes_[(decision > 0).astype(int) if decision.ndim == 1 else decision.argmax(1)] if many else decision
    return Told(predicted.astype(np.float64), converged)


def _ridge(x: NDArray[Any], y: NDArray[np.float64], fold: NDArray[np.int64], asked: NDArray[Any]) -> NDArray[np.float64]:
    inside = np.unique(fold)
    # With one fold to fit on there is none to choose by.
    penalties = RIDGE[-2:-1]
    if len(inside) > 1:
        errors = np.zeros(len(RIDGE))
        for held in inside:
            here = fold == held
            errors += ((_ridges(x[~here], y[~here], x[here], RIDGE) - y[here]) ** 2).sum(1)
        penalties = RIDGE[[int(errors.argmin())]]
    return np.asarray(_ridges(x, y, asked, penalties)[0])


def _ridges(x: NDArray[Any], y: NDArray[np.float64], asked: NDArray[Any], penalties: NDArray[Any]) -> NDArray[np.float64]:
    """Predictions ``(penalty, step)`` by ridge regression (Hoerl & Kennard 1970) on standardised features; penalties are per step."""
    mean, middle, deviation = x.mean(0), y.mean(), x.std(0)
    # A feature that is constant but for rounding carries nothing.
    scale = np.where(deviation > 1e-6 * (1e-6 + np.abs(mean)), deviation, np.inf)
    standard = (x - mean) / scale
    size, axes = eigh(standard.T @ standard / len(x))
    onto = axes.T @ (standard.T @ (y - middle) / len(x))
    weights = (onto / (np.maximum(size, 0) + penalties[:, None])) @ axes.T
    return np.asarray(weights @ ((asked - mean) / scale).T + middle)
