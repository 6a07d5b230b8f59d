"""How many bits does each unit alone hold about a label?"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from lstm_explain.analyses.probing.labels import Truth

BINS = 32
IN_A_CELL = 8
"""Steps that a cell of unit's bin and label's class must have on average; where they are too few, there are fewer bins."""


def bins(units: NDArray[Any], ordered: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Which of so many equally full bins each step of each row ``(unit, step)`` is in; equal values are in one bin."""
    edges = ordered[:, np.arange(1, count) * units.shape[1] // count]
    return np.stack([np.searchsorted(edge, unit, "right") for edge, unit in zip(edges, units, strict=True)])


def how_many(truth: Truth) -> int:
    """Into how many bins units, and labels that are numbers, are cut."""
    n = len(truth.values)
    most = int(np.sqrt(n / IN_A_CELL)) if truth.kind == "continuous" else n // (IN_A_CELL * len(truth.classes))
    return min(BINS, max(2, most))


def information(units: NDArray[Any], ordered: NDArray[Any], truth: Truth) -> NDArray[np.float64]:
    """Mutual information of each unit ``(unit, step)``, given in order as well, and a label, in bits: ``(unit,)``.

    Of equally full bins (`how_many`, 32 at most) and corrected by the jackknife (Quenouille 1956; for entropies Zahl 1977): n I minus
    n - 1 times the mean of what each step's absence leaves. What remains of the bias falls with the square of the steps, while the
    correction of Miller (1955) leaves several times as much where a cell has few.
    """
    count, y = how_many(truth), truth.values
    if truth.kind == "continuous":
        (y,) = bins(y[None], np.sort(y)[None], count)
    classes = int(y.max()) + 1
    cells = bins(units, ordered, count) * classes + y
    counts = np.stack([np.bincount(cell, minlength=count * classes) for cell in cells]).reshape(-1, count, classes)
    joint = _entropies(counts.reshape(len(counts), -1))
    return np.asarray((_entropies(counts.sum(2)) + _entropies(counts.sum(1)) - joint) / np.log(2))


def _entropies(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The jackknife's entropy of each row of counts, in nats."""
    n = int(counts[0].sum())
    own = xlogy(counts, counts)
    total = own.sum(1, keepdims=True)
    # Without one step of a cell; an empty cell is multiplied by its count, zero.
    without = np.log(n - 1) - (total - own + xlogy(counts - 1.0, np.maximum(counts - 1, 1))) / (n - 1)
    plain = np.log(n) - total[:, 0] / n
    return np.asarray(n * plain - (n - 1) / n * (counts * without).sum(1))
