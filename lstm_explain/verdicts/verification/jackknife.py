"""Any number that is made of groups, with intervals: by what it is without each of them.

A group's pseudo-value is what it adds to the number (Quenouille 1956, Tukey 1958); the mean of independent pseudo-values is what the
intervals of ablations are made for, so that scores, contrasts and slopes all get the same intervals, and families the same correction.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lstm_explain.analyses.ablation.intervals import intervals


class Bounds(NamedTuple):
    """A number with its 95 % interval, and the one that holds for all claims at once; NaN where it isn't defined."""

    value: float
    low: float
    high: float
    family_low: float
    family_high: float


def bounds(
    values: NDArray[np.float64], without: NDArray[np.float64], counted: NDArray[np.bool_], times: NDArray[np.float64]
) -> list[Bounds]:
    """The intervals of a family.

    Parameters
    ----------
    values : ndarray ``(member,)``
    without : ndarray ``(member, group)``
        What each is without a group.
    counted : ndarray of bool ``(member, group)``
        The groups that each is made of.
    times : ndarray ``(draw, group)``
        How often each draw counts each group.
    """
    counted = counted & np.isfinite(values)[:, None]
    # A number that one group alone makes isn't one of groups.
    counted = counted & np.all(~counted | np.isfinite(without), axis=1)[:, None]
    n = counted.sum(1, keepdims=True)
    with np.errstate(invalid="ignore"):
        pseudo = np.where(counted, n * values[:, None] - (n - 1) * without, 0.0)
        # Intervals lie around the number itself, not around the one that the jackknife would put in its place.
        pseudo += np.where(counted, values[:, None] - pseudo.sum(1, keepdims=True) / np.maximum(n, 1), 0.0)
    found = intervals(pseudo, counted.astype(np.float64), times)
    return [Bounds(*map(float, (value, *rest))) for value, *rest in zip(values, *found[1:], strict=True)]
