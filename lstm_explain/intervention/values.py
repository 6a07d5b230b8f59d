"""What a signal is changed to: a number or tensor, its own value and something more, or what another run had there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from lstm_explain.errors import InputError
from lstm_explain.recording.edits import Change
from lstm_explain.recording.recording import Recording
from lstm_explain.trajectory import Trajectory


class Place(NamedTuple):
    """Where in one call a signal is to be changed; sequences and steps are in the order of the input."""

    key: str
    """The layer's name in a recording."""
    signal: str
    where: Tensor
    """Of bool, ``(batch or 1, time or 1, width)``."""
    units: Tensor
    """The units that were named, in the order in which they were."""
    batch: int
    time: int
    first: int
    """How many steps the sequences have had before this call."""
    cell: bool
    lengths: Tensor | None
    """How many steps each sequence has in all, where that is known."""
    like: Tensor
    """Any tensor of the dtype and on the device that values must have."""
    feedback: bool

    def change(self, value: Tensor, *, adds: bool = False, source: tuple[Tensor, Tensor] | None = None) -> Change:
        """The signal changed to a value ``(batch or 1, time or 1, width)`` there, or by it."""
        return Change(self.signal, self.where, value.to(self.like), adds, self.feedback, source)

    @property
    def steps(self) -> Tensor:
        """The steps of this call, counted from the beginning of the sequences."""
        return torch.arange(self.first, self.first + self.time, device=self.like.device)


class Edit(Protocol):
    """What a signal is changed to."""

    def change(self, place: Place) -> Change:
        """What it is at a place."""


@dataclass(frozen=True, eq=False)
class Clamp:
    """See `clamp`."""

    value: Tensor

    def change(self, place: Place) -> Change:
        """The value, at the units that were named."""
        return place.change(_spread(self.value, place))


@dataclass(frozen=True, eq=False)
class Course:
    """A value for every step and unit ``(batch, time, unit)``, of which each call takes the steps that it has: packed ones have fewer."""

    value: Tensor

    def change(self, place: Place) -> Change:
        """The steps of this call."""
        value, width = self.value[:, place.first : place.first + place.time], place.where.shape[2]
        if tuple(value.shape) != (place.batch, place.time, width):
            needed = f"(batch, time, unit) = {(place.batch, place.time, width)}"
            raise InputError(f"needed for {place.signal} of {place.key} {needed}, got {tuple(value.shape)}")
        return place.change(value)


@dataclass(frozen=True, eq=False)
class Add:
    """See `add`."""

    delta: Tensor

    def change(self, place: Place) -> Change:
        """What is added, at the units that were named."""
        return place.change(_spread(self.delta, place), adds=True)


@dataclass(frozen=True, eq=False)
class Mean:
    """See `mean`."""

    recording: Recording

    def change(self, place: Place) -> Change:
        """Each unit's mean."""
        one = _recorded(self.recording, place)
        whole = _in_full(one, place)
        return place.change(whole[one.valid.to(whole.device)].double().mean(0)[None, None])


@dataclass(frozen=True, eq=False)
class Resample:
    """See `resample`."""

    recording: Recording
    seed: int
    sequences: Tensor | None = None

    def change(self, place: Place) -> Change:
        """What other sequences had there."""
        one = _recorded(self.recording, place)
        whole, valid = _in_full(one, place), one.valid
        donors = (self._drawn(len(valid), place) if self.sequences is None else _named(self.sequences, len(valid), place)).to(valid.device)
        # The steps that a sequence has, in order, and then those that it doesn't have.
        order = (~valid).to(torch.uint8).argsort(dim=1, stable=True)[donors]
        again = order.gather(1, place.steps.to(valid.device) % valid.sum(1, keepdim=True)[donors])
        steps = place.steps.clamp(max=valid.shape[1] - 1).to(valid.device)
        same = valid[donors][:, steps] & (place.steps < valid.shape[1]).to(valid.device)
        times = torch.where(same, steps, again)
        return place.change(whole, source=(donors[:, None].to(place.like.device), times.to(place.like.device)))

    def _drawn(self, count: int, place: Place) -> Tensor:
        """Which sequence each one takes its values from, by the seed."""
        drawn = torch.Generator().manual_seed(self.seed)
        if count == place.batch == 1:
            raise InputError(f"needed a recording of at least two sequences to resample {place.key} from another one, got 1")
        if count == place.batch:
            return (torch.arange(count) + torch.randint(1, count, (count,), generator=drawn)) % count
        return torch.randint(0, count, (place.batch,), generator=drawn)


@dataclass(frozen=True, eq=False)
class Patch:
    """See `patch`."""

    recording: Recording
    sequences: Tensor | None

    def change(self, place: Place) -> Change:
        """What the recorded sequences had there."""
        one = _recorded(self.recording, place)
        whole, (count, steps) = _in_full(one, place), one.valid.shape
        if self.sequences is None:
            if count != place.batch:
                raise InputError(f"needed a recording of the {place.batch} sequences of the call to patch {place.key}, got {count}")
            rows = torch.arange(count, device=place.like.device)
        else:
            rows = _named(self.sequences, count, place).to(place.like.device)
        in_parts = place.cell or len(self.recording.calls[place.key]) > 1
        if place.first + place.time > steps or not (in_parts or place.time == steps):
            needed = f"the call's {place.first + place.time} steps"
            raise InputError(f"needed a recording of {needed} to patch {place.key}, got {steps}")
        valid = one.valid.to(place.like.device)[rows]
        if place.lengths is not None and one.padding != "unknown" and not torch.equal(lengths := valid.sum(1), place.lengths):
            needed = f"sequences of {place.lengths.tolist()} steps"
            raise InputError(f"needed a recording of {needed} to patch {place.key}, got {lengths.tolist()}: give lengths=")
        beyond = place.where.any(2) & ~valid[:, place.steps]
        if bool(beyond.any()):
            row, step = (int(index) for index in beyond.nonzero()[0])
            needed = f"step {place.first + step} of sequence {row}"
            got = f"{int(valid[row].sum())} steps: give lengths= as the recording has them"
            raise InputError(f"needed a recording of {needed} to patch {place.key}, got {got}")
        return place.change(whole, source=(rows[:, None], place.steps[None]))


def _named(sequences: Tensor, count: int, place: Place) -> Tensor:
    """Sequences of a recording that were named, one for each of a call."""
    if len(sequences) != place.batch:
        raise InputError(f"needed sequences for each of the {place.batch} of the call to change {place.key}, got {len(sequences)}")
    if int(sequences.max()) >= count:
        raise InputError(f"needed sequences from 0 to {count - 1} of the recording of {place.key}, got {int(sequences.max())}")
    return sequences


def _spread(value: Tensor, place: Place) -> Tensor:
    """A tensor for the units that were named, as one for all of the layer's: ``(batch or 1, time or 1, width)``."""
    value, width = value.to(place.like), place.where.shape[2]
    shape = (place.batch, place.time, len(place.units))
    if value.dim() == 0:
        return value.reshape(1, 1, 1).expand(1, 1, width)
    value = value.reshape(1, 1, -1) if value.dim() == 1 else value.unsqueeze(1) if value.dim() == 2 else value
    if place.cell and value.shape[1] >= place.first + place.time:  # a cell's call is one step of many
        value = value[:, place.first : place.first + place.time] if value.shape[1] > 1 else value
    elif place.first and value.shape[1] > 1:
        raise InputError(f"needed a value for all steps of {place.key}, which goes on from its last call, got {value.shape[1]} steps")
    if any(have not in (1, need) for have, need in zip(value.shape, shape, strict=True)):
        needed = f"a number, or a tensor that fits (batch, time, unit) = {shape}"
        raise InputError(f"needed for {place.signal} of {place.key} {needed}, got {tuple(value.shape)}")
    whole = value.new_zeros(*value.shape[:2], width)
    return whole.index_copy(2, place.units, value.expand(*value.shape[:2], len(place.units)))


def _recorded(recording: Recording, place: Place) -> Trajectory:
    """The layer that is changed, as it was recorded."""
    if place.key not in recording:
        raise InputError(f"needed a recording of {place.key}, got one of {', '.join(recording) or 'nothing'}")
    one = recording[place.key]
    if place.signal not in one.signals:
        raise InputError(f"needed a recording of {place.signal} of {place.key}, got {', '.join(one.signals)}")
    return one


def _in_full(one: Trajectory, place: Place) -> Tensor:
    """A recorded signal with a column for every unit of the layer; those that weren't kept aren't asked for."""
    signal, width = one.signals[place.signal].to(place.like.device), place.where.shape[2]
    if one.units is None or signal.shape[2] == width:
        if signal.shape[2] != width:
            raise InputError(f"needed a recording of {width} units of {place.key}, got {signal.shape[2]}")
        return signal
    kept = torch.tensor(one.units, device=signal.device)
    asked = place.where.any(0).any(0).nonzero()[:, 0]
    if len(missing := asked[~torch.isin(asked, kept)]):
        raise InputError(f"needed a recording of unit {int(missing[0])} of {place.key}, got units {', '.join(map(str, one.units))}")
    return signal.new_zeros(*signal.shape[:2], width).index_copy(2, kept, signal)


def _numbers(value: float | Tensor, what: str) -> Tensor:
    """A finite number or a tensor of them."""
    if isinstance(value, Recording):
        raise InputError(f"needed {what} as a number or a tensor, got a recording: use lx.patch, lx.resample or lx.mean")
    try:
        numbers = value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"needed {what} as a number or a tensor, got {type(value).__name__}") from None
    if numbers.dtype == torch.bool or numbers.is_complex() or numbers.dim() > 3:
        got = f"{str(numbers.dtype).removeprefix('torch.')} of shape {tuple(numbers.shape)}"
        raise InputError(f"needed {what} as a number, or a tensor (unit,), (batch, unit) or (batch, time, unit), got {got}")
    if not bool(numbers.isfinite().all()):
        raise InputError(f"needed {what} as finite numbers, got {float(numbers[~numbers.isfinite()][0])}")
    return numbers


def _recording(recording: Recording) -> Recording:
    if not isinstance(recording, Recording):
        raise InputError(f"needed a recording, of lx.record or lx.load, got {type(recording).__name__}")
    return recording


def clamp(value: float | Tensor) -> Clamp:
    """Put a value in a signal's place; for `intervene`, where a bare number means it.

    Parameters
    ----------
    value : float or Tensor
        A number, or a tensor ``(unit,)``, ``(batch, unit)`` or ``(batch, time, unit)``, where ``unit`` counts the units that are changed,
        in the order in which they are named. It may require a gradient.

    Raises
    ------
    InputError
        If it isn't finite, or no number or tensor.
    """
    return Clamp(_numbers(value, "the value to clamp to"))


def add(delta: float | Tensor) -> Add:
    """Add something to a signal; for `intervene`.

    Parameters
    ----------
    delta : float or Tensor
        As the value of `clamp`.

    Raises
    ------
    InputError
        If it isn't finite, or no number or tensor.
    """
    return Add(_numbers(delta, "what to add"))


def mean(recording: Recording) -> Mean:
    """Put each unit's mean over all valid steps of a recording in its place (mean ablation); for `intervene`.

    Parameters
    ----------
    recording : Recording
        Of the layer and the signal that are changed.

    Raises
    ------
    InputError
        If it isn't a recording.
    """
    return Mean(_recording(recording))


def resample(recording: Recording, *, seed: int = 0, sequences: Sequence[int] | Tensor | None = None) -> Resample:
    """Put what another sequence of a recording had at the same step in a signal's place (resample ablation); for `intervene`.

    Where the recording has as many sequences as the call, it is taken to be of the same ones, and no sequence gets its own values.
    A sequence that is shorter than the one that takes its values is read again from its beginning. One seed draws the same sequences for
    all signals and layers, so that states that belong together come from one.

    Parameters
    ----------
    recording : Recording
        Of the layer and the signal that are changed.
    seed : int
        Draws which sequence each one takes its values from.
    sequences : sequence of int ``(batch,)``, optional
        Which of the recording's sequences each one takes its values from, in place of a draw.

    Raises
    ------
    InputError
        If it isn't a recording, or the seed or `sequences` aren't whole numbers.
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InputError(f"needed seed as a whole number, got {seed!r}")
    return Resample(_recording(recording), seed, None if sequences is None else _sequences(sequences))


def patch(recording: Recording, *, sequences: Sequence[int] | Tensor | None = None) -> Patch:
    """Put what a recording of another run had at the same step in a signal's place (activation patching); for `intervene`.

    Parameters
    ----------
    recording : Recording
        Of the layer and the signal that are changed; its sequences must be as many and as long as those of the call.
    sequences : sequence of int ``(batch,)``, optional
        Which of the recording's sequences each one takes its values from; the same one, if left out.

    Raises
    ------
    InputError
        If it isn't a recording, or `sequences` aren't whole numbers.
    """
    return Patch(_recording(recording), None if sequences is None else _sequences(sequences))


def _sequences(sequences: Sequence[int] | Tensor) -> Tensor:
    """Numbers of a recording's sequences, as a user gave them."""
    try:
        rows = torch.as_tensor(sequences)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"needed sequences as whole numbers, got {sequences!r}") from None
    if rows.dim() != 1 or rows.is_floating_point() or rows.dtype == torch.bool or not len(rows) or int(rows.min()) < 0:
        raise InputError(f"needed sequences as whole numbers, one for each of the call, got {rows.tolist()}")
    return rows
