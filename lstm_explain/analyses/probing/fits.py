"""Linear probes, fitted on all folds but one and asked about that one.

Scikit-learn is imported where it is used: it takes a second, and pictures of a result don't need it.
"""

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from lstm_explain.accumulators import Gram
from lstm_explain.analyses.probing.labels import Truth
from lstm_explain.analyses.probing.solvers import Normal
from lstm_explain.errors import InputError

RIDGE = 10.0 ** np.arange(-6, 3, 2)
"""What the penalty of standardised features may be, per step; the other folds choose by cross-validation among themselves."""
LOGISTIC = 1.0
"""Scikit-learn's C."""
TOLERANCE = 1e-8
"""Scikit-learn's tol, by Newton's method: its own 1e-4 leaves log-odds a tenth away from where they belong."""


def folds_of(groups: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each step, or sequence, by its group: whole groups, drawn by `seed`.

    Raises
    ------
    InputError
        If there are fewer groups than folds.
    """
    from sklearn.model_selection import GroupKFold

    if folds < 2:
        raise InputError(f"needed at least 2 folds, got {folds}")
    if (count := len(np.unique(groups))) < folds:
        raise InputError(f"needed at least {folds} groups for {folds} folds, got {count}: give finer groups, or fewer folds")
    fold = np.zeros(len(groups), dtype=np.int64)
    for one, (_, held) in enumerate(GroupKFold(folds, shuffle=True, random_state=seed).split(groups, groups=groups)):
        fold[held] = one
    return fold


class Fitted(NamedTuple):
    """Predictions for every step by a probe that hasn't seen its fold; and how many of the fits hadn't converged."""

    predicted: NDArray[np.float64]
    unconverged: int = 0


def ridge(features: Any, fold: NDArray[np.int64], grams: Mapping[int, Gram], shared: dict[tuple[int, ...], Normal] | None = None) -> Fitted:
    """Ridge regression (Hoerl & Kennard 1970) from each fold's sums of products; `features` are the steps to predict.

    Targets that are defined at the same steps can share what their equations have in common: give the same `shared` to each.
    """
    shared, size = {} if shared is None else shared, features.shape[1]

    def fit(folds: list[int], penalty: float) -> tuple[NDArray[np.float64], float]:
        inside = [grams[one] for one in folds]
        if tuple(folds) not in shared:
            shared[tuple(folds)] = Normal(inside, size)
        return shared[tuple(folds)].weights(inside, penalty)

    predicted = np.zeros(features.shape[0])
    for out in sorted(grams):
        inside = [one for one in sorted(grams) if one != out]
        if not inside:
            raise InputError("needed a number that is defined in at least two folds of groups, got one: give more groups, or fewer folds")
        # With one fold to fit on there is none to choose by.
        penalty = RIDGE[-2]
        if len(inside) > 1:
            errors = np.zeros(len(RIDGE))
            for held in inside:
                rest = [one for one in inside if one != held]
                errors += [_squared_error(grams[held], *fit(rest, one)) for one in RIDGE]
            penalty = RIDGE[int(errors.argmin())]
        weights, intercept = fit(inside, penalty)
        here = fold == out
        predicted[here] = features[here] @ weights + intercept
    return Fitted(predicted)


def _squared_error(gram: Gram, weights: NDArray[np.float64], intercept: float) -> float:
    w = weights[: len(gram.x)]
    quadratic = w @ gram.xx @ w + 2 * intercept * (w @ gram.x) + gram.n * intercept**2
    return float(gram.yy - 2 * (w @ gram.xy + intercept * gram.y) + quadratic)


def logistic(name: str, features: Any, truth: Truth, fold: NDArray[np.int64]) -> Fitted:
    """Logistic regression (scikit-learn's, C = 1) on standardised features; of two classes the log-odds, of more the likeliest.

    Raises
    ------
    InputError
        If all folds but one have one class only.
    """
    from sklearn.preprocessing import StandardScaler

    predicted, unconverged = np.zeros(features.shape[0]), 0
    dense = isinstance(features, np.ndarray)
    for out in np.unique(fold):
        here = fold == out
        if len(np.unique(truth.values[~here])) < 2:
            raise InputError(f"needed two classes of label {name!r} outside each fold, got one: give more groups, or fewer folds")
        scaler = StandardScaler(with_mean=dense, with_std=dense).fit(features[~here])
        probe, converged = regressed(scaler.transform(features[~here]), truth.values[~here])
        outside = scaler.transform(features[here])
        predicted[here] = probe.decision_function(outside) if truth.kind == "binary" else probe.predict(outside)
        unconverged += not converged
    return Fitted(predicted, unconverged)


def regressed(features: Any, labels: NDArray[Any], strength: float = LOGISTIC) -> tuple[Any, bool]:
    """Scikit-learn's logistic regression of standardised features with C = `strength`, and whether it converged."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        # Newton's method takes ten steps where the default takes hundreds; it is for two classes, and for dense features.
        two = isinstance(features, np.ndarray) and len(np.unique(labels)) == 2
        solver, tolerance = ("newton-cholesky", TOLERANCE) if two else ("lbfgs", 1e-4)
        probe = LogisticRegression(C=strength, solver=solver, tol=tolerance, max_iter=1000).fit(features, labels)
    return probe, not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)


def majority(truth: Truth, fold: NDArray[np.int64]) -> Fitted:
    """What says the same of every step: the other folds' mean, or their commonest class."""
    predicted = np.zeros(len(fold))
    for out in np.unique(fold):
        rest = truth.values[fold != out]
        predicted[fold == out] = rest.mean() if truth.kind == "continuous" else np.bincount(rest).argmax()
    return Fitted(predicted)


class Units:
    """Each unit by itself, fold by fold: which one goes best with a label on all folds but one."""

    def __init__(self, features: NDArray[Any], fold: NDArray[np.int64]) -> None:
        self._rows = {int(out): np.flatnonzero(fold == out) for out in np.unique(fold)}
        self._raw = {out: features[rows].astype(np.float64) for out, rows in self._rows.items()}
        self._ranks: dict[int, NDArray[np.float64]] = {}

    def _ranked(self, fold: int) -> NDArray[np.float64]:
        if fold not in self._ranks:
            self._ranks[fold] = rankdata(self._raw[fold], axis=0)
        return self._ranks[fold]

    def _sums(self, truth: Truth, fold: int) -> NDArray[np.float64]:
        """What adds up over folds, ``(sum, unit)``."""
        y, x = truth.values[self._rows[fold]], self._raw[fold]
        n = np.full(x.shape[1], float(len(y)))
        match truth.kind:
            case "binary":
                yes, ranks = y == 1, self._ranked(fold)
                pairs = float(yes.sum() * (~yes).sum())
                right = yes.astype(np.float64) @ ranks - yes.sum() * (yes.sum() + 1) / 2
                return np.stack([right, np.full_like(right, pairs)])
            case "continuous":
                return np.stack([n, x.sum(0), (x * x).sum(0), y @ x, np.full_like(n, y.sum()), np.full_like(n, y @ y)])
            case "categorical":
                classes = [(y == one).astype(np.float64) for one in range(len(truth.classes))]
                return np.stack(
                    [n, x.sum(0), (x * x).sum(0), *(one @ x for one in classes), *(np.full_like(n, one.sum()) for one in classes)]
                )

    def order(self, truth: Truth) -> dict[int, NDArray[np.int64]]:
        """For each fold all units in the order in which all others choose them."""
        sums = {fold: self._sums(truth, fold) for fold in self._rows}
        total = np.sum(list(sums.values()), axis=0)
        return {fold: np.argsort(-_standing(truth, total - own), kind="stable") for fold, own in sums.items()}

    def best(self, truth: Truth) -> dict[int, int]:
        """For each fold the unit that all others choose."""
        return {fold: int(order[0]) for fold, order in self.order(truth).items()}


def _standing(truth: Truth, sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """How well each unit goes with the label: |AUC - ½|, the squared correlation, or the correlation ratio; 0 for a constant unit."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if truth.kind == "binary":
            return np.asarray(np.nan_to_num(np.abs(sums[0] / sums[1] - 0.5)))
        n, x, xx = sums[:3]
        spread = xx - x * x / n
        if truth.kind == "continuous":
            xy, y, yy = sums[3:]
            standing = (xy - x * y / n) ** 2 / (spread * (yy - y * y / n))
        else:
            of_class, count = np.split(sums[3:], 2)
            standing = (np.where(count > 0, of_class**2 / count, 0).sum(0) - x * x / n) / spread
        return np.asarray(np.nan_to_num(np.where(spread > 1e-12 * xx, standing, 0.0)))


def single(features: NDArray[Any], truth: Truth, fold: NDArray[np.int64], chosen: Mapping[int, int]) -> Fitted:
    """The probe of one unit, chosen and fitted on all folds but one; for yes-or-no labels the unit itself, the right way up."""
    from sklearn.linear_model import LogisticRegression

    predicted = np.zeros(len(fold))
    for out, unit in chosen.items():
        here = fold == out
        x, y = features[:, unit].astype(np.float64), truth.values
        centred = x[~here] - x[~here].mean()
        if truth.kind == "categorical":
            scale = centred.std() or 1.0
            probe = LogisticRegression(C=LOGISTIC, max_iter=1000).fit(centred[:, None] / scale, y[~here])
            predicted[here] = probe.predict((x[here, None] - x[~here].mean()) / scale)
            continue
        if truth.kind == "binary":
            ranks = rankdata(x[~here])
            predicted[here] = np.sign((ranks - ranks.mean()) @ y[~here]) * x[here]
        else:
            slope = centred @ y[~here] / (centred @ centred or 1.0)
            predicted[here] = y[~here].mean() + slope * (x[here] - x[~here].mean())
    return Fitted(predicted)
