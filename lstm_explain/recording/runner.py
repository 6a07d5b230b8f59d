"""`record`: watch every recurrent layer of a model for as long as a ``with`` block lasts."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from threading import get_ident
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lstm_explain.display import number
from lstm_explain.errors import CertificateError, InputError, RecordingError
from lstm_explain.nn.layers import suffixes
from lstm_explain.nn.layout import Layout
from lstm_explain.nn.lstm import PeepholeLSTM, PeepholeLSTMCell
from lstm_explain.recording.cells import REGISTERED, open_cell, open_on_graph, open_registered
from lstm_explain.recording.certificate import certify
from lstm_explain.recording.graph import on_graph
from lstm_explain.recording.layers import open_fused, open_own
from lstm_explain.recording.opened import Opened, OpenedLayer, wide
from lstm_explain.recording.recording import Call, Nodes, Recording
from lstm_explain.recording.stand_in import Opener, StandIn, not_compiled
from lstm_explain.trajectory import KINDS, Padding, Trajectory, checked_lengths

_OPENERS: dict[type[nn.Module], Opener] = {
    PeepholeLSTM: open_own,
    nn.LSTM: open_fused,
    nn.GRU: open_fused,
    nn.RNN: open_fused,
    PeepholeLSTMCell: open_cell,
    nn.LSTMCell: open_cell,
    nn.GRUCell: open_cell,
    nn.RNNCell: open_cell,
}
"""The kinds of module that can be opened, and who opens them; beside them those that a user has registered."""

_LAYERS = (PeepholeLSTM, nn.RNNBase)


def _opener_of(module: nn.Module) -> Opener | None:
    if any(isinstance(module, kind) for kind in REGISTERED):
        return open_registered
    return next((opener for kind, opener in _OPENERS.items() if isinstance(module, kind)), None)


def _run_by(module: nn.Module, graph: bool) -> Opener:
    """Who opens a module that can be opened, on autograd's graph or not."""
    opener = _opener_of(module)
    assert opener is not None
    if not graph:
        return opener
    return on_graph(opener) if opener in (open_own, open_fused) else open_on_graph


def _why_closed(module: nn.Module) -> str | None:
    """Of a module that is recurrent but can't be opened: its class, and what to do instead."""
    kind = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        name = getattr(module, "original_name", kind)
        scripted = any(word in name.upper() for word in ("LSTM", "GRU", "RNN"))
        return f"{name}, TorchScript: record the eager module that it was made from" if scripted else None
    where = type(module).__module__
    if ".quantized." in where or ".quantizable." in where:
        recurrent = any(word in kind.upper() for word in ("LSTM", "GRU", "RNN"))
        return f"{kind}, quantised: record the float model that it was made from" if recurrent else None
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return f"{kind}: register its equations with lx.register"
    return None


def _path(name: str) -> str:
    """A module's path without the wrappers that torch.compile and DataParallel put around a part of a model."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model inside the wrappers that torch.compile and DataParallel put around it."""
    while [name for name, _ in model.named_children()] in (["module"], ["_orig_mod"]):
        (model,) = model.children()
    return model


class _End(NamedTuple):
    """Where a layer's latest call left off."""

    states: Mapping[str, Tensor] | None
    """What the next call would have to start from to go on, ``(batch, unit)``; None where nothing can."""
    steps: int
    """How many steps its sequences have so far."""
    in_pass: int


class _Before(NamedTuple):
    """How a call stands to the one before it."""

    continues: bool
    edited: bool
    steps: int


class _Keep(NamedTuple):
    """What is kept of each trajectory; None for everything."""

    signals: tuple[str, ...] | None
    layers: tuple[str, ...] | None
    units: tuple[int, ...] | None
    dtype: torch.dtype | None
    device: torch.device | None

    def wants(self, key: str) -> bool:
        """Whether a layer is to be kept: by its name, the path of its module, or a pattern."""
        return self.layers is None or any(_matches(key, pattern) for pattern in self.layers)

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

        def cut(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {
                name: self._moved(tensor if self.units is None or (projected and name == "hidden_state") else tensor[..., list(self.units)])
                for name, tensor in tensors.items()
            }

        if self.signals is not None:
            signals = {name: signal.clone() for name, signal in signals.items()}  # views of all the gates would keep all of them
        return replace(
            one,
            signals=cut(signals),
            initial=cut(one.initial),
            started=cut(one.started),
            weights={name: self._moved(weight) for name, weight in one.weights.items()},
            valid=one.valid.to(self.device or one.valid.device),
            first_step=one.first_step.to(self.device or one.first_step.device),
            units=self.units,
        )

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(device=self.device or tensor.device, dtype=self.dtype or tensor.dtype)

    def __str__(self) -> str:
        parts = [", ".join(self.signals)] if self.signals else []
        parts += [f"of {', '.join(self.layers)}"] if self.layers else []
        parts += [f"units {', '.join(map(str, self.units))}"] if self.units else []
        parts += [f"as {str(self.dtype).removeprefix('torch.')}"] if self.dtype else []
        return ", ".join(parts)


def _matches(key: str, pattern: str) -> bool:
    return key == pattern or key.startswith(f"{pattern}.") or fnmatchcase(key, pattern)


class _Recorder:
    """Watches a model for one recording: checks every call, cuts it to what is kept, and hands it on."""

    def __init__(self, recording: Recording, keep: _Keep, into: Sequence[Any], max_bytes: int | None, graph: bool) -> None:
        self.thread, self.graph = get_ident(), graph
        self._recording, self._keep, self._into, self._max_bytes = recording, keep, into, max_bytes
        self._bytes = self._depth = self._pass = 0
        self._ends: dict[str, _End] = {}
        self.tried = False

    def enter(self, path: str) -> None:
        """A module begins to run; the outermost one begins a pass of the model."""
        self._pass += self._depth == 0
        self._depth += 1

    def leave(self, path: str, failed: bool) -> None:
        """A module has ended; with the outermost one the pass ends, and analyses may have it."""
        self._depth -= 1
        if self._into and self._depth == 0:
            if not failed and len(self._recording):
                self._hand_on()
            self._recording.let_go()
            self._ends, self._bytes = {}, 0

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
        self.tried = True
        try:
            self._take(path, opened)
        except CertificateError:
            if opened.again is None:
                raise
            self._take(path, opened.again())

    def _take(self, path: str, opened: Opened) -> None:
        keys = [_key(path, layer.suffix) for layer in opened.layers]
        befores = [self._before(key, opened, layer) for key, layer in zip(keys, opened.layers, strict=True)]
        valid, padding = self._valid(opened, befores[0].steps)
        trajectories = [_trajectory(key, opened, layer, valid, padding) for key, layer in zip(keys, opened.layers, strict=True)]
        # What a signal is called doesn't change from call to call.
        named = [one for one in trajectories if one.name not in self._ends]
        check = certify(path, self._recording.modules[path], opened, named)
        # What a packed batch of unequal lengths ended with isn't all at one step, so nothing goes on from there in time.
        carries = opened.carries and (bool(valid.all()) or not opened.layers[0].suffix)
        calls: dict[str, Call] = {}
        for at, (layer, trajectory, before) in enumerate(zip(opened.layers, trajectories, befores, strict=True)):
            last = {state: of_all[at].clone() for state, of_all in opened.states.items()}
            self._ends[trajectory.name] = _End(last if carries else None, before.steps + valid.shape[1], self._pass)
            if (kept := self._keep.of(trajectory)) is not None:
                nodes = Nodes(layer.nodes, opened.layout) if layer.nodes else None
                calls[trajectory.name] = Call(kept, last, before.continues, before.edited, nodes)
        self._make_room(calls)
        self._recording.add(check, calls)

    def _before(self, key: str, opened: Opened, layer: OpenedLayer) -> _Before:
        afresh, end = _Before(False, False, 0), self._ends.get(key)
        if end is None or end.states is None or not opened.given or not opened.carries:
            return afresh
        initial = {name: _in_input_order(state, opened.layout) for name, state in layer.initial.items()}
        if any(end.states[name].shape != state.shape for name, state in initial.items()):
            return afresh
        if all(torch.equal(wide(end.states[name]), state) for name, state in initial.items()):
            return _Before(True, False, end.steps)
        # A cell whose state was changed between two steps of one pass (masked, reset, dropped out) goes on with what it was given.
        edited = not layer.suffix and end.in_pass == self._pass and any(bool(state.any()) for state in initial.values())
        return _Before(True, True, end.steps) if edited else afresh

    def _valid(self, opened: Opened, steps: int) -> tuple[Tensor, Padding]:
        """Which steps of a call are real. A cell has one step, and lengths are those of its whole loop."""
        layout, notes = opened.layout, self._recording.notes
        batch, time, device = layout.batch, len(layout.sizes), opened.returned["output"].device
        cell = not opened.layers[0].suffix
        offset = steps if cell else 0
        if notes.valid is not None:
            mask = torch.as_tensor(notes.valid, device=device)
            long_enough = mask.dim() == 2 and (mask.shape[1] >= offset + time if cell else mask.shape[1] == time)
            if mask.dtype != torch.bool or not long_enough or len(mask) != batch:
                got = f"{str(mask.dtype).removeprefix('torch.')} of shape {tuple(mask.shape)}"
                raise InputError(f"needed valid as bool of shape {(batch, offset + time)}, got {got}")
            valid = mask[:, offset : offset + time].clone()
            return valid, "none" if bool(valid.all()) else "known"
        lengths = notes.lengths
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


def _key(path: str, suffix: str) -> str:
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
    return Trajectory(
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
    )


def _paths(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module by every path that leads to it."""
    for name, module in model.named_modules(remove_duplicate=False):
        yield _path(name), module


def _keys(path: str, module: nn.Module) -> list[str]:
    """The names of a module's layers and directions."""
    if isinstance(module, _LAYERS) and _opener_of(module) is not open_registered:
        return [_key(path, suffix) for suffix in suffixes(module)]
    return [_key(path, "")]


def _targets(model: nn.Module, keep: _Keep) -> dict[str, nn.Module]:
    """The modules to record by path, each under the first one.

    Raises
    ------
    RecordingError
        If there are none.
    InputError
        If what is to be kept isn't there.
    """
    found: dict[str, nn.Module] = {}
    for path, module in _paths(model):
        if _opener_of(module) is not None and all(module is not other for other in found.values()):
            found[path] = module
    if not found:
        closed = _closed(model)
        others = ", ".join(f"{path or 'the model'} ({why})" for path, why in closed.items())
        raise RecordingError(
            f"needed a model with recurrent layers or cells, found {others or 'none'} in {type(model).__name__}; a cell of your own can be "
            "made recordable with lx.register"
        )
    keys = [key for path, module in found.items() for key in _keys(path, module)]
    for pattern in keep.layers or ():
        if not any(_matches(key, pattern) for key in keys):
            raise InputError(f"needed layers of {', '.join(keys)}, got {pattern!r}")
    registered = any(_opener_of(module) is open_registered for module in found.values())
    known = {signal for words in KINDS.values() for signal in words.signals}
    if not registered and (unknown := [signal for signal in keep.signals or () if signal not in known]):
        raise InputError(f"needed signals of {', '.join(sorted(known))}, got {unknown[0]!r}")
    return {path: module for path, module in found.items() if any(map(keep.wants, _keys(path, module)))}


def _closed(model: nn.Module) -> dict[str, str]:
    """The modules that are recurrent but can't be opened: which, and what to do instead."""
    reasons = ((path, _why_closed(module)) for path, module in _paths(model) if _opener_of(module) is None)
    return {path: why for path, why in reasons if why}


def _ancestors(model: nn.Module, targets: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The modules that run targets inside; compiled ones not, whose `forward` is the compiler's."""
    inside = [
        (path, module)
        for path, module in _paths(model)
        if any(target is inner and target is not module for target in targets.values() for inner in module.modules())
    ]
    plain = {path: module for path, module in inside if not hasattr(module, "_orig_mod") and not isinstance(module, torch.jit.ScriptModule)}
    unique: dict[str, nn.Module] = {}
    for path, module in plain.items():
        if all(module is not other for other in [*unique.values(), *targets.values()]):
            unique[path] = module
    return unique


def _names(what: str, names: Sequence[str] | str | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    given = (names,) if isinstance(names, str) else tuple(names)
    if not given or not all(isinstance(name, str) for name in given):
        raise InputError(f"needed {what} as names, got {names!r}")
    return given


@contextmanager
def record(
    model: nn.Module,
    *,
    lengths: Tensor | Sequence[int] | None = None,
    valid: Tensor | NDArray[np.bool_] | None = None,
    signals: Sequence[str] | str | None = None,
    layers: Sequence[str] | str | None = None,
    units: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    max_bytes: int | None = None,
    into: Sequence[Any] | None = None,
    grad: bool = False,
) -> Iterator[Recording]:
    """Record every gate and state of a model's recurrent layers, at every step, while the model runs.

    The model stays as it is: its outputs are the same bit for bit, its mode and the random state are untouched, and nothing is
    left behind when the block ends, also by an exception. Every call is checked against the layer's equations when it
    happens. A recording belongs to the thread that makes it.

    Parameters
    ----------
    model : torch.nn.Module
        Any model with `torch.nn.LSTM`, `GRU`, `RNN`, their cells, `PeepholeLSTM` or its cell, or cells that `register` knows.
    lengths : Tensor of int or sequence of int ``(batch,)``, optional
        How many steps of each sequence are real, for padded batches; a `PackedSequence` brings its own. Without them the
        recording is marked *padding: unknown*. For batches in a loop, `Recording.annotate` says it before each call.
    valid : Tensor or ndarray of bool ``(batch, time)``, optional
        Which steps are real, where padding doesn't only come last; in place of `lengths`.
    signals : str or sequence of str, optional
        The gates and states to keep; all if left out. What isn't kept is checked too, before it is let go.
    layers : str or sequence of str, optional
        The layers to keep: names as in the recording, paths of modules, or patterns like ``"encoder.*_reverse"``.
    units : sequence of int, optional
        The units to keep, of every layer. A projected hidden state is kept whole.
    dtype, device : optional
        What to keep the signals as, and where; as they were computed, if left out.
    max_bytes : int, optional
        Refuse a call that would make the recording larger than that.
    into : sequence of streaming analyses, optional
        Hand each pass of the model to them (``update``) and keep nothing: a corpus of any length in constant memory. Analyses
        that need labels and groups have them from `Recording.annotate`.
    grad : bool
        Run the layers' equations on autograd's graph as well, so that `Recording.gradients` can say how a loss depends on each gate and
        state at each step. The values that the model computes with are still its own, bit for bit.

    Yields
    ------
    Recording
        Filled as the model is called.

    Raises
    ------
    RecordingError
        If the model has no layer that can be recorded, a call can't be repeated, or `max_bytes` is too little.
    CertificateError
        If what would be recorded isn't what the layer computed.
    InputError
        If an argument doesn't fit the model or a call.

    Warns
    -----
    UserWarning
        If the block ends and nothing was recorded.

    Examples
    --------
    >>> import torch, lstm_explain as lx
    >>> model = torch.nn.LSTM(8, 16, batch_first=True)
    >>> with lx.record(model) as recording:
    ...     _ = model(torch.zeros(4, 10, 8))
    >>> recording["l0"].forget_gate.shape
    torch.Size([4, 10, 16])
    >>> recording.certificate.state
    'certified'
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"needed a torch.nn.Module, got {type(model).__name__}")
    for module in model.modules():
        if isinstance(module, nn.DataParallel) and len(module.device_ids) > 1:
            raise RecordingError(f"needed a model on one device, got DataParallel on {len(module.device_ids)}: record model.module")
    model = _unwrapped(model)
    try:
        kept_units = None if units is None else tuple(int(unit) for unit in units)
    except (TypeError, ValueError):
        raise InputError(f"needed units as whole numbers, got {units!r}") from None
    where = None if device is None else torch.device(device)
    keep = _Keep(_names("signals", signals), _names("layers", layers), kept_units, dtype, where)
    if dtype is not None and not dtype.is_floating_point:
        raise InputError(f"needed a dtype of floating point, got {dtype}")
    if missing := [one for one in into or () if not hasattr(one, "update")]:
        raise InputError(f"needed into as streaming analyses, like lx.Saturation(), got {type(missing[0]).__name__}, without update")
    targets = _targets(model, keep)
    aliases: dict[str, tuple[str, ...]] = {}
    for path, module in _paths(model):
        first = next((name for name, target in targets.items() if target is module), path)
        if first != path:
            aliases[first] = (*aliases.get(first, ()), path)
    recording = Recording(targets, _closed(model), aliases)
    recording.annotate(lengths=lengths, valid=valid)
    recording.kept = f"nothing, handed on to {', '.join(type(one).__name__ for one in into)}" if into else str(keep) or None
    recorder = _Recorder(recording, keep, into or (), max_bytes, grad)
    with ExitStack() as stack:
        stack.enter_context(not_compiled())
        for path, module in _ancestors(model, targets).items():
            stack.enter_context(StandIn.watched(module, path, recorder, None))
        for path, module in targets.items():
            stack.enter_context(StandIn.watched(module, path, recorder, partial(_run_by, module)))
        yield recording
    if not any(recording.modules.values()) and not recorder.tried:
        warnings.warn(f"nothing was recorded: {recording.coverage}; call the model inside the block", UserWarning, stacklevel=3)
