"""What is claimed of an attribution against a control: differences with their intervals over sequences, and whether they are shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lstm_explain.analyses.ablation.intervals import Intervals, balanced
from lstm_explain.errors import InputError


@dataclass(frozen=True, eq=False)
class Claims:
    """How much better an attribution does than a control, by each measure; above zero is better.

    Attributes
    ----------
    measures : tuple of str ``(measure,)``
    attribution, control : ndarray ``(measure,)``
        The means of the measure itself over sequences.
    value : ndarray ``(measure,)``
        The mean of the differences, sequence by sequence, turned so that above zero the attribution is the better one.
    low, high : ndarray ``(measure,)``
        The 95 % interval of each by itself.
    family_low, family_high : ndarray ``(measure,)``
        95 % intervals that hold for all measures at once, each at the same level; infinite where hardly any sequences differ.
    shown : ndarray of bool ``(measure,)``
        Whether the interval of the family is above zero by more than rounding. What isn't shown may still be so.
    """

    measures: tuple[str, ...]
    attribution: NDArray[np.float64]
    control: NDArray[np.float64]
    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    family_low: NDArray[np.float64]
    family_high: NDArray[np.float64]
    shown: NDArray[np.bool_]

    def verdict(self, measure: str) -> str:
        """A measure's verdict with its numbers."""
        at = self.measures.index(measure)
        if np.isnan(self.family_low[at]):
            return "not controlled: fewer than two groups of sequences"
        reverse = " (the reverse is)" if self.family_high[at] < 0 else ""
        word = "shown" if self.shown[at] else f"not shown{reverse}"
        ends = self.family_low[at], self.family_high[at]
        interval = f"[{ends[0]:.3g}, {ends[1]:.3g}]" if np.isfinite(ends).all() else "(too few sequences differ for an interval)"
        return f"{word}, {self.value[at]:+.3g} {interval}"


def numbered(groups: Sequence[Any] | None, batch: int) -> NDArray[np.int64]:
    """A number for each sequence's group.

    Raises
    ------
    InputError
        If they aren't as many as the sequences.
    """
    if groups is None:
        return np.arange(batch)
    if len(groups) != batch:
        raise InputError(f"needed groups for {batch} sequences, got {len(groups)}")
    number_of = {group: at for at, group in enumerate(dict.fromkeys(groups))}
    return np.array([number_of[group] for group in groups])


def over_sequences(values: NDArray[np.float64], group: NDArray[np.int64], times: NDArray[np.float64]) -> Intervals:
    """Means of a family ``(member, batch)`` over the sequences where they are numbers, with intervals from draws of groups."""
    sums, many = np.zeros((2, len(values), times.shape[1]))
    known = np.isfinite(values)
    np.add.at(sums.T, group, np.where(known, values, 0.0).T)
    np.add.at(many.T, group, known.T.astype(np.float64))
    return balanced(sums, many, times)


def claims(
    measured: Mapping[str, tuple[NDArray[np.float64], bool]],
    control: int,
    rounding: float,
    group: NDArray[np.int64],
    times: NDArray[np.float64],
) -> Claims:
    """Hold the first ranking against another one.

    Parameters
    ----------
    measured : mapping of str to (ndarray ``(ranking, batch)``, bool)
        Each measure, and whether more is better.
    control : int
        Which ranking.
    rounding : float
        A difference that is none.
    group : ndarray of int ``(batch,)``
    times : ndarray ``(draw, group)``
    """
    better = np.stack([(of[0] - of[control]) * (1 if more else -1) for of, more in measured.values()])
    value, low, high, family_low, family_high = over_sequences(better, group, times)
    with np.errstate(invalid="ignore"):
        shown = family_low > rounding
    own, theirs = (np.array([of[ranking].mean() for of, _ in measured.values()]) for ranking in (0, control))
    return Claims(tuple(measured), own, theirs, value, low, high, family_low, family_high, shown)
