"""Forward selection of units by least squares, on all folds but one."""

import numpy as np
from numpy.typing import NDArray

from lstm_explain.analyses.probing.labels import Truth

DEPENDENT = 1e-9
"""What share of a unit's variance those before must leave for it to say something of its own."""


def forward(states: NDArray[np.float64], truth: Truth, fold: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """For each fold the units that all others choose, in order: ``(fold, rank)``.

    Each next unit is the one that adds most to what the least-squares fit of the label explains; of classes, the sum over classes of what
    is explained of their indicator, divided by the class's size: for one unit its correlation ratio.
    """
    x = states - states.mean(0)
    y = targets(truth)
    folds = int(fold.max()) + 1
    parts = [(int(here.sum()), x[here].sum(0), y[here].sum(0), x[here].T @ x[here], x[here].T @ y[here]) for here in _masks(fold, folds)]
    chosen = []
    for out in range(folds):
        n, of_x, of_y, xx, xy = (sum(part[at] for place, part in enumerate(parts) if place != out) for at in range(5))
        centred = xy - np.outer(of_x, of_y) / n
        if truth.kind != "continuous":
            centred /= np.sqrt(np.maximum(of_y, 1))
        chosen.append(_order(xx - np.outer(of_x, of_x) / n, centred, most))
    return np.stack(chosen)


def targets(truth: Truth) -> NDArray[np.float64]:
    """What is fitted by least squares ``(step, target)``: a number, from its mean, or each class's indicator."""
    if truth.kind == "continuous":
        return np.asarray(truth.values - truth.values.mean())[:, None]
    return np.asarray(truth.values[:, None] == np.arange(len(truth.classes)), dtype=np.float64)


def _masks(fold: NDArray[np.int64], folds: int) -> list[NDArray[np.bool_]]:
    return [fold == one for one in range(folds)]


def _order(xx: NDArray[np.float64], xy: NDArray[np.float64], most: int) -> NDArray[np.int64]:
    """So many units by centred sums of products; those that depend on chosen ones, or are constant, come last, by number."""
    whole = np.diag(xx).copy()
    left, order = np.ones(len(whole), dtype=bool), np.empty(most, dtype=np.int64)
    for rank in range(most):
        own = np.diag(xx)
        able = left & (own > DEPENDENT * whole) & (whole > 0)
        gain = np.where(able, (xy**2).sum(1) / np.where(able, own, 1.0), -1.0)
        unit = int(gain.argmax()) if able.any() else int(left.argmax())
        order[rank], left[unit] = unit, False
        if able.any():
            # What remains of the others and of the label once this unit is known.
            slope = xx[unit] / own[unit]
            xy = xy - np.outer(slope, xy[unit])
            xx = xx - np.outer(slope, xx[unit])
    return order
