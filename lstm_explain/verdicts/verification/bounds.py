"""Numbers that are made of groups, with the intervals that hold for one claim and for all of them at once.

Groups are what the bootstrap draws. A slope is a quotient of sums over groups and gets studentised intervals, each member of the family at
the same level (`ablation.intervals.balanced`). A score gets percentiles, as those of `lx.probe` do, and for the family those between which
all members lie at once in 95 % of draws, again each at the same level (Mandel & Betensky 2008).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from lstm_explain.analyses.ablation.intervals import LEVEL, balanced


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


def of_scores(values: NDArray[np.float64], drawn: NDArray[np.float64]) -> list[Bounds]:
    """A family of scores ``(member,)``, from what each is in each draw: ``(member, draw)``."""
    known = np.isfinite(values)
    # A draw in which a score isn't defined says nothing of it.
    every = np.where(np.isfinite(drawn), drawn, values[:, None])
    count = every.shape[1]
    ordered, ranks = np.sort(every, axis=1), rankdata(every, axis=1)
    outward = np.where(known[:, None], np.maximum(ranks, count + 1 - ranks), 1)
    own, family = np.ceil((1 + LEVEL) / 2 * count), np.quantile(outward.max(0), LEVEL, method="higher")
    each = [ordered[:, [count - int(end), int(end) - 1]] for end in (own, family)]
    return [Bounds(float(value), *map(float, (*one, *all_at_once))) for value, one, all_at_once in zip(values, *each, strict=True)]
