"""`select`: the units that are on throughout a span, and off just before and after it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from lstm_explain.analyses.selection.runs import on, runs
from lstm_explain.display import jsonable, table
from lstm_explain.errors import InputError
from lstm_explain.recording.recording import Recording
from lstm_explain.trajectory import Padding, Trajectory

if TYPE_CHECKING:
    from pandas import DataFrame

THRESHOLD = 0.3
ALPHA = 0.05
Span = tuple[int, int, int]
"""A sequence, its first step, and the step after the last."""


@dataclass(frozen=True, eq=False, repr=False)
class SelectionResult:
    """The units that are on throughout a span and off just before and after it.

    Attributes
    ----------
    span : (sequence, start, stop)
    layer, signal : str
    threshold : float
        A unit is on where its value is at least that, or at most minus that.
    units : tuple of int
    signs : ndarray of int ``(unit,)``
        1 where a unit is on by being high, -1 where by being low.
    values : ndarray ``(unit, time)``
        From step `shown` on: the span, and some steps before and after it.
    shown : int
    by_chance : ndarray of int ``(draw,)``
        How many units spans of the same length at random places of the recording have.
    padding : {"none", "known", "unknown"}
    """

    span: Span
    layer: str
    signal: str
    threshold: float
    units: tuple[int, ...]
    signs: NDArray[np.int64]
    values: NDArray[np.float64]
    shown: int
    by_chance: NDArray[np.int64]
    padding: Padding

    @property
    def p_value(self) -> float:
        """How often a span at a random place has as many units."""
        return float((1 + (self.by_chance >= len(self.units)).sum()) / (1 + len(self.by_chance)))

    @property
    def verdict(self) -> Literal["shown", "not shown", "not controlled"]:
        """Whether so many units are more than a random place has, at 5 %."""
        if not len(self.by_chance):
            return "not controlled"
        return "shown" if self.units and self.p_value <= ALPHA else "not shown"

    def __repr__(self) -> str:
        sequence, start, stop = self.span
        units = f"{len(self.units)} unit{'' if len(self.units) == 1 else 's'}"
        chance = f", at random places {self.by_chance.mean():.2g} on average" if len(self.by_chance) else ""
        return (
            f"<Selection in {self.layer}, {self.signal}: {units} on throughout steps {start} to {stop - 1} of sequence {sequence}, "
            f"off around them, at {self.threshold:g}{chance} ({self.verdict}); padding {self.padding}>"
        )

    def _repr_html_(self) -> str:
        inside = self.values[:, self.span[1] - self.shown : self.span[2] - self.shown]
        rows = [
            (unit, "high" if sign > 0 else "low", f"{own.mean():.3f}")
            for unit, sign, own in zip(self.units, self.signs, inside, strict=True)
        ]
        return table(repr(self)[1:-1], ("unit", "on by being", "mean over the span"), rows)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers; None where a value isn't finite."""
        return dict(jsonable(vars(self)))

    def to_frame(self) -> "DataFrame":
        """A pandas frame, one row for each unit and step shown. Needs pandas."""
        from pandas import DataFrame

        sequence, start, stop = self.span
        rows = [
            (unit, sign, self.shown + at, value, start <= self.shown + at < stop)
            for unit, sign, values in zip(self.units, self.signs.tolist(), self.values, strict=True)
            for at, value in enumerate(values)
        ]
        return DataFrame(rows, columns=["unit", "sign", "step", "value", "in_span"]).assign(sequence=sequence)


def select(
    recording: Recording,
    span: Span,
    *,
    layer: str | None = None,
    signal: str | None = None,
    threshold: float = THRESHOLD,
    around: int = 10,
    draws: int = 999,
    seed: int = 0,
) -> SelectionResult:
    """The units that are on throughout a span, and off just before and after it (LSTMVis: Strobelt et al. 2018).

    A unit may be on by being high or by being low: which is which is a matter of its weights' signs. Outside the sequence it is off.

    Parameters
    ----------
    recording : Recording
        Padding, where it is known, doesn't enter.
    span : (int, int, int)
        The sequence, its first step, and the step after the last.
    layer : str, optional
        A key of the recording; may be left out where it has one only.
    signal : str, optional
        Any gate or state; the state that remembers if left out: the cell state, or the hidden state where there is no cell.
    threshold : float
        From which distance from 0 a unit is on. LSTMVis's server begins with 0.3 too, but holds it against tanh(c), which is 0.31 of c;
        here nothing is transformed.
    around : int
        Steps shown on either side of the span.
    draws : int
        Spans of the same length at random places, for comparison.
    seed : int

    Returns
    -------
    SelectionResult
        `match` finds the other spans with these units.

    Raises
    ------
    InputError
        If there is no such layer, signal or span, or `threshold` isn't above 0.

    Examples
    --------
    >>> import torch, lstm_explain as lx
    >>> model = lx.PeepholeLSTM(8, 16, batch_first=True)
    >>> with lx.record(model, lengths=[30, 20]) as recording:
    ...     _ = model(torch.randn(2, 30, 8))
    >>> lx.select(recording, (1, 4, 9)).span
    (1, 4, 9)
    """
    trajectory = _layer(recording, layer)
    signal = trajectory.memory if signal is None else signal
    values = trajectory.signal(signal)
    if not (isinstance(threshold, (int, float)) and 0 < threshold < np.inf):
        raise InputError(f"needed threshold above 0, got {threshold!r}")
    if around < 1 or draws < 0:
        raise InputError(f"needed around from 1 and draws from 0, got {around} and {draws}")
    valid = trajectory.valid.cpu().numpy()
    sequence, start, stop = span = _checked(span, valid)
    where = on(trajectory, signal, threshold)
    outside = [step for step in (start - 1, stop) if 0 <= step < valid.shape[1]]
    rows = np.flatnonzero(where[sequence, :, start:stop].all(1) & ~where[sequence][:, outside].any(1))
    units, signs = rows % values.shape[2], np.where(rows < values.shape[2], 1, -1)
    order = np.argsort(units, kind="stable")
    low = max(start - around, 0)
    steps = low + np.flatnonzero(valid[sequence, low : stop + around])
    first = int(steps[0])
    return SelectionResult(
        span=span,
        layer=trajectory.name,
        signal=signal,
        threshold=float(threshold),
        units=tuple(units[order].tolist()),
        signs=signs[order],
        values=values[sequence, first : int(steps[-1]) + 1].T[units[order]].cpu().double().numpy(),
        shown=first,
        by_chance=_by_chance(where, valid, stop - start, draws, seed),
        padding=trajectory.padding,
    )


def _layer(recording: Recording, layer: str | None) -> Trajectory:
    if not len(recording):
        raise InputError("needed at least one recorded layer, got none: call the model inside lx.record first")
    if layer is None and len(recording) > 1:
        raise InputError(f"needed layer= as one of {', '.join(recording)}, got none")
    if layer is not None and layer not in recording:
        raise InputError(f"needed layer as one of {', '.join(recording)}, got {layer!r}")
    return next(iter(recording.values())) if layer is None else recording[layer]


def _checked(span: Any, valid: NDArray[np.bool_]) -> Span:
    try:
        sequence, start, stop = (int(part) for part in span)
    except (TypeError, ValueError):
        raise InputError(f"needed span as (sequence, start, stop), got {span!r}") from None
    if not 0 <= sequence < len(valid):
        raise InputError(f"needed span in a sequence from 0 to {len(valid) - 1}, got {sequence}")
    if not 0 <= start < stop <= valid.shape[1] or not valid[sequence, start:stop].all():
        raise InputError(f"needed span as steps of sequence {sequence}, which has {valid[sequence].sum()}, got {start} to {stop}")
    return sequence, start, stop


def _by_chance(where: NDArray[np.bool_], valid: NDArray[np.bool_], length: int, draws: int, seed: int) -> NDArray[np.int64]:
    """How many units have a run exactly at each of some spans at random places."""
    # Places whose `length` steps are all real: those where so many of them have been by the end.
    steps = np.pad(valid.cumsum(1), [(0, 0), (1, 0)])
    places = np.argwhere(steps[:, length:] - steps[:, :-length] == length)
    picked = places[np.random.default_rng(seed).integers(len(places), size=draws)] if draws else places[:0]
    found = np.zeros(draws, dtype=np.int64)
    for sequence in np.unique(picked[:, 0]):
        spans = runs(where[sequence])
        starts = np.sort(spans[spans[:, 2] - spans[:, 1] == length, 1])
        here = picked[:, 0] == sequence
        at = picked[here, 1]
        found[here] = np.searchsorted(starts, at, "right") - np.searchsorted(starts, at, "left")
    return found
