"""`record`: watch every recurrent layer of a model for as long as a ``with`` block lasts."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lstm_explain.errors import InputError, RecordingError
from lstm_explain.nn.layers import suffixes
from lstm_explain.nn.lstm import PeepholeLSTM, PeepholeLSTMCell
from lstm_explain.recording.cells import REGISTERED, open_cell, open_on_graph, open_registered
from lstm_explain.recording.compiled import not_compiled
from lstm_explain.recording.edited import edited_cell, edited_layers
from lstm_explain.recording.fast import fast as in_one_pass
from lstm_explain.recording.fused import open_fused
from lstm_explain.recording.graph import on_graph
from lstm_explain.recording.layers import open_own
from lstm_explain.recording.parametrised import as_read
from lstm_explain.recording.recorder import Keep, Recorder, key_of, matches
from lstm_explain.recording.recording import Recording
from lstm_explain.recording.stand_in import Opener, Run, StandIn, Wanted, Watcher
from lstm_explain.trajectory import KINDS

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
    kinds = type(module).__mro__
    if any(kind in REGISTERED for kind in kinds):
        return open_registered
    return next((_OPENERS[kind] for kind in kinds if kind in _OPENERS), None)


def _run_by(module: nn.Module, wanted: Wanted) -> Run:
    """Who opens a module that can be opened."""
    opener = _opener_of(module)
    assert opener is not None
    layers = opener in (open_own, open_fused)
    if wanted.editors:
        return as_read(edited_layers(opener, wanted) if layers else edited_cell(wanted))
    if wanted.graph:
        opener = on_graph(opener) if layers else open_on_graph
    elif wanted.fast and layers:
        opener = in_one_pass(opener)
    return as_read(opener)


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
    return ".".join(part for part in name.split(".") if part != "_orig_mod") if "_orig_mod" in name else name


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside the wrappers that torch.compile and DataParallel put around it.

    Raises
    ------
    InputError
        If it isn't a model.
    RecordingError
        If it is on several devices.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"needed a torch.nn.Module, got {type(model).__name__}")
    for module in model.modules():
        if isinstance(module, nn.DataParallel) and len(module.device_ids) > 1:
            raise RecordingError(f"needed a model on one device, got DataParallel on {len(module.device_ids)}: take model.module")
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def _paths(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module by every path that leads to it."""
    for name, module in model.named_modules(remove_duplicate=False):
        yield _path(name), module


def _keys(path: str, module: nn.Module) -> list[str]:
    """The names of a module's layers and directions."""
    if isinstance(module, _LAYERS) and _opener_of(module) is not open_registered:
        return [key_of(path, suffix) for suffix in suffixes(module)]
    return [key_of(path, "")]


def words_of(module: nn.Module) -> tuple[str, ...] | None:
    """What a module calls its signals, None of a registered one, whose equations say so only when it runs."""
    if _opener_of(module) is open_registered:
        return None
    if isinstance(module, nn.GRUCell) or (isinstance(module, nn.RNNBase) and module.mode == "GRU"):
        return KINDS["gru"].signals
    if isinstance(module, nn.RNNCell) or (isinstance(module, nn.RNNBase) and module.mode.startswith("RNN")):
        return KINDS["rnn_tanh"].signals
    return KINDS["lstm"].signals


def targets_in(model: nn.Module, keep: Keep) -> dict[str, nn.Module]:
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
        closed = closed_in(model)
        others = ", ".join(f"{path or 'the model'} ({why})" for path, why in closed.items())
        raise RecordingError(
            f"needed a model with recurrent layers or cells, found {others or 'none'} in {type(model).__name__}; a cell of your own can be "
            "made recordable with lx.register"
        )
    if keep.layers is not None:
        keys = [key for path, module in found.items() for key in _keys(path, module)]
        for pattern in keep.layers:
            if not any(matches(key, pattern) for key in keys):
                raise InputError(f"needed layers of {', '.join(keys)}, got {pattern!r}")
        found = {path: module for path, module in found.items() if any(map(keep.wants, _keys(path, module)))}
    if keep.signals is not None:
        words = [words_of(module) for module in found.values()]
        known = dict.fromkeys(signal for one in words for signal in one or ())
        if None not in words and (unknown := [signal for signal in keep.signals if signal not in known]):
            raise InputError(f"needed signals of {', '.join(known)}, got {unknown[0]!r}")
    return found


def closed_in(model: nn.Module) -> dict[str, str]:
    """The modules that are recurrent but can't be opened: which, and what to do instead."""
    closed: dict[str, str] = {}
    for path, module in _paths(model):
        inside = any(path.startswith(f"{outer}.") or not outer for outer in closed)  # what holds for the whole holds for its parts
        if _opener_of(module) is None and not inside and (why := _why_closed(module)):
            closed[path] = why
    return closed


def _ancestors(model: nn.Module, targets: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The modules that run targets inside; compiled ones not, whose `forward` is the compiler's."""
    modules = dict(model.named_modules(remove_duplicate=False))
    wanted = {id(target) for target in targets.values()}
    found: dict[int, tuple[str, nn.Module]] = {}
    for name in (name for name, module in modules.items() if id(module) in wanted and name):
        parts = name.split(".")
        for at in range(len(parts)):
            path = ".".join(parts[:at])
            found.setdefault(id(modules[path]), (path, modules[path]))
    return {
        path: module
        for path, module in found.values()
        if id(module) not in wanted and not hasattr(module, "_orig_mod") and not isinstance(module, torch.jit.ScriptModule)
    }


class Layer(NamedTuple):
    """One layer and direction, or cell, of a model."""

    path: str
    suffix: str
    module: nn.Module


def layers_in(model: nn.Module) -> dict[str, Layer]:
    """Every layer and direction that can be opened by its name in a recording, under every path that leads to it."""
    found: dict[str, Layer] = {}
    for path, module in _paths(model):
        if _opener_of(module) is not None:
            for key in _keys(path, module):
                suffix = key.rpartition(".")[2] if isinstance(module, _LAYERS) and _opener_of(module) is not open_registered else ""
                found[key] = Layer(path, suffix, module)
    return found


@contextmanager
def watched(model: nn.Module, targets: Mapping[str, nn.Module], watcher: Watcher) -> Iterator[None]:
    """While somebody watches some modules of a model by path, and when the modules that run them begin and end."""
    with ExitStack() as stack:
        stack.enter_context(not_compiled())
        for path, module in _ancestors(model, targets).items():
            stack.enter_context(StandIn.watched(module, path, watcher, None))
        for path, module in targets.items():
            stack.enter_context(StandIn.watched(module, path, watcher, partial(_run_by, module)))
        yield


def _names(what: str, names: Sequence[str] | str | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    given = (names,) if isinstance(names, str) else tuple(names)
    if not given or not all(isinstance(name, str) for name in given):
        raise InputError(f"needed {what} as names, got {names!r}")
    return given


def numbered_units(units: Sequence[int] | None) -> tuple[int, ...] | None:
    """Units as a user gave them, by number, each once; None for all.

    Raises
    ------
    InputError
        If they aren't.
    """
    if units is None:
        return None
    try:
        given = torch.as_tensor(units)
    except (TypeError, ValueError, RuntimeError):
        given = torch.empty(0)
    whole = given.dim() == 1 and len(given) > 0 and not given.is_floating_point() and given.dtype != torch.bool
    if not whole or len(given.unique()) < len(given):
        raise InputError(f"needed units as whole numbers, each once, got {units!r}")
    return tuple(given.tolist())


@contextmanager
def record(
    model: nn.Module,
    *,
    lengths: Tensor | Sequence[int] | Mapping[str, Tensor | Sequence[int]] | None = None,
    valid: Tensor | NDArray[np.bool_] | Mapping[str, Tensor | NDArray[np.bool_]] | None = None,
    signals: Sequence[str] | str | None = None,
    layers: Sequence[str] | str | None = None,
    units: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    max_bytes: int | None = None,
    into: Sequence[Any] | None = None,
    grad: bool = False,
    fast: bool = False,
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
        recording is marked *padding: unknown*. For batches in a loop, `Recording.annotate` says it before each call. Where
        layers read different sequences, a mapping from layers, named as in `layers`, to their lengths.
    valid : Tensor or ndarray of bool ``(batch, time)``, optional
        Which steps are real, where padding doesn't only come last; in place of `lengths`, and like it.
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
    fast : bool
        Let the compiled kernels (`backend`) compute each layer's output together with its gates, in one pass: outputs then differ from the
        layer's own by rounding, and at most 32 steps of each layer and call are recomputed from their inputs, others each time, so that
        the certificate says *sampled*. Layers and calls that the kernels can't do are recorded as always.

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
    model = unwrapped(model)
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise InputError(f"needed a dtype of floating point, like torch.float16, got {dtype!r}")
    try:
        where = None if device is None else torch.device(device)
    except (RuntimeError, TypeError):
        raise InputError(f"needed a device, like 'cpu', got {device!r}") from None
    keep = Keep(_names("signals", signals), _names("layers", layers), numbered_units(units), dtype, where)
    if max_bytes is not None and (isinstance(max_bytes, bool) or not isinstance(max_bytes, int)):
        raise InputError(f"needed max_bytes as a whole number, got {max_bytes!r}")
    if into is not None and not isinstance(into, (list, tuple)):
        raise InputError(f"needed into as a list of streaming analyses, like [lx.Saturation()], got {type(into).__name__}")
    if missing := [one for one in into or () if isinstance(one, type) or not hasattr(one, "update")]:
        got = f"the class {missing[0].__name__}" if isinstance(missing[0], type) else f"{type(missing[0]).__name__}, without update"
        raise InputError(f"needed into as streaming analyses, like lx.Saturation(), got {got}")
    if grad and fast:
        raise InputError("needed grad=True or fast=True, got both: on autograd's graph a model computes with its own values")
    targets = targets_in(model, keep)
    aliases: dict[str, tuple[str, ...]] = {}
    for path, module in _paths(model):
        first = next((name for name, target in targets.items() if target is module), path)
        if first != path:
            aliases[first] = (*aliases.get(first, ()), path)
    recording = Recording(targets, closed_in(model), aliases)
    recording.annotate(lengths=lengths, valid=valid)
    recording.kept = f"nothing, handed on to {', '.join(type(one).__name__ for one in into)}" if into else str(keep) or None
    recorder = Recorder(recording, keep, into or (), max_bytes, grad, fast)
    with watched(model, targets, recorder):
        yield recording
    if not any(recording.modules.values()) and not recorder.tried:
        warnings.warn(f"nothing was recorded: {recording.coverage}; call the model inside the block", UserWarning, stacklevel=3)
