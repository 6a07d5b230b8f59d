"""`record`: stand in for the forward pass of every recurrent layer of a model, for as long as a ``with`` block lasts."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from lstm_explain.errors import InputError, RecordingError
from lstm_explain.nn.equations import Form
from lstm_explain.nn.layers import LayerRun, Run, run_layers
from lstm_explain.nn.layout import Layout
from lstm_explain.nn.lstm import PeepholeLSTM, PeepholeLSTMCell
from lstm_explain.recording.certificate import certify
from lstm_explain.trajectory import Call, Padding, Recording, Trajectory, checked_lengths

Output = tuple[Any, tuple[Tensor, Tensor]]
Forward = Callable[..., Output]


def _run_own(module: PeepholeLSTM, original: Forward, input: Any, hx: Any) -> tuple[Output, Run]:
    """Our own layer: the gates are what its forward pass computes anyway."""
    if getattr(original, "__func__", None) is not PeepholeLSTM.forward:
        return _run_after(module, module.form, original, input, hx)
    run = run_layers(module, module.form, input, hx)
    return (run.output, (run.h_n, run.c_n)), run


def _run_stock(module: nn.LSTM, original: Forward, input: Any, hx: Any) -> tuple[Output, Run]:
    return _run_after(module, Form(None), original, input, hx)


def _run_after(module: Any, form: Form, original: Forward, input: Any, hx: Any) -> tuple[Output, Run]:
    """A forward pass that isn't ours, bit for bit, and our equations after it on the same input and weights."""
    if module.training and module.dropout > 0 and module.num_layers > 1:
        raise RecordingError(
            "needed a pass that can be repeated, got torch.nn.LSTM in training mode with dropout between its layers: call "
            "model.eval() first, or use PeepholeLSTM.from_lstm(lstm, peephole=None)"
        )
    returned = original(input, hx)
    with torch.no_grad():
        return returned, run_layers(module, form, input, hx)


_RUNNERS: dict[type[nn.Module], tuple[str, Callable[..., tuple[Output, Run]]]] = {
    PeepholeLSTM: ("peephole_lstm", _run_own),
    nn.LSTM: ("lstm", _run_stock),
}
"""The kinds of layer that can be opened, and who runs them."""


def _kind_of(module: nn.Module) -> type[nn.Module] | None:
    return next((kind for kind in _RUNNERS if isinstance(module, kind)), None)


def _path(name: str) -> str:
    """A module's path without the wrappers that torch.compile puts around a part of a model."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model inside the wrappers that torch.compile and DataParallel put around it."""
    while [name for name, _ in model.named_children()] in (["module"], ["_orig_mod"]):
        (model,) = model.children()
    return model


def _valid(recording: Recording, layout: Layout, device: torch.device) -> tuple[Tensor, Padding]:
    time = len(layout.sizes)
    lengths = None if recording.lengths is None else checked_lengths(recording.lengths, layout.batch, time)
    if layout.packed:
        packed = layout.lengths()
        if lengths is not None and not torch.equal(packed, lengths.to(packed)):
            raise InputError(f"needed the lengths of the PackedSequence, {packed.tolist()}, got {lengths.tolist()}")
        lengths = packed
    if lengths is None:
        return torch.ones(layout.batch, time, dtype=torch.bool, device=device), "unknown"
    valid = torch.arange(time, device=device) < lengths.to(device).unsqueeze(1)
    return valid, "none" if bool(valid.all()) else "known"


def _in_input_order(state: Tensor, layout: Layout) -> Tensor:
    """A state ``(batch, unit)`` in the order of the rows, as a copy in the order of the input."""
    state = state.detach()
    return state.clone() if layout.unsorted_indices is None else state.index_select(0, layout.unsorted_indices)


def _trajectory(key: str, kind: Any, layer: LayerRun, layout: Layout, form: Form, valid: Tensor, padding: Padding) -> Trajectory:
    # The hidden states are also the caller's output, who may write into them.
    i, f, g, o = layout.batch_time(layer.saved.gates.detach()).unbind(2)
    signals = {
        "input_gate": i,
        "forget_gate": f,
        "cell_candidate": g,
        "output_gate": o,
        "cell_state": layout.batch_time(layer.saved.cell.detach()),
        "hidden_state": layout.batch_time(layer.saved.hidden.detach().clone()),
    }
    last = layout.lengths().to(valid.device) - 1
    weights = {name: getattr(layer.weights, name) for name in ("weight_ch", "weight_hr")}
    return Trajectory(
        name=key,
        kind=kind,
        signals=signals,
        valid=valid,
        padding=padding,
        initial_hidden_state=_in_input_order(layer.initial_h, layout),
        initial_cell_state=_in_input_order(layer.initial_c, layout),
        first_step=last if layer.reverse else torch.zeros_like(last),
        reverse=layer.reverse,
        form=form,
        weights={name: weight.detach().clone() for name, weight in weights.items() if weight is not None},
    )


def _continues(before: Call | None, trajectory: Trajectory, given: bool, one_direction: bool) -> bool:
    if before is None or not given or not one_direction or not bool(before.trajectory.valid.all()):
        return False
    return torch.equal(before.last_hidden_state, trajectory.initial_hidden_state) and torch.equal(
        before.last_cell_state, trajectory.initial_cell_state
    )


def _calls(
    recording: Recording, path: str, kind: str, module: Any, form: Form, run: Run, given: bool, states: tuple[Tensor, Tensor]
) -> Iterator[tuple[str, Call]]:
    """One call of a module as one `Call` for each of its layers and directions."""
    valid, padding = _valid(recording, run.layout, run.h_n.device)
    h_n, c_n = (state.detach().unsqueeze(1) if run.layout.unbatched else state.detach() for state in states)
    for at, layer in enumerate(run.layers):
        key = f"{path}.{layer.suffix}" if path else layer.suffix
        trajectory = _trajectory(key, kind, layer, run.layout, form, valid, padding)
        before = recording.last(key)
        continues = _continues(before, trajectory, given, not module.bidirectional)
        yield key, Call(trajectory, h_n[at].clone(), c_n[at].clone(), continues)


_CALL = inspect.signature(lambda input, hx=None: None)


def _stand_in(recording: Recording, path: str, module: nn.Module) -> Forward:
    kind, runner = _RUNNERS[_kind_of(module) or nn.LSTM]
    original = module.forward
    form = module.form if isinstance(module, PeepholeLSTM) else Form(None)

    @wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Output:
        try:
            bound = _CALL.bind(*args, **kwargs)
        except TypeError as error:
            raise RecordingError(f"needed {path or 'the model'} to be called as forward(input, hx=None), but {error}") from None
        input, hx = bound.arguments["input"], bound.arguments.get("hx")
        returned, run = runner(module, original, input, hx)
        match returned:
            case (_, (Tensor(), Tensor())):
                pass
            case _:
                raise RecordingError(f"needed output, (h_n, c_n) from {path or 'the model'}, got {type(returned).__name__}")
        calls = dict(_calls(recording, path, kind, module, form, run, hx is not None, returned[1]))
        trajectories = [call.trajectory for call in calls.values()]
        recording.add(certify(path, recording.modules[path], run, form, returned, trajectories), calls)
        return returned

    return forward


@contextmanager
def replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """`forward` in place of a module's own, on the instance: hooks would miss ``inner.forward(...)``."""
    there, before = "forward" in module.__dict__, module.__dict__.get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if there:
            module.__dict__["forward"] = before
        else:
            del module.__dict__["forward"]


@contextmanager
def record(model: nn.Module, *, lengths: Tensor | Sequence[int] | None = None) -> Iterator[Recording]:
    """Record every gate and state of a model's recurrent layers, at every step, while the model runs.

    The model stays as it is: its outputs are the same bit for bit, its mode and the random state are untouched, and nothing is
    left behind when the block ends, also by an exception. Every call is checked against the layer's equations when it
    happens.

    Parameters
    ----------
    model : torch.nn.Module
        Any model that has `torch.nn.LSTM` or `PeepholeLSTM` layers.
    lengths : Tensor of int or sequence of int ``(batch,)``, optional
        How many steps of each sequence are real, for padded batches; a `PackedSequence` brings its own. Without them the
        recording is marked *padding: unknown*.

    Yields
    ------
    Recording
        Filled as the model is called.

    Raises
    ------
    RecordingError
        If the model has no layer that can be recorded, or a call can't be repeated.
    CertificateError
        If what would be recorded isn't what the layer computed.
    InputError
        If `lengths` doesn't fit a call.

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
    model = _unwrapped(model)
    targets = {_path(name): module for name, module in model.named_modules() if _kind_of(module)}
    closed = {
        _path(name): type(module).__name__
        for name, module in model.named_modules()
        if isinstance(module, (nn.RNNBase, nn.RNNCellBase, PeepholeLSTMCell)) and not _kind_of(module)
    }
    if not targets:
        others = ", ".join(f"{name or 'the model'} ({kind})" for name, kind in closed.items())
        found = f"found {others}, which can't be opened yet" if others else "found no recurrent layer"
        raise RecordingError(f"needed a model with torch.nn.LSTM or PeepholeLSTM layers, {found} in {type(model).__name__}")
    recording = Recording(targets, closed)
    recording.annotate(lengths=lengths)
    with ExitStack() as stack:
        for path, module in targets.items():
            stack.enter_context(replaced(module, _stand_in(recording, path, module)))
        yield recording
