"""How many bits does each unit alone hold about a label?"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, xlogy

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

    Of equally full bins (`how_many`, 32 at most), corrected twice. First each entropy by the jackknife (Zahl 1977), whose error falls with
    the square of the steps; the correction of Miller (1955) leaves several times as much where cells have few. Then J, what that makes,
    becomes H (J - E) / (H - E), where E is its exact mean over all orders of the label and H the smaller one of both entropies, which is
    the most there can be (Vinh, Epps & Bailey 2010 adjust the plain one so): 0 on average for independent steps, and H where one says
    all of the other.
    """
    count, y = how_many(truth), truth.values
    if truth.kind == "continuous":
        (y,) = bins(y[None], np.sort(y)[None], count)
    classes = int(y.max()) + 1
    cells = bins(units, ordered, count) * classes + y
    counts = np.stack([np.bincount(cell, minlength=count * classes) for cell in cells]).reshape(-1, count, classes)
    of_bins, of_classes = counts.sum(2), counts.sum(1)
    alone = _entropies(of_bins), _entropies(of_classes)
    found = sum(alone) - _entropies(counts.reshape(len(counts), -1))
    chance, most = sum(alone) - _entropy(len(y), _expected(of_bins, of_classes[0], len(y))), np.minimum(*alone)
    room = most - chance
    possible = room > 1e-12
    return np.asarray(np.where(possible, most * (found - chance) / np.where(possible, room, 1.0), 0.0) / np.log(2))


def _entropies(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The jackknife's entropy of each row of counts, in nats: n times the plain one, less n - 1 times its mean without each step."""
    return _entropy(int(counts[0].sum()), _term(counts).sum(1))


def _entropy(n: int, terms: NDArray[np.float64]) -> NDArray[np.float64]:
    # Of n H - (n - 1) mean H(without one) the sums over cells cancel but for this.
    return np.asarray(xlogy(n, n) - xlogy(n - 1, n - 1) - terms / n)


def _term(counts: NDArray[Any]) -> NDArray[np.float64]:
    fewer = np.maximum(counts - 1, 0)
    return np.asarray(counts * (xlogy(counts, counts) - xlogy(fewer, fewer)))


def _expected(of_bins: NDArray[np.int64], of_classes: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """The mean over all orders of the label of what the cells' terms add up to ``(unit,)``: each cell's count is hypergeometric."""
    sizes, place = np.unique(of_bins, return_inverse=True)
    totals, times = np.unique(of_classes, return_counts=True)
    # Logarithms of factorials, looked up: SciPy's own distribution takes most of a minute for what this gives in a second.
    factorial = gammaln(np.arange(n + 1) + 1.0)
    mean = np.zeros(len(sizes))
    for total, often in zip(totals, times, strict=True):
        for at, size in enumerate(sizes):
            possible = np.arange(max(0, size + total - n), min(size, total) + 1)
            inside = factorial[total] - factorial[possible] - factorial[total - possible]
            outside = factorial[n - total] - factorial[size - possible] - factorial[n - total - size + possible]
            chances = np.exp(inside + outside - (factorial[n] - factorial[size] - factorial[n - size]))
            mean[at] += often * chances @ _term(possible)
    return np.asarray(mean[place.reshape(of_bins.shape)].sum(1))
