"""What a cell computed inside, one step at a time: PyTorch's, ours, and those that a user has registered."""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lstm_explain.errors import InputError, RecordingError, as_input_error
from lstm_explain.nn.equations import Form, Weights, read, stepper, unedited
from lstm_explain.nn.layout import Layout
from lstm_explain.nn.lstm import PeepholeLSTMCell
from lstm_explain.recording.difference import wide
from lstm_explain.recording.layers import kept_weights
from lstm_explain.recording.opened import (
    Forward,
    Opened,
    OpenedLayer,
    computes_in,
    in_one_dtype,
    input_and_state,
    instead,
    mismatch,
    not_checkpointed,
    reached,
)
from lstm_explain.recording.stack import kind_of

Equations = Callable[..., Mapping[str, Tensor]]


class Registered(NamedTuple):
    """What a user said of a class of cells."""

    equations: Equations
    states: tuple[str, ...]
    returned: Callable[[Any], Any] | None


REGISTERED: dict[type[nn.Module], Registered] = {}
"""The classes of cells that users have registered."""


def register(
    cell: type[nn.Module],
    equations: Equations,
    *,
    states: tuple[str, ...] | None = None,
    returned: Callable[[Any], Any] | None = None,
) -> None:
    """Make a class of cells of your own recordable, by its equations.

    A cell is a module that takes one step: called as ``cell(x, h)``, ``cell(x, (h, c))`` or ``cell(x, h, c)``, it returns its new
    state, ``h`` or ``(h, c)``, or ``(output, state)``. Each call is checked: where the equations give another state than the
    cell returned, it is refused.

    Parameters
    ----------
    cell : type
        A subclass of `torch.nn.Module`; its subclasses are recorded by the same equations.
    equations : callable
        ``equations(cell, x, *states)`` with the module, its input ``(batch, feature)`` and the states before the step
        ``(batch, unit)``; returns everything to be recorded by name, each ``(batch, unit)``, the new states among them. What is
        called ``*_gate`` is taken for a gate between 0 and 1.
    states : tuple of str, optional
        The names of the states in the order of the call: ``("hidden_state",)`` for one and ``("hidden_state", "cell_state")``
        for two, if left out.
    returned : callable, optional
        Picks the new state, or a tuple of states, out of what the cell returns, where that is something else: of a dictionary,
        ``lambda returned: (returned["h"], returned["c"])``.

    Raises
    ------
    InputError
        If `cell` isn't a class of modules, `equations` can't be called, or there is no state.

    Examples
    --------
    >>> import torch, lstm_explain as lx
    >>> class Leaky(torch.nn.Module):
    ...     def __init__(self, size):
    ...         super().__init__()
    ...         self.keep, self.read = torch.nn.Linear(size, size), torch.nn.Linear(size, size)
    ...     def forward(self, x, h):
    ...         f = torch.sigmoid(self.keep(x))
    ...         return f * h + (1 - f) * torch.tanh(self.read(x))
    >>> def equations(cell, x, h):
    ...     f, g = torch.sigmoid(cell.keep(x)), torch.tanh(cell.read(x))
    ...     return {"forget_gate": f, "candidate": g, "hidden_state": f * h + (1 - f) * g}
    >>> lx.register(Leaky, equations)
    >>> cell, h = Leaky(3), torch.zeros(2, 3)
    >>> with lx.record(cell) as recording:
    ...     for x in torch.randn(5, 2, 3):
    ...         h = cell(x, h)
    >>> recording["cell"].forget_gate.shape
    torch.Size([2, 5, 3])
    """
    if not (isinstance(cell, type) and issubclass(cell, nn.Module)):
        raise InputError(f"needed a class of torch.nn.Module, got {cell.__name__ if isinstance(cell, type) else type(cell).__name__}")
    if not callable(equations):
        raise InputError(f"needed equations as a function (cell, x, *states), got {type(equations).__name__}")
    names = states if isinstance(states, (tuple, list)) else ()
    if states is not None and (not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names)):
        raise InputError(f"needed states as names, like ('hidden_state', 'cell_state'), each once, got {states!r}")
    if returned is not None and not callable(returned):
        raise InputError(f"needed returned as a function of what the cell returns, got {type(returned).__name__}")
    REGISTERED[cell] = Registered(equations, tuple(names), returned)


class Told(NamedTuple):
    """One call of a cell: what it returned, and its equations with their inputs."""

    kind: str
    form: Form | None
    returned: Any
    x: Tensor
    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    equations: Callable[..., Mapping[str, Tensor]]
    """``equations(x, *states)``, with the weights filled in."""
    weights: Mapping[str, Tensor]
    given: bool
    own: Weights | None = None
    """The cell's own weights, None of a registered one."""


def call_cell(module: Any, original: Forward, *args: Any, **kwargs: Any) -> Told:
    """One call of `torch.nn.LSTMCell`, `GRUCell`, `RNNCell` or `PeepholeLSTMCell`."""
    returned = original(*args, **kwargs)
    input, hx = input_and_state(original, args, kwargs)
    names = ("hidden_state", "cell_state") if isinstance(module, (nn.LSTMCell, PeepholeLSTMCell)) else ("hidden_state",)
    after = returned if isinstance(returned, (tuple, list)) else (returned,)
    if len(after) != len(names) or not all(isinstance(state, Tensor) for state in after):
        raise mismatch(module, " and ".join(names), returned)
    given = (hx if len(names) == 2 else (hx,)) if hx is not None else [torch.zeros_like(state) for state in after]
    if [getattr(state, "shape", None) for state in given] != [state.shape for state in after]:
        raise RecordingError(f"needed {type(module).__name__} to be called with its input and then its state, or its state as hx=")
    weights = Weights(*(getattr(module, name, None) for name in Weights._fields))  # type: ignore[arg-type]

    def of(dtype: torch.dtype) -> Weights:
        return Weights(*(None if w is None else w.to(dtype) for w in weights))  # type: ignore[arg-type]

    kind, form = kind_of(module)

    def equations(x: Tensor, *states: Tensor) -> Mapping[str, Tensor]:
        own = of(x.dtype)
        return stepper(kind, form, own)(read(x, own), states, unedited)

    before, states = (dict(zip(names, which, strict=True)) for which in (given, after))
    return Told(kind, form, returned, input, before, states, equations, kept_weights(weights), hx is not None, weights)


def call_registered(module: nn.Module, original: Forward, *args: Any, **kwargs: Any) -> Told:
    """One call of a cell that a user has registered."""
    returned = original(*args, **kwargs)
    kind, (equations, names, pick) = next((kind.__name__, REGISTERED[kind]) for kind in type(module).__mro__ if kind in REGISTERED)
    if pick is not None:
        with as_input_error(f"what was registered for {kind} to pick its states out of what it returns"):
            after = tensors_in(pick(returned))
    else:
        after = tensors_in(returned[1] if _with_output(returned) else returned)
    after = after[: len(names)] if names else after
    names = names or ("hidden_state", "cell_state")[: len(after)]
    if len(after) != len(names) or not after:
        raise mismatch(module, f"its state, {' and '.join(names) or 'one tensor or two'},", returned)
    x, *given = tensors_in(tuple(signature(original).bind(*args, **kwargs).arguments.values()))
    if x.dim() > 2:
        got = f"an input of shape {tuple(x.shape)}"
        raise RecordingError(f"needed one step of {kind}, (batch, feature), got {got}: what is registered takes one step at a time")
    with_state = bool(given)
    given = given or [torch.zeros_like(state) for state in after]
    if len(given) < len(names):
        raise RecordingError(f"needed {kind} to be called with {', '.join(names)}, got {len(given)} of them")

    def named(x: Tensor, *states: Tensor) -> Mapping[str, Tensor]:
        with as_input_error(f"the equations registered for {kind}"):
            computed = dict(equations(module, x, *states))
        _check_signals(kind, computed, names, after)
        return computed

    before, states = dict(zip(names, given[: len(names)], strict=True)), dict(zip(names, after, strict=True))
    return Told(kind, None, returned, x, before, states, named, {}, with_state)


def opened_cell(told: Told, *, upcast: bool) -> Opened:
    """A call of a cell as one step of one layer; recorded are its own states, and beside them what its equations give."""
    output = next(iter(told.after.values()))
    unbatched = told.x.dim() == 1
    batch = 1 if unbatched else len(output)

    def rows(tensor: Tensor) -> Tensor:
        return wide(tensor).reshape(batch, -1)

    inputs = [told.x, *told.before.values()]
    with torch.no_grad(), torch.autocast(output.device.type, enabled=False):
        computed = told.equations(*(wide(tensor) if upcast else tensor for tensor in inputs))
    short = {"hidden_state": "h_n", "cell_state": "c_n"}
    expected = {short.get(name, name): rows(computed[name]) for name in told.after}
    returned = {short.get(name, name): rows(state) for name, state in told.after.items()}
    first = next(iter(expected))
    layer = OpenedLayer(
        suffix="",
        reverse=False,
        signals={name: rows(told.after.get(name, signal)).clone() for name, signal in computed.items()},
        initial={name: rows(state) for name, state in told.before.items()},
        weights=told.weights,
    )
    return Opened(
        kind=told.kind,
        form=told.form,
        layout=Layout((batch,), False, unbatched, False),
        layers=[layer],
        expected={"output": expected[first], **expected},
        returned={"output": returned[first], **returned},
        states={name: rows(state).unsqueeze(0) for name, state in told.after.items()},
        dtype=computes_in(output),
        given=told.given,
        carries=True,
    )


def open_cell(module: nn.Module, original: Forward, *args: Any, **kwargs: Any) -> tuple[Any, Opened]:
    """One step of a cell of PyTorch's or ours."""
    told = call_cell(module, original, *args, **kwargs)
    return told.returned, opened_cell(told, upcast=True)


def open_registered(module: nn.Module, original: Forward, *args: Any, **kwargs: Any) -> tuple[Any, Opened]:
    """One step of a cell that a user has registered; its equations read its own weights, so they run in its own dtype."""
    told = call_registered(module, original, *args, **kwargs)
    return told.returned, opened_cell(told, upcast=False)


def open_on_graph(module: nn.Module, original: Forward, *args: Any, **kwargs: Any) -> tuple[Any, Opened]:
    """One step of any cell, with its signals on autograd's graph; its caller gets its own values bit for bit."""
    if torch.is_grad_enabled():
        not_checkpointed("grad=True")
    registered = any(isinstance(module, kind) for kind in REGISTERED)
    told = (call_registered if registered else call_cell)(module, original, *args, **kwargs)
    opened = opened_cell(told, upcast=not registered)
    if not torch.is_grad_enabled():
        return told.returned, opened
    in_one_dtype(told.x, "grad=True")
    computed = told.equations(reached(told.x), *told.before.values())
    layers = [opened.layers[0]._replace(nodes=[computed])]
    ours = {id(state): instead(state, computed[name]) for name, state in told.after.items()}
    if any(one.requires_grad and id(one) not in ours for one in tensors_in(told.returned)):
        raise RecordingError(
            f"needed a cell that returns its states alone for grad=True, got an output of its own from {told.kind}: gradients can't be "
            "followed from it to the gates, so compute it outside of the cell"
        )
    return swapped(told.returned, ours), opened._replace(layers=layers)


def swapped(value: Any, by: Mapping[int, Tensor]) -> Any:
    """The same nested tuples with some tensors replaced."""
    if isinstance(value, Tensor):
        return by.get(id(value), value)
    if isinstance(value, (tuple, list)):
        parts = [swapped(part, by) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, dict):
        return {key: swapped(part, by) for key, part in value.items()}
    return value


def _check_signals(kind: str, computed: Mapping[str, Any], names: tuple[str, ...], after: list[Tensor]) -> None:
    if missing := [name for name in names if name not in computed]:
        raise InputError(f"needed {missing[0]} among what the equations of {kind} return, got {', '.join(computed) or 'nothing'}")
    for name, signal in computed.items():
        if not (isinstance(signal, Tensor) and signal.dim() == after[0].dim() and signal.shape[:-1] == after[0].shape[:-1]):
            got = tuple(signal.shape) if isinstance(signal, Tensor) else type(signal).__name__
            raise InputError(f"needed {name} of {kind} of shape {(*after[0].shape[:-1], 'unit')}, got {got}")


def _with_output(returned: Any) -> bool:
    """Whether a cell returned (output, state) with its state as a tuple."""
    return isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], (tuple, list))


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors of nested tuples and mappings, in order."""
    if isinstance(value, Tensor):
        return [value]
    value = tuple(value.values()) if isinstance(value, Mapping) else value
    return [tensor for part in value for tensor in tensors_in(part)] if isinstance(value, (tuple, list)) else []
