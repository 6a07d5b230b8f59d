"""Which call goes on where the one before it ended: what makes one time axis of several calls."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class End(NamedTuple):
    """Where a layer's latest call left off."""

    states: Mapping[str, Tensor] | None
    """What the next call would have to start from to go on, ``(batch, unit)``; None where nothing can."""
    steps: int
    """How many steps its sequences have so far."""
    in_pass: int


class Before(NamedTuple):
    """How a call stands to the one before it."""

    continues: bool
    edited: Tensor | None
    """Which sequences' states the model has changed in between, ``(batch,)``; None if none."""
    steps: int
    """How many steps its sequences have had so far: 0 where it begins afresh."""


class Joining:
    """Watches where the calls of each layer begin and end, and tells passes of the model apart."""

    def __init__(self) -> None:
        self._ends: dict[str, End] = {}
        self._depth = self._pass = 0

    def enter(self) -> None:
        """A module begins to run; the outermost one begins a pass of the model."""
        self._pass += self._depth == 0
        self._depth += 1

    def leave(self) -> bool:
        """A module has ended; whether the pass has ended with it."""
        self._depth -= 1
        return self._depth == 0

    def knows(self, key: str) -> bool:
        """Whether a layer has run."""
        return key in self._ends

    def before(self, key: str, initial: Mapping[str, Tensor], *, given: bool, carries: bool, cell: bool) -> Before:
        """How a call stands to the one before it; `initial` are the states that it starts from, ``(batch, unit)``, in input order."""
        afresh, end = Before(False, None, 0), self._ends.get(key)
        if end is None or end.states is None or not given or not carries:
            return afresh
        if any(end.states[name].shape != state.shape for name, state in initial.items()):
            return afresh
        edited = torch.stack([differs(end.states[name], state) for name, state in initial.items()]).any(0)
        if not edited.any():
            return Before(True, None, end.steps)
        # A cell whose state was changed between two steps of one pass (masked, reset, dropped out) goes on with what it was given.
        goes_on = cell and end.in_pass == self._pass and any(bool(state.any()) for state in initial.values())
        return Before(True, edited, end.steps) if goes_on else afresh

    def ends(self, states: Mapping[str, Mapping[str, Tensor] | None], steps: Mapping[str, int]) -> None:
        """A call of some layers has ended with these states, None where nothing can go on from them, after so many steps."""
        self._ends |= {key: End(states[key], steps[key], self._pass) for key in states}


def differs(one: Tensor, other: Tensor) -> Tensor:
    """Which sequences of two states ``(batch, unit)`` aren't the same, bit for bit; what is NaN in both is."""
    return ~((one == other) | (one.isnan() & other.isnan())).all(1)
