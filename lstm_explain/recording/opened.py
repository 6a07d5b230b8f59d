"""One call of one recurrent module, opened: every signal of every layer, and what it takes to check them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from lstm_explain.errors import RecordingError
from lstm_explain.nn.equations import Form
from lstm_explain.nn.layout import Layout
from lstm_explain.recording.difference import Difference

Forward = Callable[..., Any]


def _nothing() -> Iterable[Difference]:
    return ()


class Rounded(NamedTuple):
    """What rounding alone may add up to over many steps."""

    cell: float
    """In a cell state, at most."""
    checked: Callable[[], Iterable[Difference]]
    """As `OpenedLayer.checked`, with what it may do to each value allowed for."""


class OpenedLayer(NamedTuple):
    """One layer in one direction. Rows are as in `Layout`: the steps one after the other, the longest sequence first."""

    suffix: str
    """PyTorch's name of it, ``l1_reverse``; empty for a cell."""
    reverse: bool
    signals: Mapping[str, Tensor]
    """``(rows, unit)`` by name."""
    initial: Mapping[str, Tensor]
    """The states before the first step, ``(batch, unit)``, by name."""
    weights: Mapping[str, Tensor] = {}
    """Those that a trajectory's own equations need."""
    checked: Callable[[], Iterable[Difference]] = _nothing
    """Recorded beside recomputed, where a trajectory can't tell by itself."""
    rounding: Callable[[torch.dtype], Rounded] | None = None
    """What rounding may add up to, when each step rounds as that dtype does; None where nothing adds up."""
    nodes: Sequence[Mapping[str, Tensor]] = ()
    """Where in autograd's graph the signals are: by name, for each step in the order of time; empty unless asked for."""
    started: Mapping[str, Tensor] = {}
    """The states that each step started from, ``(rows, unit)``, where the recurrence went on with others than left the layer."""
    changed: Mapping[str, Tensor] = {}
    """As in `Trajectory`: ``(batch, time, unit)``, in the order of the input."""


class Sample(NamedTuple):
    """How many of a call's steps, of all sequences, were recomputed from their inputs, and of how many."""

    steps: int
    of: int


class Opened(NamedTuple):
    """One call of a module, opened."""

    kind: str
    form: Form | None
    layout: Layout
    layers: list[OpenedLayer]
    expected: Mapping[str, Tensor]
    """Recomputed ``output``, ``h_n`` and, where there is a cell, ``c_n``; no ``output`` where the layers' own hidden states are checked."""
    returned: Mapping[str, Tensor]
    """The same as the module returned them."""
    states: Mapping[str, Tensor]
    """The last states as the module returned them, ``(layers * directions, batch, unit)``, by name."""
    dtype: torch.dtype
    """What the module computed in."""
    given: bool
    """Whether the call came with an initial state."""
    carries: bool
    """Whether a call can go on where the one before it ended: not in two directions."""
    again: "Callable[[], Opened] | None" = None
    """Opens the same call a slower and safer way, where this one was read from somewhere that may change."""
    sample: Sample | None = None
    """What is checked of each layer, where it isn't every step."""


def rows_of(output: Tensor | PackedSequence) -> Tensor:
    """The tensor inside an output, packed or not."""
    return output.data if isinstance(output, PackedSequence) else output


def computes_in(returned: Tensor) -> torch.dtype:
    """What a call computed in: the dtype that it returned, or what autocast made of it inside."""
    device = returned.device.type
    if torch.is_autocast_enabled(device):
        inside = torch.get_autocast_dtype(device)
        return inside if inside.itemsize < returned.dtype.itemsize else returned.dtype
    return returned.dtype


def in_one_dtype(x: Tensor, what: str) -> None:
    """Our own equations run in the dtype of their weights.

    Raises
    ------
    RecordingError
        Under autocast.
    """
    if torch.is_autocast_enabled(x.device.type):
        raise RecordingError(f"needed a pass in one dtype for {what}, got autocast: leave it, or do without {what}")


def reached(x: Tensor) -> Tensor:
    """An input that gradients reach, so that they reach every signal, also where weights are frozen."""
    return x if x.requires_grad or not x.is_floating_point() else x.detach().requires_grad_()


def mismatch(module: torch.nn.Module, needed: str, returned: Any) -> RecordingError:
    """The error for a module that returned something else than its kind does."""
    return RecordingError(f"needed {needed} from {type(module).__name__}, got {type(returned).__name__}: it can't be recorded as its kind")


def input_and_state(original: Forward, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    """What a layer or cell was called with, whatever a subclass calls its arguments: its input, and its state or None."""
    if not kwargs.keys() <= {"input", "hx"}:
        parameters = signature(original).parameters
        names = [name for name, one in parameters.items() if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
        if names:
            given = signature(original).bind(*args, **kwargs).arguments
            return given.get(names[0]), given.get("hx" if "hx" in parameters else names[1] if len(names) > 1 else "")
    named = {**dict(zip(("input", "hx"), args, strict=False)), **kwargs}
    return named.get("input"), named.get("hx")


def saved_elsewhere() -> Any:
    """Whoever keeps autograd's tensors in its own way just now, as checkpointing does: to look at one would make it run the model."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True)


def not_checkpointed(what: str) -> None:
    """Activation checkpointing runs the model again for the backward pass, and must find in the graph what it found the first time.

    Raises
    ------
    RecordingError
        Under it, with `what` needs a pass without.
    """
    hooks = saved_elsewhere()
    if hooks is not None and getattr(hooks[0], "__module__", None) == "torch.utils.checkpoint":
        raise RecordingError(f"needed a pass without activation checkpointing for {what}: leave it off, or do without {what}")


class _Instead(torch.autograd.Function):
    """The value of one tensor with the gradient of another."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, differentiable: Tensor) -> Tensor:
        return value.detach().clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, grad


def instead(value: Tensor, differentiable: Tensor) -> Tensor:
    """The value of one tensor, bit for bit, with the place in the graph of another."""
    result: Tensor = _Instead.apply(value, differentiable)  # type: ignore[no-untyped-call]
    return result
