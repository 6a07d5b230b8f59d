"""Numbers that are made of groups, with the intervals that hold for one claim and for all of them at once.

All are studentised bootstrap intervals of groups, each member of the family at the same level (`ablation.intervals.balanced`). A slope is
a quotient of sums over groups, which is what these intervals are made for. A score isn't: it goes in by its pseudo-values, what each group
adds to it (Quenouille 1956, Tukey 1958).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lstm_explain.analyses.ablation.intervals import balanced


class Bounds(NamedTuple):
    """A number with its 95 % interval, and the one that holds for all claims at once; NaN where it isn't defined."""

    value: float
    low: float
    high: float
    family_low: float
    family_high: float


def of_slopes(sums: NDArray[np.float64], steps: NDArray[np.float64], times: NDArray[np.float64]) -> list[Bounds]:
    """A family of quotients of sums over groups, ``(member, group)`` each; `times (draw, group)` is how often draws count each group."""
    known = np.isfinite(sums).all(1) & (steps.sum(1) > 0)
    found = balanced(np.where(known[:, None], sums, 0.0), np.where(known[:, None], steps, 0.0), times)
    return [Bounds(*map(float, one)) for one in zip(*found, strict=True)]


def of_scores(
    values: NDArray[np.float64], without: NDArray[np.float64], counted: NDArray[np.bool_], times: NDArray[np.float64]
) -> list[Bounds]:
    """A family of scores.

    Parameters
    ----------
    values : ndarray ``(member,)``
    without : ndarray ``(member, group)``
        What each is without a group.
    counted : ndarray of bool ``(member, group)``
        The groups that each is made of.
    times : ndarray ``(draw, group)``
    """
    counted = counted & np.isfinite(values)[:, None]
    # A number that one group alone makes isn't one of groups.
    counted = counted & np.all(~counted | np.isfinite(without), axis=1)[:, None]
    n = counted.sum(1, keepdims=True)
    with np.errstate(invalid="ignore"):
        pseudo = np.where(counted, n * values[:, None] - (n - 1) * without, 0.0)
        # Intervals lie around the score itself, not around the one that the jackknife would put in its place.
        pseudo += np.where(counted, values[:, None] - pseudo.sum(1, keepdims=True) / np.maximum(n, 1), 0.0)
    found = balanced(pseudo, counted.astype(np.float64), times)
    return [Bounds(*map(float, (value, *rest))) for value, *rest in zip(values, *found[1:], strict=True)]
