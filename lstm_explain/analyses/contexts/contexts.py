"""What makes this unit fire: its highest, lowest and average contexts over a whole corpus, streamed.

Karpathy, Johnson & Li (2015, "Visualizing and understanding recurrent networks") picked by eye the text in which a cell shows best;
here every step of a corpus is looked at, and the places are the same ones however the corpus is split. A *top* context is a
peak: a step at which the unit is higher than at any other less than `apart` steps away, so that one long rise doesn't fill the list. An
*average* context is none that is near the mean, where a unit that switches nearly never is: steps are drawn by chance, the same for all
units, and of these each unit's are spread evenly over its quantiles. They are the control: what they have too isn't what the unit is about.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lstm_explain.accumulators import First, Sums, tally
from lstm_explain.analyses.contexts.places import highest, lots, peaks
from lstm_explain.analyses.contexts.result import Context, ContextsResult, LayerContexts
from lstm_explain.errors import InputError
from lstm_explain.recording.recording import Recording
from lstm_explain.recording.runner import numbered_units
from lstm_explain.trajectory import Padding, Trajectory, together

_SEQUENCES = 8
"""How many sequences are worked on at once: bounds memory, changes nothing else."""
_DRAWN = 32
"""Steps that are drawn by chance for each average context: the more, the nearer its quantile is."""

Read = Sequence[tuple[str, ...] | NDArray[np.float64]]
"""What each sequence read: tokens ``(time,)``, or numbers ``(time, feature)``."""


class _Drawn(NamedTuple):
    """One step that was drawn by chance, with all units around it."""

    order: tuple[bool, str | int, int]
    sequence: str | int
    step: int
    at: int
    read: tuple[str, ...] | NDArray[np.float64]
    values: NDArray[Any]


class _Layer:
    """What is kept of one layer."""

    def __init__(self, signal: str, units: tuple[int, ...], count: int) -> None:
        self.signal, self.units, self.sums, self.count = signal, units, Sums(), count
        self.top, self.bottom = ([First(count) for _ in units] for _ in range(2))
        self.drawn = First(_DRAWN * count)

    def merge(self, other: Self) -> None:
        self.sums.merge(other.sums)
        self.drawn.merge(other.drawn)
        for own, theirs in zip([*self.top, *self.bottom], [*other.top, *other.bottom], strict=True):
            own.merge(theirs)

    def compute(self) -> LayerContexts:
        steps, nonfinite = int(self.sums["steps"]), np.asarray(self.sums["nonfinite"], dtype=np.int64)
        top, bottom = (tuple(tuple(unit) for unit in units) for units in (self.top, self.bottom))
        finite = np.where(steps > nonfinite, steps - nonfinite, np.nan)
        mean = np.asarray(self.sums["total"]) / finite
        variance = np.asarray(self.sums["squares"]) / finite - mean**2
        still = np.array([bool(h) and h[0].value == low[0].value for h, low in zip(top, bottom, strict=True)])
        return LayerContexts(
            signal=self.signal,
            units=self.units,
            top=top,
            bottom=bottom,
            average=tuple(self._average(at) for at in range(len(self.units))),
            mean=mean,
            deviation=np.where(still, 0.0, np.sqrt(np.clip(variance, 0, None))),
            steps=steps,
            sequences=int(self.sums["sequences"]),
            nonfinite=nonfinite,
        )

    def _average(self, unit: int) -> tuple[Context, ...]:
        """Of the steps that were drawn, those at the middle of each of `count` equal shares."""
        own = [(float(one.values[one.at, unit]), one) for one in self.drawn]
        ranked = sorted((pair for pair in own if np.isfinite(pair[0])), key=lambda pair: (pair[0], pair[1].order))
        shares = min(self.count, len(ranked))
        picked = [ranked[(2 * share + 1) * len(ranked) // (2 * shares)] for share in range(shares)]
        return tuple(Context(v, one.sequence, one.step, one.at, one.read, one.values[:, unit].astype(np.float64)) for v, one in picked)


class Contexts:
    """Contexts as a stream: `update` with each recording, `merge` with another's, `compute` the result.

    Any split of the corpus into whole sequences, in any order, gives the same contexts exactly: ties are broken by the sequences' names,
    then by step. Kept are the contexts themselves, and the names. The parameters are those of `contexts`.

    Raises
    ------
    InputError
        If they aren't whole numbers from 1, or from 0 for `before` and `after`.
    """

    needs = ("inputs", "names")
    """What ``record(model, into=[...])`` must be told with `Recording.annotate` before each call."""

    def __init__(
        self,
        *,
        layer: str | None = None,
        signal: str | None = None,
        units: Sequence[int] | None = None,
        count: int = 8,
        before: int = 40,
        after: int = 10,
        apart: int = 32,
    ) -> None:
        if min(count, apart) < 1 or min(before, after) < 0:
            raise InputError(f"needed count and apart from 1, before and after from 0, got {count}, {apart}, {before} and {after}")
        self._asked = (layer, signal, numbered_units(units), count, before, after, apart)
        self._layers: dict[str, _Layer] = {}
        self._names: set[str | int] = set()
        self._paddings: set[Padding] = set()

    def update(self, recording: Recording, inputs: Any, names: Sequence[str | int]) -> None:
        """Look through some sequences.

        Parameters
        ----------
        recording : Recording
        inputs : sequence of sequences of str, or Tensor or ndarray ``(batch, time[, feature])``
            What each step reads: tokens, or numbers.
        names : sequence of str or int ``(batch,)``
            What each sequence is called, in the whole corpus by that name alone.

        Raises
        ------
        InputError
            If these don't fit each other, or a name came before.
        """
        layer = self._asked[0]
        if not len(recording):
            raise InputError("needed at least one recorded layer, got none: call the model inside lx.record first")
        if layer is not None and layer not in recording:
            raise InputError(f"needed layer as one of {', '.join(recording)}, got {layer!r}")
        wanted = list(recording.values()) if layer is None else [recording[layer]]
        named = _named(names)
        if again := [name for name, times in Counter(named).items() if times > 1 or name in self._names]:
            raise InputError(f"needed a name for each sequence that no other has, got {again[0]!r} again")
        for trajectory in wanted:
            if len(trajectory.valid) != len(named):
                raise InputError(f"needed names for {len(trajectory.valid)} sequences of {trajectory.name}, got {len(named)}")
        read = _read(inputs, wanted)
        for trajectory, of in [(trajectory, self._layer(trajectory)) for trajectory in wanted]:
            self._look_through(trajectory, of, read, named)
            self._layers[trajectory.name] = of
            self._paddings.add(trajectory.padding)
        self._names.update(named)

    def merge(self, other: Self) -> None:
        """Add what another found; it must have been made with the same parameters and have looked through other sequences."""
        if self._asked != other._asked:
            raise InputError("needed streams with the same parameters, got others")
        if again := self._names & other._names:
            raise InputError(f"needed streams of different sequences, got {len(again)} in both: {next(iter(again))!r}")
        for name, layer in other._layers.items():
            own = self._layers.setdefault(name, _Layer(layer.signal, layer.units, layer.count))
            if (own.signal, own.units) != (layer.signal, layer.units):
                raise InputError(f"needed {own.signal} of {len(own.units)} units of {name}, got {layer.signal} of {len(layer.units)}")
            own.merge(layer)
        self._names |= other._names
        self._paddings |= other._paddings

    def compute(self) -> ContextsResult:
        """The result of everything looked through so far.

        Raises
        ------
        InputError
            If nothing was.
        """
        if not self._layers:
            raise InputError("needed at least one recording, got none: call update first")
        _, _, _, count, _, _, apart = self._asked
        return ContextsResult({name: layer.compute() for name, layer in self._layers.items()}, count, apart, together(self._paddings))

    def _layer(self, trajectory: Trajectory) -> _Layer:
        _, signal, units, count, *_ = self._asked
        signal = trajectory.memory if signal is None else signal
        width = trajectory.signal(signal).shape[2]
        if bad := [unit for unit in units or () if not 0 <= unit < width]:
            raise InputError(f"needed units from 0 to {width - 1} of {trajectory.name} {signal}, got {bad[0]}")
        units = tuple(range(width)) if units is None else units
        known = self._layers.get(trajectory.name, _Layer(signal, units, count))
        if (known.signal, known.units) != (signal, units):
            raise InputError(f"needed {known.signal} of {len(known.units)} units of {trajectory.name}, got {signal} of {len(units)}")
        return known

    def _look_through(self, trajectory: Trajectory, layer: _Layer, read: Read, names: Sequence[str | int]) -> None:
        x = trajectory.signal(layer.signal)
        if layer.units != tuple(range(x.shape[2])):
            x = x[:, :, list(layer.units)]
        found = tally(x, trajectory.valid)
        layer.sums.add("steps", int(trajectory.valid.sum()))
        layer.sums.add("sequences", int(trajectory.valid.any(1).sum()))
        layer.sums.add("nonfinite", found.nonfinite)
        layer.sums.add("total", found.total)
        layer.sums.add("squares", found.squares)
        # In the order of names, so that among equal values of a batch the first row is the first by the order that breaks ties.
        order = sorted(range(len(names)), key=lambda row: _order(names[row]))
        for at in range(0, len(order), _SEQUENCES):
            rows = order[at : at + _SEQUENCES]
            _Part(x[rows], trajectory.valid[rows], [read[row] for row in rows], [names[row] for row in rows], self._sides(trajectory)).into(
                layer, apart=self._asked[-1]
            )

    def _sides(self, trajectory: Trajectory) -> tuple[int, int]:
        """How many steps are shown on either side, in the order of the input: what a reverse layer has read stands after the step."""
        before, after = self._asked[4:6]
        return (after, before) if trajectory.reverse else (before, after)


class _Part:
    """Some sequences of one layer, in the order of their names."""

    def __init__(self, x: Tensor, valid: Tensor, read: Read, names: Sequence[str | int], sides: tuple[int, int]) -> None:
        self.x = x.to(torch.promote_types(x.dtype, torch.float32))
        self.counted = valid.unsqueeze(2) & x.isfinite()
        self.values, self.valid = self.x.cpu().numpy(), valid.cpu().numpy()
        self.read, self.names, self.sides = read, names, sides

    def into(self, layer: _Layer, apart: int) -> None:
        for firsts, sign in ((layer.top, 1), (layer.bottom, -1)):
            signed = (sign * self.x).where(self.counted, -torch.inf)
            of_peaks = signed.where(peaks(signed, apart), -torch.inf).flatten(0, 1)
            for row, unit in zip(*highest(of_peaks, layer.count), strict=True):
                sequence, step = divmod(int(row), self.valid.shape[1])
                value = float(self.values[sequence, step, unit])
                key = (-sign * value, *_order(self.names[sequence]), step)
                if firsts[unit].admits(key):
                    at, shown, read = self._around(sequence, step)
                    own = self.values[sequence, shown, unit].astype(np.float64)
                    firsts[unit].add(key, Context(value, self.names[sequence], step, at, read, own))
        sequences, steps = np.nonzero(self.valid)
        drawn = np.concatenate([lots(name, np.flatnonzero(valid)) for name, valid in zip(self.names, self.valid, strict=True)])
        for place in np.argsort(drawn, kind="stable")[: layer.drawn.count]:
            sequence, step = int(sequences[place]), int(steps[place])
            order = (*_order(self.names[sequence]), step)
            if layer.drawn.admits((int(drawn[place]), *order)):
                at, shown, read = self._around(sequence, step)
                one = _Drawn(order, self.names[sequence], step, at, read, self.values[sequence, shown].copy())
                layer.drawn.add((int(drawn[place]), *order), one)

    def _around(self, sequence: int, step: int) -> tuple[int, NDArray[np.int64], tuple[str, ...] | NDArray[np.float64]]:
        """Which of the steps shown is the place, which steps these are, and what they have read."""
        low = max(step - self.sides[0], 0)
        shown = low + np.flatnonzero(self.valid[sequence, low : step + self.sides[1] + 1])
        read = self.read[sequence]
        return int(np.searchsorted(shown, step)), shown, tuple(read[at] for at in shown) if isinstance(read, tuple) else read[shown]


def _order(name: str | int) -> tuple[bool, str | int]:
    """Numbers before text: any two names can be put in order."""
    return isinstance(name, str), name


def _named(names: Any) -> list[str | int]:
    given = names.tolist() if hasattr(names, "tolist") else list(names) if isinstance(names, (list, tuple, range)) else None
    if given is None or not all(isinstance(name, (str, int)) for name in given):
        raise InputError(f"needed names as text or whole numbers, one for each sequence, got {names!r}")
    return list(given)


def _read(inputs: Any, wanted: Sequence[Trajectory]) -> Read:
    """What each sequence read, checked against the steps of every layer."""
    batch = len(wanted[0].valid)
    needed = f"tokens, a sequence of str for each of {batch} sequences, or numbers (batch, time[, feature])"
    read: Read
    if hasattr(inputs, "dtype") and hasattr(inputs, "shape"):
        array = inputs.detach().cpu().double().numpy() if isinstance(inputs, Tensor) else np.asarray(inputs)
        if array.ndim not in (2, 3) or array.dtype.kind not in "fiub":
            raise InputError(f"needed inputs as {needed}, got {array.dtype} of shape {array.shape}")
        read = list((array[..., None] if array.ndim == 2 else array).astype(np.float64))
    else:
        rows = list(inputs) if isinstance(inputs, (list, tuple)) else None
        if rows is None or not all(isinstance(row, (str, list, tuple)) and all(isinstance(one, str) for one in row) for row in rows):
            raise InputError(f"needed inputs as {needed}, got {type(inputs).__name__}")
        read = [tuple(row) for row in rows]
    if len(read) != batch:
        raise InputError(f"needed inputs as {needed}, got {len(read)} sequences")
    for trajectory in wanted:
        ends = torch.arange(1, trajectory.valid.shape[1] + 1).where(trajectory.valid.cpu(), 0).amax(1).tolist()
        if short := [row for row, end in enumerate(ends) if len(read[row]) < end]:
            raise InputError(f"needed inputs for the {ends[short[0]]} steps of sequence {short[0]}, got {len(read[short[0]])}")
    return read


def contexts(
    recording: Recording,
    inputs: Any,
    *,
    names: Sequence[str | int] | None = None,
    layer: str | None = None,
    signal: str | None = None,
    units: Sequence[int] | None = None,
    count: int = 8,
    before: int = 40,
    after: int = 10,
    apart: int = 32,
) -> ContextsResult:
    """Where each unit is highest, lowest and as usual, and what the model was reading there.

    Parameters
    ----------
    recording : Recording
        Padding, where it is known, doesn't enter.
    inputs : sequence of sequences of str, or Tensor or ndarray ``(batch, time[, feature])``
        What each step reads: tokens, or numbers.
    names : sequence of str or int ``(batch,)``, optional
        What each sequence is called; its number if left out.
    layer : str, optional
        A key of the recording; all layers if left out.
    signal : str, optional
        Any gate or state; the state that remembers if left out: the cell state, or the hidden state where there is no cell.
    units : sequence of int, optional
        All if left out.
    count : int
        How many contexts of each kind.
    before, after : int
        Steps shown that the layer had read before the place, and that it read after it. Those of a reverse layer stand the other way round.
    apart : int
        So many steps at least are between two top, or two bottom, contexts in one sequence.

    Returns
    -------
    ContextsResult

    Raises
    ------
    InputError
        If there is no such layer, signal or unit, or the inputs or names are not as many as the sequences and steps.

    Examples
    --------
    >>> import torch, lstm_explain as lx
    >>> model = lx.PeepholeLSTM(8, 16, batch_first=True)
    >>> with lx.record(model, lengths=[5, 4]) as recording:
    ...     _ = model(torch.eye(8)[torch.tensor([[0, 1, 2, 3, 4], [5, 6, 7, 0, 0]])])
    >>> found = lx.contexts(recording, ["abcde", "fgha"], count=1)
    >>> len(found.layers["l0"].of(3, "top")), found.layers["l0"].steps
    (1, 9)
    """
    stream = Contexts(layer=layer, signal=signal, units=units, count=count, before=before, after=after, apart=apart)
    if len(recording):
        first = next(iter(recording.values()))
        stream.update(recording, inputs, range(len(first.valid)) if names is None else names)
    return stream.compute()
