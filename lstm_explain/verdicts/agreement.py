"""How far two attributions of the same sequences agree: by the order of all steps, and by which steps come first."""

from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata


def spearman(first: NDArray[np.float64], second: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Rank correlation over each sequence's valid steps, ties at their mean rank (Spearman 1904).

    Parameters
    ----------
    first, second : ndarray ``(batch, time)``
    valid : ndarray of bool ``(batch, time)``

    Returns
    -------
    ndarray ``(batch,)``
        NaN where all steps of either are equal, which have no order.
    """
    found = np.full(len(valid), np.nan)
    for row, steps in enumerate(valid):
        one, other = (rankdata(values[row, steps]) for values in (first, second))
        one, other = one - one.mean(), other - other.mean()
        size = np.sqrt((one @ one) * (other @ other))
        if size > 0:
            found[row] = (one @ other) / size
    return found


def counts(fraction: float, valid: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many steps a fraction of each sequence's valid ones is ``(batch,)``: rounded up, at least one."""
    # 5 % of 20 steps is one, whatever 0.05 * 20 is rounded to.
    return np.array([max(1, ceil(fraction * steps - 1e-9)) for steps in valid.sum(1)], dtype=np.int64)


def overlap(
    first: NDArray[np.float64], second: NDArray[np.float64], valid: NDArray[np.bool_], fraction: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The share of each sequence's first steps, by size, that two attributions have in common, and what it would be by chance.

    Of steps that tie for the last place each counts for its share of a place, so that no order of steps is preferred.

    Parameters
    ----------
    first, second : ndarray ``(batch, time)``
    valid : ndarray of bool ``(batch, time)``
    fraction : float
        How many steps come first: this share of the valid ones.

    Returns
    -------
    ndarray ``(batch,)``, ndarray ``(batch,)``
    """
    many = counts(fraction, valid)
    common = np.zeros(len(valid))
    for row, (steps, k) in enumerate(zip(valid, many, strict=True)):
        one, other = (_membership(np.abs(values[row, steps]), k) for values in (first, second))
        common[row] = float(one @ other) / k
    return common, many / valid.sum(1)


def _membership(sizes: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """How far each step is among the k largest: 1, 0, or for ties at the edge the chance to be drawn."""
    edge = np.sort(sizes)[-k]
    above, at = sizes > edge, sizes == edge
    return np.asarray(above + at * ((k - above.sum()) / at.sum()))
