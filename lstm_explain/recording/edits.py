"""What is changed inside a layer while it runs: edits of its signals, and how they meet the steps of one call."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lstm_explain.nn.equations import Edit
from lstm_explain.nn.layout import Layout


class Change(NamedTuple):
    """One signal of one layer and direction in one call, changed: sequences and steps are in the order of the input."""

    signal: str
    where: Tensor
    """Of bool, ``(batch or 1, time or 1, unit)``: what is changed."""
    value: Tensor
    """What it is changed to, or by: ``(batch or 1, time or 1, unit)``, or anything that `source` picks from."""
    adds: bool = False
    feedback: bool = True
    """Whether later steps see it."""
    source: tuple[Tensor, Tensor] | None = None
    """Which sequence and which step of `value` each sequence and step takes, each ``(batch, time)``."""

    def at(self, signal: Tensor, sequences: Tensor, times: int | Tensor) -> Tensor:
        """The signal ``(row, unit)`` of some sequences at some steps, changed."""
        if self.source is None:
            value = _picked(self.value, sequences, times)
        else:
            value = self.value[_picked(self.source[0], sequences, times), _picked(self.source[1], sequences, times)]
        return torch.where(_picked(self.where, sequences, times), signal + value if self.adds else value, signal)


def _picked(of_all: Tensor, sequences: Tensor, times: int | Tensor) -> Tensor:
    """Rows of ``(batch or 1, time or 1, ...)``; what is the same for all of them stays one."""
    times = 0 if of_all.shape[1] == 1 else times
    return of_all[0, times] if len(of_all) == 1 else of_all[sequences, times]


class Site(NamedTuple):
    """One call of one layer and direction, as somebody who wants to change it finds it."""

    kind: str
    suffix: str
    """As in `OpenedLayer`: empty for a cell."""
    widths: Mapping[str, int]
    """The signals that can be changed, and how many units each has."""
    batch: int
    time: int
    lengths: Tensor | None
    """How many steps each sequence has, where the call itself says so."""
    initial: Mapping[str, Tensor]
    """The states that the call came with, ``(batch, unit)``."""
    given: bool
    carries: bool


class Begun(NamedTuple):
    """What is to be done in one call."""

    changes: list[Change]
    resumed: Mapping[str, Tensor] | None = None
    """The states to start from in place of those that the call came with."""


class Editor(Protocol):
    """Who changes one layer and direction of one module."""

    path: str
    suffix: str

    def begin(self, site: Site) -> Begun:
        """A call begins."""

    def end(self, site: Site, left: Mapping[str, Tensor], went_on: Mapping[str, Tensor] | None) -> None:
        """It has ended: the last states that left it, and those that the recurrence itself ended with where they are others."""


class Slot:
    """The changes of one layer and direction in one call, in the order in which they are made, where its steps can find them."""

    def __init__(self, changes: Sequence[Change], layout: Layout, device: torch.device) -> None:
        self._changes, self._time = list(changes), len(layout.sizes)
        self._order = torch.arange(layout.batch, device=device) if layout.sorted_indices is None else layout.sorted_indices
        self._batch, self._sizes = layout.batch, layout.sizes
        fed_back = [change for change in changes if change.feedback]
        self._by_step = [(change, change.where.any(2).any(0).tolist()) for change in fed_back]
        self.leaves = len(fed_back) < len(changes)
        """Whether something leaves the layer that later steps don't see."""

    def at(self, t: int, n: int) -> Edit:
        """What later steps see of the changes at one step, which n sequences reach."""
        now = [change for change, active in self._by_step if active[t if len(active) > 1 else 0]]
        sequences = self._order[:n]

        def edit(name: str, signal: Tensor) -> Tensor:
            for change in now:
                if change.signal == name:
                    signal = change.at(signal, sequences, t)
            return signal

        return edit

    def among(self, rows: Tensor) -> Edit:
        """All changes, for some rows as in `Layout`."""
        sequences, times = (of_rows[rows] for of_rows in self._rows())

        def edit(name: str, signal: Tensor) -> Tensor:
            for change in self._changes:
                if change.signal == name:
                    signal = change.at(signal, sequences, times)
            return signal

        return edit

    def _rows(self) -> tuple[Tensor, Tensor]:
        """The sequence and the step of every row."""
        sizes = torch.tensor(self._sizes, device=self._order.device)
        times = torch.repeat_interleave(torch.arange(self._time, device=sizes.device), sizes)
        return torch.cat([self._order[:n] for n in self._sizes]), times

    def touched(self) -> Tensor:
        """The rows at which something leaves that later steps don't see."""
        sequences, times = self._rows()
        leaving = [change.where.any(2).expand(self._batch, self._time)[sequences, times] for change in self._changes if not change.feedback]
        return torch.stack(leaving).any(0).nonzero()[:, 0]

    def marks(self) -> dict[str, Tensor]:
        """What is changed, ``(batch, time, unit)`` of bool by name of the signal, in the order of the input."""
        found: dict[str, Tensor] = {}
        for change in self._changes:
            where = change.where.expand(self._batch, self._time, -1)
            found[change.signal] = found[change.signal] | where if change.signal in found else where
        return {name: where.clone() for name, where in found.items()}
