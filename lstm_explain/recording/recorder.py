"""Watching a model: every call is certified, cut to what is kept, joined with what came before, and handed on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from threading import get_ident
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lstm_explain.display import number
from lstm_explain.errors import CertificateError, InputError, RecordingError
from lstm_explain.nn.layout import Layout
from lstm_explain.recording.certificate import certify
from lstm_explain.recording.difference import wide
from lstm_explain.recording.edits import Editor
from lstm_explain.recording.joining import Before, Joining
from lstm_explain.recording.opened import Opened, OpenedLayer
from lstm_explain.recording.recording import Call, Nodes, Recording
from lstm_explain.trajectory import Padding, Trajectory, checked_lengths


class Keep(NamedTuple):
    """What is kept of each trajectory; None for everything."""

    signals: tuple[str, ...] | None
    layers: tuple[str, ...] | None
    units: tuple[int, ...] | None
    dtype: torch.dtype | None
    device: torch.device | None

    def wants(self, key: str) -> bool:
        """Whether a layer is to be kept: by its name, the path of its module, or a pattern."""
        return self.layers is None or any(matches(key, pattern) for pattern in self.layers)

    def of(self, one: Trajectory) -> Trajectory | None:
        """What is kept of one trajectory, None if nothing is."""
        if all(what is None for what in self):
            return one
        signals = {name: signal for name, signal in one.signals.items() if self.signals is None or name in self.signals}
        if not self.wants(one.name) or not signals:
            return None
        if self.units is not None:
            width = max(signal.shape[2] for signal in one.signals.values())
            if bad := [unit for unit in self.units if not 0 <= unit < width]:
                raise InputError(f"needed units from 0 to {width - 1} of {one.name}, got {bad[0]}")
        # A projection has other units than the cell, and is kept whole.
        projected = "weight_hr" in one.weights

        def cut(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = self.dtype) -> dict[str, Tensor]:
            whole = self.units is None
            return {
                name: self._moved(tensor if whole or (projected and name == "hidden_state") else tensor[..., list(self.units or ())], dtype)
                for name, tensor in tensors.items()
            }

        if self.signals is not None or self.layers is not None:
            # Views of all the gates, or of both directions, would keep all of them.
            signals = {name: signal.clone() for name, signal in signals.items()}
        return replace(
            one,
            signals=cut(signals),
            initial=cut(one.initial),
            started=cut(one.started),
            changed={name: marks for name, marks in cut(one.changed, None).items() if name in signals},
            weights={name: self._moved(weight, self.dtype) for name, weight in one.weights.items()},
            valid=one.valid.to(self.device or one.valid.device),
            first_step=one.first_step.to(self.device or one.first_step.device),
            edits=None if one.edits is None else one.edits.to(self.device or one.edits.device),
            units=self.units,
        )

    def _moved(self, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
        return tensor.to(device=self.device or tensor.device, dtype=dtype or tensor.dtype)

    def __str__(self) -> str:
        parts = [", ".join(self.signals)] if self.signals else []
        parts += [f"of {', '.join(self.layers)}"] if self.layers else []
        parts += [f"units {', '.join(map(str, self.units))}"] if self.units else []
        parts += [f"as {str(self.dtype).removeprefix('torch.')}"] if self.dtype else []
        return ", ".join(parts)


def matches(key: str, pattern: str) -> bool:
    """Whether a layer's name is meant: the name itself, the path of its module, or a pattern."""
    return key == pattern or key.startswith(f"{pattern}.") or fnmatchcase(key, pattern)


class Recorder:
    """Watches a model for one recording: checks every call, cuts it to what is kept, and hands it on."""

    def __init__(self, recording: Recording, keep: Keep, into: Sequence[Any], max_bytes: int | None, graph: bool, fast: bool) -> None:
        self.thread, self.graph, self.fast = get_ident(), graph, fast
        self.editor: Editor | None = None
        self._recording, self._keep, self._into, self._max_bytes = recording, keep, into, max_bytes
        self._bytes, self._joining = 0, Joining()
        self.tried = False

    def enter(self, path: str) -> None:
        """A module begins to run; the outermost one begins a pass of the model."""
        self._joining.enter()
        self.tried |= path in self._recording.modules

    def leave(self, path: str, failed: bool) -> None:
        """A module has ended; with the outermost one the pass ends, and analyses may have it."""
        if self._joining.leave() and self._into:
            try:
                if not failed and len(self._recording):
                    self._hand_on()
            finally:
                self._recording.let_go()
                self._bytes = 0

    def again(self, path: str) -> None:
        """A module runs once more, for a backward pass."""
        if path in self._recording.recomputed:
            self._recording.recomputed[path] += 1

    def other_thread(self, path: str) -> None:
        """A module runs in a thread that isn't ours."""
        if path in self._recording.elsewhere:
            self._recording.elsewhere[path] += 1

    def take(self, path: str, opened: Opened) -> None:
        """A recurrent module has run: certify it, and keep of it what is wanted."""
        try:
            self._take(path, opened)
        except CertificateError:
            if opened.again is None:
                raise
            self._take(path, opened.again())

    def _take(self, path: str, opened: Opened) -> None:
        keys = [key_of(path, layer.suffix) for layer in opened.layers]
        befores = [self._before(key, opened, layer) for key, layer in zip(keys, opened.layers, strict=True)]
        valid, padding = self._valid(keys[0], opened, befores[0].steps)
        trajectories = [_trajectory(key, opened, layer, valid, padding) for key, layer in zip(keys, opened.layers, strict=True)]
        # What a signal is called doesn't change from call to call.
        named = [one for one in trajectories if not self._joining.knows(one.name)]
        check = certify(path, self._recording.modules[path], opened, named)
        check = check._replace(edited=", ".join(f"{one.name} {signal}" for one in trajectories for signal in one.changed))
        # What a packed batch of unequal lengths ended with isn't all at one step, so nothing goes on from there in time.
        carries = opened.carries and (padding != "known" or not opened.layers[0].suffix)
        calls: dict[str, Call] = {}
        ends: dict[str, Mapping[str, Tensor] | None] = {}
        for at, (layer, trajectory, before) in enumerate(zip(opened.layers, trajectories, befores, strict=True)):
            last = {state: of_all[at].clone() for state, of_all in opened.states.items()}
            ends[trajectory.name] = {state: wide(tensor) for state, tensor in last.items()} if carries else None
            if (kept := self._keep.of(trajectory)) is not None:
                nodes = Nodes(layer.nodes, opened.layout) if layer.nodes else None
                calls[trajectory.name] = Call(kept, last, before.continues, before.edited, nodes)
        self._make_room(calls)
        self._recording.add(check, calls)
        self._joining.ends(ends, {key: before.steps + valid.shape[1] for key, before in zip(keys, befores, strict=True)})

    def _before(self, key: str, opened: Opened, layer: OpenedLayer) -> Before:
        initial = {name: _in_input_order(state, opened.layout) for name, state in layer.initial.items()}
        return self._joining.before(key, initial, given=opened.given, carries=opened.carries, cell=not layer.suffix)

    def _valid(self, key: str, opened: Opened, steps: int) -> tuple[Tensor, Padding]:
        """Which steps of a call are real. A cell has one step, and lengths are those of its whole loop."""
        layout, notes = opened.layout, self._recording.notes
        batch, time, device = layout.batch, len(layout.sizes), opened.returned["output"].device
        cell = not opened.layers[0].suffix
        offset = steps if cell else 0
        if (given := _for(key, notes.valid)) is not None:
            try:
                mask = torch.as_tensor(given, device=device)
            except (TypeError, ValueError, RuntimeError):
                raise InputError(f"needed valid as bool of shape {(batch, offset + time)}, got {given!r}") from None
            long_enough = mask.dim() == 2 and (mask.shape[1] >= offset + time if cell else mask.shape[1] == time)
            if mask.dtype != torch.bool or not long_enough or len(mask) != batch:
                got = f"{str(mask.dtype).removeprefix('torch.')} of shape {tuple(mask.shape)}"
                raise InputError(f"needed valid as bool of shape {(batch, offset + time)}, got {got}")
            valid = mask[:, offset : offset + time].clone()
            return valid, "none" if bool(valid.all()) else "known"
        lengths = _for(key, notes.lengths)
        if lengths is not None:
            lengths = checked_lengths(lengths, batch, None if cell else time)
        if layout.packed:
            packed = layout.lengths()
            if lengths is not None and not torch.equal(packed, lengths.to(packed)):
                raise InputError(f"needed the lengths of the PackedSequence, {packed.tolist()}, got {lengths.tolist()}")
            lengths = packed
        if lengths is None:
            return torch.ones(batch, time, dtype=torch.bool, device=device), "unknown"
        valid = torch.arange(offset, offset + time, device=device) < lengths.to(device).unsqueeze(1)
        return valid, "none" if bool(valid.all()) else "known"

    def _make_room(self, calls: Mapping[str, Call]) -> None:
        more = sum(signal.nbytes for call in calls.values() for signal in call.trajectory.signals.values())
        if self._max_bytes is not None and self._bytes + more > self._max_bytes:
            raise RecordingError(
                f"needed at most {number(self._max_bytes)} bytes (max_bytes), got {number(self._bytes + more)} with this call, which alone "
                f"takes {number(more)}: keep less with signals=, layers=, units= or dtype=, or nothing with into=[lx.Saturation(), ...]"
            )
        self._bytes += more

    def _hand_on(self) -> None:
        """The pass that has ended, to every analysis."""
        recording, notes = self._recording, self._recording.notes
        for analysis in self._into:
            if missing := [name for name in getattr(analysis, "needs", ()) if getattr(notes, name) is None]:
                raise InputError(
                    f"needed {' and '.join(missing)} for {type(analysis).__name__}, got none: call recording.annotate({missing[0]}=...) "
                    "before the model"
                )
            if hasattr(analysis, "needs"):
                analysis.update(recording, *(getattr(notes, name) for name in analysis.needs))
            else:
                for trajectory in recording.values():
                    analysis.update(trajectory)


def _for(key: str, said: Any) -> Any:
    """What was said of one layer: the same of all, or by layer."""
    if not isinstance(said, Mapping):
        return said
    return next((value for pattern, value in said.items() if matches(key, pattern)), None)


def key_of(path: str, suffix: str) -> str:
    """The name of a layer and direction: the module's path and PyTorch's suffix; a cell's is its path."""
    return f"{path}.{suffix}".strip(".") or "cell"


def _in_input_order(state: Tensor, layout: Layout) -> Tensor:
    """A state ``(batch, unit)`` in the order of the rows, in the order of the input."""
    return state if layout.unsorted_indices is None else state.index_select(0, layout.unsorted_indices)


def _trajectory(key: str, opened: Opened, layer: OpenedLayer, valid: Tensor, padding: Padding) -> Trajectory:
    layout = opened.layout
    if layer.reverse:
        first_step = layout.lengths().to(valid.device) - 1
    else:
        first_step = torch.zeros(layout.batch, dtype=torch.long, device=valid.device)
    one = Trajectory(
        name=key,
        kind=opened.kind,
        signals={name: layout.batch_time(rows) for name, rows in layer.signals.items()},
        valid=valid,
        padding=padding,
        initial={name: _in_input_order(state, layout).clone() for name, state in layer.initial.items()},
        first_step=first_step,
        reverse=layer.reverse,
        form=opened.form,
        weights=layer.weights,
        started={name: layout.batch_time(rows) for name, rows in layer.started.items()},
        changed=layer.changed,
    )
    if not one.started:
        return one
    return replace(one, edits=torch.stack([(one.started[state] != one.shifted(state)).any(2) for state in one.started]).any(0))
