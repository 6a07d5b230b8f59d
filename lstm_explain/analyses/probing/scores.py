"""Scores as functions of how often each group counts, so that a bootstrap over groups costs one matrix product.

A score is only ever made of pairs or steps of the same fold: probes of different folds are different probes.
"""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lstm_explain.analyses.probing.labels import Truth

METRICS = {"binary": "AUC", "categorical": "balanced accuracy", "continuous": "R²"}
LEVEL = 0.95


class Interval(NamedTuple):
    """A value with its bootstrap interval at 95 %; NaN where it isn't defined."""

    value: float
    low: float
    high: float


class Score(Protocol):
    """A score of held-out predictions."""

    def __call__(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """The score with each group counted so many times: ``(draw, group)`` to ``(draw,)``."""


class AUC:
    """The share of pairs (one yes, one no, of the same fold) in the right order: area under the ROC curve (Mann & Whitney 1947)."""

    def __init__(self, truth: NDArray[np.int64], predicted: NDArray[np.float64], group: NDArray[np.int64], fold: NDArray[np.int64]) -> None:
        self._folds = []
        for one in np.unique(fold):
            here = fold == one
            groups, at = np.unique(group[here], return_inverse=True)
            yes, values = truth[here] == 1, predicted[here]
            right = np.zeros((len(groups), len(groups)))
            for against in range(len(groups)):
                below = np.sort(values[~yes & (at == against)])
                wins = (np.searchsorted(below, values[yes], "left") + np.searchsorted(below, values[yes], "right")) / 2
                right[:, against] = np.bincount(at[yes], wins, len(groups))
            counts = [np.bincount(at[side], minlength=len(groups)).astype(np.float64) for side in (yes, ~yes)]
            self._folds.append((groups, right, *counts))

    def __call__(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """``(draw, group)`` to ``(draw,)``."""
        right, pairs = np.zeros(len(times)), np.zeros(len(times))
        for groups, wins, yes, no in self._folds:
            m = times[:, groups]
            right += ((m @ wins) * m).sum(1)
            pairs += (m @ yes) * (m @ no)
        return _ratio(right, pairs)


class BalancedAccuracy:
    """The share of each class's steps that was told right, averaged over classes."""

    def __init__(self, truth: NDArray[np.int64], predicted: NDArray[np.int64], group: NDArray[np.int64], classes: int, groups: int) -> None:
        self._right = np.zeros((groups, classes))
        self._steps = np.zeros((groups, classes))
        np.add.at(self._right, (group, truth), predicted == truth)
        np.add.at(self._steps, (group, truth), 1.0)

    def __call__(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """``(draw, group)`` to ``(draw,)``."""
        shares = _ratio(times @ self._right, times @ self._steps)
        with np.errstate(invalid="ignore"):
            return np.asarray(np.where(np.isfinite(shares), shares, 0).sum(1) / np.isfinite(shares).sum(1))


class R2:
    """The share of a number's variance on these steps that predictions explain; below zero where the mean would do better."""

    def __init__(self, truth: NDArray[np.float64], predicted: NDArray[np.float64], group: NDArray[np.int64], groups: int) -> None:
        parts = (np.ones(len(truth)), truth, truth**2, (truth - predicted) ** 2)
        self._sums = np.stack([np.bincount(group, part, groups) for part in parts], axis=1)

    def __call__(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """``(draw, group)`` to ``(draw,)``."""
        n, y, yy, sse = (times @ self._sums).T
        return np.asarray(1 - _ratio(sse, yy - _ratio(y * y, n)))


def _ratio(of: NDArray[np.float64], to: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quotients, NaN where the divisor isn't positive."""
    quotients: NDArray[np.float64] = np.divide(of, to, out=np.full(np.shape(of), np.nan), where=to > 0)
    return quotients


def score(
    truth: Truth, predicted: NDArray[np.float64], group: NDArray[np.int64], fold: NDArray[np.int64], groups: int, here: NDArray[np.bool_]
) -> Score:
    """The score that fits a label's kind, over the steps of a mask."""
    values = truth.values[here]
    match truth.kind:
        case "binary":
            return AUC(values, predicted[here], group[here], fold[here])
        case "categorical":
            return BalancedAccuracy(values, predicted[here].astype(np.int64), group[here], len(truth.classes), groups)
        case "continuous":
            return R2(values, predicted[here], group[here], groups)


def draws(groups: int, times: int, seed: int) -> NDArray[np.float64]:
    """How often each group is drawn in so many bootstrap samples of groups (Efron 1979), one row each: ``(draw, group)``."""
    return np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), size=times).astype(np.float64)


def interval(one: Score, times: NDArray[np.float64], other: Score | None = None) -> Interval:
    """A score, or how far it is above another on the same samples, with its bootstrap interval (percentiles)."""
    once = np.ones((1, times.shape[1]))
    value, drawn = one(once)[0], one(times)
    if other is not None:
        value, drawn = value - other(once)[0], drawn - other(times)
    drawn = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or not len(drawn):
        return Interval(np.nan, np.nan, np.nan)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(value), float(low), float(high))
