"""`match`: the other spans at which the selected units do what they do at the selected one."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lstm_explain.accumulators import in_circle
from lstm_explain.analyses.selection.runs import on, runs
from lstm_explain.analyses.selection.select import ALPHA, SelectionResult
from lstm_explain.display import jsonable, number, table
from lstm_explain.errors import InputError
from lstm_explain.recording.recording import Recording
from lstm_explain.trajectory import Padding

if TYPE_CHECKING:
    from pandas import DataFrame


class Match(NamedTuple):
    """One span."""

    sequence: int
    start: int
    stop: int
    matched: int
    """How many of the selected units are on throughout and off just before and after."""
    others: int
    """How many units that weren't selected are so too."""
    shown: int
    """The first step of `share`."""
    share: NDArray[np.float64]
    """The share of the selected units that are on, at each step of the span and some before and after it, ``(time,)``."""


@dataclass(frozen=True, eq=False, repr=False)
class MatchResult:
    """Spans that have the pattern of a selection.

    Attributes
    ----------
    matches : tuple of Match
        The best first: most of the selected units, then fewest others, then the longest.
    selected : int
        How many units were selected.
    found : ndarray of int ``(selected + 1,)``
        How many spans, over the whole recording, have 0, 1, ... all of the selected units; 0 isn't counted and stays 0.
    by_chance : ndarray of int ``(draw,)``
        How many spans have all of them where each unit is moved by itself in a circle within each sequence.
    layer, signal : str
    threshold : float
    shortest, longest : int, int or None
        The lengths that were let through.
    padding : {"none", "known", "unknown"}
    """

    matches: tuple[Match, ...]
    selected: int
    found: NDArray[np.int64]
    by_chance: NDArray[np.int64]
    layer: str
    signal: str
    threshold: float
    shortest: int
    longest: int | None
    padding: Padding

    @property
    def pattern(self) -> str:
        """What a complete match has, in words."""
        return "the selected unit" if self.selected == 1 else f"all {self.selected} selected units"

    @property
    def complete(self) -> int:
        """How many other spans have all of the selected units."""
        return int(self.found[-1])

    @property
    def p_value(self) -> float:
        """How often units that know nothing of each other are all together as often."""
        return float((1 + (self.by_chance >= self.complete).sum()) / (1 + len(self.by_chance)))

    @property
    def verdict(self) -> Literal["shown", "not shown", "not controlled"]:
        """Whether the units are together more often than by chance, at 5 %; one unit alone is with nobody."""
        if not len(self.by_chance):
            return "not controlled"
        return "shown" if self.complete and self.selected > 1 and self.p_value <= ALPHA else "not shown"

    def __repr__(self) -> str:
        chance = f", by chance {number(float(self.by_chance.mean()))} on average" if len(self.by_chance) else ""
        return (
            f"<Matches in {self.layer}, {self.signal}: {number(self.complete)} other spans have {self.pattern}{chance} "
            f"({self.verdict}); {number(int(self.found.sum()))} have some; padding {self.padding}>"
        )

    def _repr_html_(self) -> str:
        rows = [
            (one.sequence, f"{one.start} to {one.stop - 1}", f"{one.matched} of {self.selected}", one.others) for one in self.matches[:10]
        ]
        return table(repr(self)[1:-1], ("sequence", "steps", "selected units", "other units"), rows)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers."""
        return dict(jsonable(vars(self) | {"matches": [one._asdict() for one in self.matches]}))

    def to_frame(self) -> "DataFrame":
        """A pandas frame, one row for each match, the best first. Needs pandas."""
        from pandas import DataFrame

        return DataFrame([one[:5] for one in self.matches], columns=list(Match._fields[:5]))


def match(
    recording: Recording,
    selection: SelectionResult,
    *,
    count: int = 50,
    shortest: int = 1,
    longest: int | None = None,
    around: int = 10,
    draws: int = 99,
    seed: int = 0,
) -> MatchResult:
    """Other spans with the pattern of a selection: its units on throughout, and off just before and after (LSTMVis: Strobelt et al. 2018).

    Ranked as there: by how many of the selected units have the pattern, then by how few others do, then by length. A span with the pattern
    in some unit is a run of that unit from end to end, so that all there are are found. The control moves each unit by itself in a circle
    within each sequence, which keeps its runs and leaves to chance with whom they coincide; random places would show that any run is rare.

    Parameters
    ----------
    recording : Recording
        The one that was selected in, whose own span isn't a match, or another one of the same layer.
    selection : SelectionResult
        What `select` returned.
    count : int
        How many matches are returned; all are counted.
    shortest, longest : int, optional
        How long a span may be, in steps.
    around : int
        Steps shown on either side of a span.
    draws : int
    seed : int

    Returns
    -------
    MatchResult

    Raises
    ------
    InputError
        If the selection has no units, or the recording no such layer, signal or units.

    Examples
    --------
    >>> import torch, lstm_explain as lx
    >>> model = torch.nn.RNN(1, 1, batch_first=True)
    >>> weights = {name: torch.full_like(weight, 3.0 if name == "weight_ih_l0" else 0.0) for name, weight in model.state_dict().items()}
    >>> _ = model.load_state_dict(weights)
    >>> with torch.no_grad(), lx.record(model, lengths=[9]) as recording:
    ...     _ = model(torch.tensor([0.0, 0, 1, 1, 0, 0, 1, 1, 0]).view(1, 9, 1))
    >>> lx.match(recording, lx.select(recording, (0, 2, 4))).matches[0][:4]
    (0, 6, 8, 1)
    """
    if not isinstance(selection, SelectionResult):
        raise InputError(f"needed what lx.select returned, got {type(selection).__name__}")
    if not selection.units:
        raise InputError("needed a selection with at least one unit, got none: choose another span, or a lower threshold")
    if selection.layer not in recording:
        raise InputError(f"needed a recording with {selection.layer}, got {', '.join(recording) or 'nothing'}")
    if min(count, shortest, around) < 1 or draws < 0 or (longest is not None and longest < shortest):
        got = f"{count}, {shortest}, {longest}, {around} and {draws}"
        raise InputError(f"needed count, shortest and around from 1, longest from shortest, and draws from 0, got {got}")
    trajectory = recording[selection.layer]
    width = trajectory.signal(selection.signal).shape[2]
    if max(selection.units) >= width:
        raise InputError(f"needed {max(selection.units) + 1} units of {selection.layer} {selection.signal}, got {width}")
    where, valid = on(trajectory, selection.signal, selection.threshold), trajectory.valid.cpu().numpy()
    rows = np.array(selection.units) + np.where(selection.signs > 0, 0, width)
    own = _own(trajectory.signal(selection.signal), selection)
    rng = np.random.default_rng(seed)

    def let_through(spans: NDArray[np.int64]) -> NDArray[np.int64]:
        lengths = spans[:, -1] - spans[:, -2]
        return spans[(lengths >= shortest) & (lengths <= (where.shape[2] if longest is None else longest))]

    candidates: list[tuple[int, int, int, int, int]] = []
    found, by_chance = np.zeros(len(rows) + 1, dtype=np.int64), np.zeros(draws, dtype=np.int64)
    for sequence, each in enumerate(where):
        spans, matched = np.unique(let_through(runs(each[rows]))[:, 1:], axis=0, return_counts=True)
        everyone, having = np.unique(runs(each)[:, 1:], axis=0, return_counts=True)
        of = {(start, stop): n for (start, stop), n in zip(everyone.tolist(), having.tolist(), strict=True)}
        for (start, stop), n in zip(spans.tolist(), matched.tolist(), strict=True):
            if (sequence, start, stop) != own:
                found[n] += 1
                candidates.append((-n, of[start, stop] - n, start - stop, sequence, start))
        series = np.tile(each[rows][:, valid[sequence]], (draws, 1))
        if series.size:
            moved = in_circle(series, (rng.random(len(series)) * series.shape[1]).astype(np.int64)).reshape(draws, len(rows), -1)
            together, units = np.unique(let_through(runs(moved))[:, [0, 2, 3]], axis=0, return_counts=True)
            by_chance += np.bincount(together[units == len(rows), 0], minlength=draws)
    matches = []
    for negative, others, length, sequence, start in sorted(candidates)[:count]:
        stop, low = start - length, max(start - around, 0)
        shown = where[sequence][rows][:, low : stop + around][:, valid[sequence, low : stop + around]]
        matches.append(Match(sequence, start, stop, -negative, others, low + int(valid[sequence, low:].argmax()), shown.mean(0)))
    return MatchResult(
        matches=tuple(matches),
        selected=len(rows),
        found=found,
        by_chance=by_chance,
        layer=selection.layer,
        signal=selection.signal,
        threshold=selection.threshold,
        shortest=shortest,
        longest=longest,
        padding=trajectory.padding,
    )


def _own(values: Any, selection: SelectionResult) -> tuple[int, int, int] | None:
    """The selected span, if this is the recording that it was selected in."""
    sequence, start, stop = selection.span
    if sequence >= len(values) or stop > values.shape[1]:
        return None
    here = values[sequence, start:stop].T[list(selection.units)].cpu().double().numpy()
    kept = selection.values[:, start - selection.shown : stop - selection.shown]
    return selection.span if np.array_equal(here, kept) else None
