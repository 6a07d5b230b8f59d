"""States and a label as plain arrays, checked: what every question about rows begins with."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lstm_explain.analyses.probing.labels import Truth, read, resolve
from lstm_explain.errors import InputError


class Rows(NamedTuple):
    """The steps at which a label is defined: states ``(step, unit)``, the label, and each step's group as a number from 0."""

    states: NDArray[Any]
    truth: Truth
    groups: NDArray[np.int64]


def rows(states: Any, labels: Any, groups: Any, *, pieces: int = 1) -> Rows:
    """States ``(step, unit)``, labels and groups ``(step,)``; without groups one series, cut into pieces of equal length.

    Raises
    ------
    InputError
        If shapes don't fit, a state isn't finite, the label has one value only, every unit is constant, or a group is in several pieces.
    """
    states = np.asarray(states)
    if states.ndim != 2 or 0 in states.shape or states.dtype.kind not in "fiub":
        raise InputError(f"needed states as numbers (step, unit), got shape {states.shape} of {states.dtype}")
    steps = len(states)
    pieces = min(pieces, steps)
    of = np.arange(steps) * pieces // steps if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    for name, shape in (("labels", np.shape(labels)), ("groups", of.shape)):
        if shape != (steps,):
            raise InputError(f"needed {name} of shape ({steps},), one for each step, got {shape}")
    if not np.isfinite(states).all():
        raise InputError(f"needed finite states, got {int((~np.isfinite(states)).sum())} NaN or infinite values")
    if len(np.flatnonzero(of[1:] != of[:-1])) + 1 != len(np.unique(of)):
        raise InputError("needed each group's steps in one piece, got a group that comes back after another")
    given = read("labels", labels)
    truth = resolve("labels", given.values[given.defined], given.continuous)
    states, of = states[given.defined], np.unique(of[given.defined], return_inverse=True)[1]
    if bool((states.min(0) == states.max(0)).all()):
        raise InputError(f"needed a unit that changes, got {states.shape[1]} constant ones")
    return Rows(states, truth, of)
