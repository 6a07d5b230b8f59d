"""Intervals for means over steps where whole groups are drawn anew, each by itself and for a family at once.

A group's steps belong together, so groups are what the bootstrap draws (Efron 1979). Both kinds of interval are studentised: each draw's
deviation is divided by that draw's own standard error (Hall 1988), and for the family the largest over its members counts (Romano & Wolf
2005): the largest deviation (`intervals`), or, where members are of different kinds, the one that ranks highest among its own member's
draws (`balanced`: Beran 1988), so that a member with a long tail doesn't widen the intervals of the others. With 8 groups and 100 normal
effects that are all zero, `intervals` finds one in 1 % of trials, and in 65 % where every draw is divided by the same standard error; with
skewed ones in 1 % and 100 %. A few groups make wide intervals, and two groups infinite ones.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
_ROUNDING = 1e-12
_MEMBERS = 64
"""Members of a family in one matrix product."""


class Intervals(NamedTuple):
    """Means over steps with their intervals at 95 %, each ``(member,)``; NaN where fewer than two groups have steps."""

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    family_low: NDArray[np.float64]
    family_high: NDArray[np.float64]


def draws(groups: int, times: int, seed: int) -> NDArray[np.float64]:
    """How often each group is drawn in so many bootstrap samples of groups, one row each: ``(draw, group)``."""
    return np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), size=times).astype(np.float64)


def intervals(sums: NDArray[np.float64], steps: NDArray[np.float64], times: NDArray[np.float64]) -> Intervals:
    """The means of a family.

    Parameters
    ----------
    sums : ndarray ``(member, group)``
        Of each member over each group's steps.
    steps : ndarray ``(member, group)``
        How many steps each group has.
    times : ndarray ``(draw, group)``
        How often each draw counts each group.
    """
    total = steps.sum(1)
    value = np.divide(sums.sum(1), total, out=np.full(len(sums), np.nan), where=total > 0)
    enough = (steps > 0).sum(1) > 1
    error, own, largest = np.zeros(len(sums)), np.full(len(sums), np.inf), np.zeros(len(times))
    for at in range(0, len(sums), _MEMBERS):
        here = slice(at, at + _MEMBERS)
        members = np.flatnonzero(enough[here]) + at
        error[members], deviations = _studentised(sums[members], steps[members], value[members], times)
        own[members] = np.quantile(deviations, LEVEL, axis=0, method="higher")
        largest = np.maximum(largest, deviations.max(1, initial=0))
    family = np.quantile(largest, LEVEL, method="higher")
    found = [value]
    for critical in (own, family):
        with np.errstate(invalid="ignore"):
            width = np.where(error == 0, 0.0, critical * error)
        found += [np.where(enough, value - width, np.nan), np.where(enough, value + width, np.nan)]
    return Intervals(*found)


def balanced(sums: NDArray[np.float64], steps: NDArray[np.float64], times: NDArray[np.float64]) -> Intervals:
    """As `intervals`, but each member's interval of the family has the same level.

    Parameters
    ----------
    sums, steps : ndarray ``(member, group)``
    times : ndarray ``(draw, group)``
    """
    each = intervals(sums, steps, times)
    known = np.isfinite(each.value) & ((steps > 0).sum(1) > 1)
    if not known.any():
        return each
    error, deviations = _studentised(sums[known], steps[known], each.value[known], times)
    ordered = np.sort(deviations, axis=0)
    below = np.stack([np.searchsorted(one, values) for one, values in zip(ordered.T, deviations.T, strict=True)])
    critical = ordered[int(np.quantile(below.max(0), LEVEL, method="higher"))]
    with np.errstate(invalid="ignore"):
        width = np.where(error == 0, 0.0, critical * error)
    low, high = each.family_low.copy(), each.family_high.copy()
    low[known], high[known] = each.value[known] - width, each.value[known] + width
    return each._replace(family_low=low, family_high=high)


def _studentised(
    sums: NDArray[np.float64], steps: NDArray[np.float64], value: NDArray[np.float64], times: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each mean's standard error ``(member,)``, and how many of its own ones each draw is away from it ``(draw, member)``."""
    groups = (steps > 0).sum(1)
    share = groups / (groups - 1)
    rest = sums - value[:, None] * steps
    error = np.sqrt(share * (rest**2).sum(1)) / steps.sum(1)
    n = times @ steps.T
    with np.errstate(divide="ignore", invalid="ignore"):
        away = (times @ rest.T) / n
        # The squares of what is left of each group around the draw's own mean.
        own = times @ (rest**2).T
        squares = own - 2 * away * (times @ (rest * steps).T) + away**2 * (times @ (steps**2).T)
        # Where all that was drawn are equal, rounding is what is left.
        deviations = np.abs(away) / (np.sqrt(share * np.where(squares > _ROUNDING * own, squares, 0.0)) / n)
    # A draw without any of a member's steps says nothing of it; one without a deviation is none.
    return error, np.where((n > 0) & (away != 0), deviations, 0.0)
