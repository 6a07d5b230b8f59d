"""Numbers that are made of groups, with the intervals that hold for one claim and for all of them at once.

Groups are what the bootstrap draws. A slope is a quotient of sums over groups and gets studentised intervals, a score percentiles, as those
of `lx.probe` are. For the family each member has an interval of the same level (Beran 1988; Mandel & Betensky 2008), so that one with a
long tail doesn't widen the others'. That takes many more draws than members; of more members than draws can tell apart the largest
deviation of all counts, in standard errors (Romano & Wolf 2005).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from lstm_explain.analyses.ablation.intervals import LEVEL, balanced, intervals


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
    of_family = balanced if _told_apart(known.sum(), len(times)) else intervals
    found = of_family(np.where(known[:, None], sums, 0.0), np.where(known[:, None], steps, 0.0), times)
    return [Bounds(*map(float, one)) for one in zip(*found, strict=True)]


def of_scores(values: NDArray[np.float64], drawn: NDArray[np.float64]) -> list[Bounds]:
    """A family of scores ``(member,)``, from what each is in each draw: ``(member, draw)``."""
    known = np.isfinite(values)
    # A draw in which a score isn't defined says nothing of it.
    every = np.where(np.isfinite(drawn), drawn, values[:, None])
    count = every.shape[1]
    ordered, ranks = np.sort(every, axis=1), rankdata(every, axis=1)
    own = np.ceil((1 + LEVEL) / 2 * count)
    alone = ordered[:, [count - int(own), int(own) - 1]]
    if _told_apart(known.sum(), count):
        outward = np.where(known[:, None], np.maximum(ranks, count + 1 - ranks), 1)
        end = int(np.quantile(outward.max(0), LEVEL, method="higher"))
        together = ordered[:, [count - end, end - 1]]
    else:
        error = every.std(1, keepdims=True)
        away = np.divide(np.abs(every - values[:, None]), error, out=np.zeros_like(every), where=known[:, None] & (error > 0))
        together = values[:, None] + np.quantile(away.max(0), LEVEL, method="higher") * error * [-1, 1]
    return [
        Bounds(float(value), *map(float, (*one, *all_at_once))) for value, one, all_at_once in zip(values, alone, together, strict=True)
    ]


def _told_apart(members: int, draws: int) -> bool:
    """Whether so many draws tell apart what is rare among so many members: each one's largest draw is one of `draws`."""
    return members <= (1 - LEVEL) / 2 * draws
