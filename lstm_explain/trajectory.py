"""`Trajectory`: what one layer computed, at every step; the one labelled structure that everybody upstairs speaks."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lstm_explain.errors import InputError
from lstm_explain.nn.equations import Form, GRUStep, RNNStep, Step
from lstm_explain.nn.kernels import native

Padding = Literal["none", "known", "unknown"]
"""What is known of padding: no sequence ends early; where each ends is known; or a padded batch came without lengths."""


class Words(NamedTuple):
    """What a kind of layer calls its signals; `states`, in the order of ``hx``, are those that go on to the next step."""

    signals: tuple[str, ...]
    states: tuple[str, ...]


_LSTM = Words(Step._fields, ("hidden_state", "cell_state"))
KINDS: Mapping[str, Words] = {
    "lstm": _LSTM,
    "peephole_lstm": _LSTM,
    "gru": Words(GRUStep._fields, ("hidden_state",)),
    "rnn_tanh": Words(RNNStep._fields, ("hidden_state",)),
    "rnn_relu": Words(RNNStep._fields, ("hidden_state",)),
}
"""The kinds of layer that PyTorch has, and ours. A registered cell is a kind of its own, with signals of its own."""

_ROWS = 1 << 16
"""How many values of a signal are checked at once: bounds memory, changes nothing else."""


def together(paddings: Iterable[Padding]) -> Padding:
    """What is known of the padding of several parts taken together."""
    parts = set(paddings)
    return "unknown" if "unknown" in parts else "known" if "known" in parts else "none"


def checked_lengths(lengths: Tensor | Sequence[int], batch: int, time: int | None) -> Tensor:
    """How many steps of each sequence are real, as a tensor ``(batch,)``; `time` is the most there can be, None if that isn't known.

    Raises
    ------
    InputError
        If they aren't whole numbers from 1 to `time`, one for each sequence.
    """
    try:
        whole = torch.as_tensor(lengths)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"needed lengths as whole numbers, one for each sequence, got {lengths!r}") from None
    if whole.shape != (batch,) or whole.is_floating_point() or whole.dtype == torch.bool:
        raise InputError(f"needed lengths as {batch} whole numbers, one for each sequence, got {whole.tolist()}")
    beyond = (whole < 1) | (whole > (int(whole.max()) if time is None else time))
    if bool(beyond.any()):
        bad = int(beyond.nonzero()[0])
        raise InputError(f"needed lengths from 1{'' if time is None else f' to {time}'}, got {int(whole[bad])} for sequence {bad}")
    return whole


def is_gate(signal: str) -> bool:
    """Whether a signal is a gate, by its name."""
    return signal.endswith("_gate")


@dataclass(frozen=True, eq=False, repr=False)
class Trajectory:
    """What one layer, in one direction, computed at every step.

    Signals are attributes by name, each a detached tensor ``(batch, time, unit)``, in the order of the input whatever the
    layer's layout or direction. LSTMs: ``input_gate``, ``forget_gate``, ``cell_candidate``, ``output_gate``, ``cell_state``,
    ``hidden_state``; GRUs: ``reset_gate``, ``update_gate`` (the share of the state that is kept), ``candidate``,
    ``hidden_state``; RNNs: ``hidden_state``. The last axis of ``hidden_state`` is the projection where there is one.
    Attributes too are the states before the first step, ``initial_hidden_state`` and ``initial_cell_state``,
    ``(batch, unit)``.

    Attributes
    ----------
    name : str
        The layer's key in its recording.
    kind : str
        ``"lstm"``, ``"peephole_lstm"``, ``"gru"``, ``"rnn_tanh"``, ``"rnn_relu"``, or the class of a registered cell.
    signals : mapping of str to Tensor ``(batch, time, unit)``
        All of the kind's signals, or those that were kept.
    valid : Tensor of bool ``(batch, time)``
        True at the steps that belong to a sequence. Nothing else enters a statistic.
    padding : {"none", "known", "unknown"}
    initial : mapping of str to Tensor ``(batch, unit)``
        The states before the first step, by name.
    first_step : Tensor of int ``(batch,)``
        The step that each sequence's reading began with: 0, or where the reverse direction started.
    reverse : bool
        Whether the layer read from the last step to the first.
    form : Form or None
        Of an LSTM: the peepholes and their wiring.
    weights : mapping of str to Tensor
        The weights that the trajectory's own equations need: ``weight_ch`` and ``weight_hr`` where the layer has them.
    started : mapping of str to Tensor ``(batch, time, unit)``
        The states that the steps started from, where the model edited them between steps; empty where every step started
        from what the one before it ended with.
    edits : Tensor of bool ``(batch, time)`` or None
        Where the model edited a state between steps, kept or not; None where it edited none. `edited` has it at valid steps.
    units : tuple of int or None
        Which of the layer's units these are, where not all were kept.
    changed : mapping of str to Tensor of bool ``(batch, time, unit)``
        The values that `lstm_explain.intervene` has put there, of the signals that it changed; the equations hold everywhere else.
    """

    name: str
    kind: str
    signals: Mapping[str, Tensor]
    valid: Tensor
    padding: Padding
    initial: Mapping[str, Tensor]
    first_step: Tensor
    reverse: bool = False
    form: Form | None = None
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    started: Mapping[str, Tensor] = field(default_factory=dict)
    edits: Tensor | None = None
    units: tuple[int, ...] | None = None
    changed: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        words = KINDS.get(self.kind)
        shapes = {name: tuple(signal.shape) for name, signal in self.signals.items()}
        fits = bool(shapes) and all(len(shape) == 3 and shape[:2] == tuple(self.valid.shape) for shape in shapes.values())
        if words is not None:
            widths = {shape[-1] for name, shape in shapes.items() if name != "hidden_state"}
            fits = fits and set(shapes) <= set(words.signals) and len(widths) <= 1
        if not fits:
            needed = f"signals of {', '.join(words.signals)}" if words else "signals"
            given = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "none"
            raise InputError(f"needed {needed}, each (batch, time, unit) = {tuple(self.valid.shape)} + (unit,), got {given}")

    def __getattr__(self, name: str) -> Tensor:
        signals: Mapping[str, Tensor] = self.__dict__.get("signals", {})  # neither is there yet while one is unpickled
        initial: Mapping[str, Tensor] = self.__dict__.get("initial", {})
        if name in signals:
            return signals[name]
        if name.startswith("initial_") and name.removeprefix("initial_") in initial:
            return initial[name.removeprefix("initial_")]
        raise AttributeError(f"a trajectory has no {name!r}; its signals are {', '.join(signals)}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.signals, *(f"initial_{state}" for state in self.initial)]

    @property
    def complete(self) -> bool:
        """Whether all signals of all units were kept."""
        return self.units is None and set(self.signals) >= set(KINDS[self.kind].signals if self.kind in KINDS else self.signals)

    @property
    def gates(self) -> tuple[str, ...]:
        """The names of the signals that are gates."""
        return tuple(name for name in self.signals if is_gate(name))

    @property
    def memory(self) -> str:
        """The name of the state that remembers: the cell state, or the hidden state where there is no cell."""
        return "cell_state" if "cell_state" in self.initial else "hidden_state"

    def signal(self, name: str) -> Tensor:
        """One signal by name, ``(batch, time, unit)``.

        Raises
        ------
        InputError
            If the layer has no such signal, or it wasn't kept.
        """
        if name not in self.signals:
            raise InputError(f"needed the signal {name} of {self.name}, {self.kind}, got {', '.join(self.signals)}")
        return self.signals[name]

    def steps(self, signal: str) -> Tensor:
        """One signal at the valid steps only: ``(step, unit)``, sequence after sequence."""
        return self.signal(signal)[self.valid]

    def select(self, sequences: Sequence[int] | Tensor) -> "Trajectory":
        """Some of the sequences, in the order given."""
        rows = torch.as_tensor(sequences, dtype=torch.long, device=self.valid.device)

        def of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor[rows] for name, tensor in tensors.items()}

        return replace(
            self,
            signals=of(self.signals),
            valid=self.valid[rows],
            initial=of(self.initial),
            first_step=self.first_step[rows],
            started=of(self.started),
            edits=None if self.edits is None else self.edits[rows],
            changed=of(self.changed),
        )

    def before(self, state: str) -> Tensor:
        """The state that each step started from: ``(batch, time, unit)``."""
        return self.started[state] if state in self.started else self.shifted(state)

    def shifted(self, state: str) -> Tensor:
        """The state that each step ended with, one step on: what it started from, where nobody changed a state between steps."""
        after = self.signal(state)
        edge = torch.zeros_like(after[:, :1])
        shifted = torch.cat([after[:, 1:], edge] if self.reverse else [edge, after[:, :-1]], dim=1)
        shifted[torch.arange(len(after), device=after.device), self.first_step] = self.initial[state].to(after)
        return shifted

    def edited(self) -> Tensor:
        """Where the model changed a state between steps, ``(batch, time)`` of bool: the step started from something else."""
        return torch.zeros_like(self.valid) if self.edits is None else self.edits & self.valid

    def residual(self, steps: int | None = None) -> float:
        """How far the signals are, at the worst valid step, from what must hold between them by their names alone.

        LSTM: c_t = f c_{t-1} + i g and h_t = o tanh(c_t); GRU: h_t = (1 - z) n + z h_{t-1}; and gates lie in 0..1. A swapped
        pair of names breaks it: i and g, which only meet as a product, by a candidate below 0. Of a registered cell, whose
        equations aren't known here, nothing is asked; of signals that weren't kept neither. Over the first `steps` only, if given.
        """
        if self.kind not in KINDS:
            return 0.0
        stop = self.valid.shape[1] if steps is None else min(steps, self.valid.shape[1])
        if (found := self._compiled(stop)) is not None and not found.nonfinite:
            return found.difference
        time = min(stop, max(1, _ROWS // max(1, len(self.valid) * next(iter(self.signals.values())).shape[2])))
        worst = 0.0
        # In NumPy: over a few steps an operation of PyTorch is all overhead.
        with np.errstate(all="ignore"):
            for at in range(0, stop, time):
                here = slice(at, min(at + time, stop))
                valid = self.valid[:, here].cpu().numpy()
                counted = None if valid.all() else valid
                for left, right in self._sides(here):
                    worst = max(worst, _residual(left, right, counted))
        return worst

    def _compiled(self, steps: int) -> native.Found | None:
        """What the compiled kernels say of the first steps, where they can: of a whole LSTM in which nobody has changed anything."""
        if "cell_state" not in self.initial or self.started or self.changed or "weight_hr" in self.weights or not self.complete:
            return None
        signals, initial = Step(**self.signals), self.initial["cell_state"]
        if not native.serves(initial, *signals) or not (self.first_step.is_cpu and self.valid.is_cpu and initial.is_contiguous()):
            return None
        if any(signal.stride(2) != 1 for signal in signals) or self.first_step.dtype != torch.long:
            return None
        return native.lstm_named(signals, initial, self.valid, self.first_step, steps, self.reverse)

    def _sides(self, steps: slice) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """Both sides of each equation that can be checked, over some of the steps; what was put there satisfies any."""
        for name, left, right in self._equations(steps):
            if name in self.changed:
                right = np.where(self.changed[name][:, steps].cpu().numpy(), left, right)
            yield left, right

    def _equations(self, steps: slice) -> Iterator[tuple[str, NDArray[Any], NDArray[Any]]]:
        s = {name: _array(signal[:, steps]) for name, signal in self.signals.items()}
        for gate in self.gates:
            yield gate, s[gate], s[gate].clip(0, 1)
        if not self.complete:
            return
        if "cell_state" in s:
            c = s["forget_gate"] * self._before("cell_state", steps) + s["input_gate"] * s["cell_candidate"]
            yield "cell_state", s["cell_state"], c
            m = s["output_gate"] * np.tanh(s["cell_state"])
            W_r = self.weights.get("weight_hr")
            yield "hidden_state", s["hidden_state"], m if W_r is None else m @ _array(W_r).T
        elif self.kind == "gru":
            z = s["update_gate"]
            yield "hidden_state", s["hidden_state"], (1 - z) * s["candidate"] + z * self._before("hidden_state", steps)

    def _before(self, state: str, steps: slice) -> NDArray[Any]:
        """`before` over some of the steps, without the whole of it."""
        signal = self.signals[state]
        if state in self.started:
            return _array(self.started[state][:, steps])
        at, stop = steps.start, min(steps.stop, signal.shape[1])
        shifted = _array(signal[:, max(at - 1, 0) : stop + 1])
        edge = np.zeros_like(shifted[:, :1])
        if self.reverse:
            shifted = np.concatenate([shifted[:, (1 if at == 0 else 2) :], edge], axis=1)[:, : stop - at]
        else:
            shifted = np.concatenate([shifted] if at else [edge, shifted], axis=1)[:, : stop - at]
        first = self.first_step.cpu().numpy()
        here = ((first >= at) & (first < stop)).nonzero()[0]
        shifted[here, first[here] - at] = _array(self.initial[state])[here]
        return shifted

    def __repr__(self) -> str:
        batch, time, units = next(iter(self.signals.values())).shape
        changed = f", edited: {', '.join(self.changed)}" if self.changed else ""
        return f"<Trajectory {self.name!r}: {self.kind}, batch {batch}, time {time}, {units} units, padding {self.padding}{changed}>"


def _array(tensor: Tensor) -> NDArray[Any]:
    """A tensor in at least float32, as NumPy's."""
    array: NDArray[Any] = tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32)).cpu().numpy()
    return array


def _residual(left: NDArray[Any], right: NDArray[Any], valid: NDArray[np.bool_] | None) -> float:
    difference = np.abs(left - right)
    counted = difference if valid is None else difference[valid]
    worst = float(counted.max()) if counted.size else 0.0
    if not math.isnan(worst):
        return worst
    # NaN on both sides is agreement: the network, not the recording, is to blame for it.
    counts = np.isfinite(left) | np.isfinite(right)
    if valid is not None:
        counts &= valid[:, :, None]
    return float(np.where(counts, np.nan_to_num(difference, nan=np.inf), 0.0).max())


def along_time(parts: Sequence[Trajectory], edited: Sequence[Tensor | None]) -> Trajectory:
    """Trajectories of the same sequences, one after the other in time; `edited`, for each part, which don't start where the last ended."""
    first = parts[0]
    if len(parts) == 1:
        return first
    signals = {name: torch.cat([part.signals[name] for part in parts], dim=1) for name in first.signals}
    valid = torch.cat([part.valid for part in parts], dim=1)
    changed = {name: torch.cat([_changed(part, name) for part in parts], dim=1) for name in _all_changed(parts)}
    joined = replace(first, signals=signals, valid=valid, padding=_padding_of(parts, valid), started={}, changed=changed)
    if all(which is None for which in edited) and not any(part.started for part in parts):
        return joined
    edits = torch.cat([part.edited() for part in parts], dim=1)
    at = 0
    for part, which in zip(parts, edited, strict=True):
        if which is not None:
            edits[:, at] |= which.to(edits.device)
        at += part.valid.shape[1]
    carried = [state for state in first.initial if state in signals]
    started = {state: torch.cat([part.before(state) for part in parts], dim=1) for state in carried}
    return replace(joined, started=started, edits=edits)


def along_batch(parts: Sequence[Trajectory]) -> Trajectory:
    """Trajectories of one layer as one batch, padded under ``valid``."""
    first = parts[0]
    if len(parts) == 1:
        return first
    time = max(part.valid.shape[1] for part in parts)

    def stack(tensors: list[Tensor]) -> Tensor:
        pad = [torch.nn.functional.pad(t, (*(0, 0) * (t.dim() - 2), 0, time - t.shape[1])) for t in tensors]
        return torch.cat(pad)

    valid = stack([part.valid for part in parts])
    edited = {state for part in parts for state in part.started}
    return replace(
        first,
        signals={name: stack([part.signals[name] for part in parts]) for name in first.signals},
        valid=valid,
        padding=_padding_of(parts, valid),
        initial={state: torch.cat([part.initial[state] for part in parts]) for state in first.initial},
        first_step=torch.cat([part.first_step for part in parts]),
        started={state: stack([part.before(state) for part in parts]) for state in first.initial if state in edited},
        edits=None if all(part.edits is None for part in parts) else stack([part.edited() for part in parts]),
        changed={name: stack([_changed(part, name) for part in parts]) for name in _all_changed(parts)},
    )


def _all_changed(parts: Sequence[Trajectory]) -> list[str]:
    return list(dict.fromkeys(name for part in parts for name in part.changed))


def _changed(part: Trajectory, name: str) -> Tensor:
    return part.changed[name] if name in part.changed else torch.zeros_like(part.signals[name], dtype=torch.bool)


def _padding_of(parts: Sequence[Trajectory], valid: Tensor) -> Padding:
    return together([*(part.padding for part in parts), "none" if bool(valid.all()) else "known"])
