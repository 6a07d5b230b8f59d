"""What a layer of our own computed inside: it says so itself. And what is the same for layers of PyTorch's."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lstm_explain.errors import RecordingError
from lstm_explain.nn.equations import Form, Step, Weights, step
from lstm_explain.nn.layers import LayerRun, Run, run_layers, suffixes
from lstm_explain.nn.layout import Layout
from lstm_explain.nn.lstm import PeepholeLSTM
from lstm_explain.recording.difference import Difference, compare
from lstm_explain.recording.opened import Forward, Opened, OpenedLayer, input_and_state, mismatch, rows_of, wide

_ROWS = 64
"""At how many steps of a layer of our own its equations are computed again: what it kept is what its pass computed with."""


def repeatable(module: Any) -> None:
    """A pass with masks between its layers can be repeated only where the masks can be drawn again."""
    if draws(module) and next(module.parameters()).device.type != "cpu":
        raise RecordingError(
            f"needed a pass that can be repeated, got {type(module).__name__} in training mode with dropout between its layers on "
            f"{next(module.parameters()).device}, whose masks can't be drawn again: call model.eval() first"
        )


def draws(module: Any) -> bool:
    """Whether a call of it draws masks between its layers."""
    return bool(module.training and module.dropout > 0 and module.num_layers > 1)


@contextmanager
def random_state(state: Tensor | None) -> Iterator[None]:
    """The CPU's random state as it was, and afterwards as it is."""
    if state is None:
        yield
        return
    now = torch.get_rng_state()
    torch.set_rng_state(state)
    try:
        yield
    finally:
        torch.set_rng_state(now)


def parts(module: nn.Module, returned: Any, *, cell: bool) -> tuple[Any, tuple[Tensor, ...]]:
    """A layer's output and its last states."""
    match returned:
        case (output, (Tensor() as h_n, Tensor() as c_n)) if cell:
            return output, (h_n, c_n)
        case (output, Tensor() as h_n) if not cell:
            return output, (h_n,)
    raise mismatch(module, "output, (h_n, c_n)" if cell else "output, h_n", returned)


def stacked(last: tuple[Tensor, ...], layout: Layout) -> dict[str, Tensor]:
    """The last states by name, ``(layers * directions, batch, unit)``."""
    names = ("hidden_state", "cell_state")[: len(last)]
    return {name: state.detach().unsqueeze(1) if layout.unbatched else state.detach() for name, state in zip(names, last, strict=True)}


def open_own(module: PeepholeLSTM, original: Forward, *args: Any, **kwargs: Any) -> tuple[Any, Opened]:
    """Our own layer: the gates are what its forward pass computes anyway."""
    if getattr(original, "__func__", None) is PeepholeLSTM.forward:
        input, hx = _given(*args, **kwargs)
        run = run_layers(module, module.form, input, hx)
        returned = run.output, (run.h_n, run.c_n)
    else:
        repeatable(module)
        state = torch.get_rng_state() if draws(module) else None
        returned = original(*args, **kwargs)
        input, hx = input_and_state(original, args, kwargs)
        with torch.no_grad(), random_state(state):
            run = run_layers(module, module.form, input, hx)
    parts(module, returned, cell=True)
    return returned, opened_run(run, module.form, returned, given=hx is not None, carries=not module.bidirectional)


def _given(input: Any, hx: Any = None) -> tuple[Any, Any]:
    return input, hx


def opened_run(run: Run, form: Form, returned: Any, *, given: bool, carries: bool) -> Opened:
    """A run by our own equations, beside what its caller got."""
    output, last = returned
    return Opened(
        kind="peephole_lstm",
        form=form,
        layout=run.layout,
        layers=[_own_layer(layer, form) for layer in run.layers],
        expected={"output": rows_of(run.output), "h_n": run.h_n, "c_n": run.c_n},
        returned={"output": rows_of(output), **dict(zip(("h_n", "c_n"), last, strict=True))},
        states=stacked(last, run.layout),
        dtype=run.h_n.dtype,
        given=given,
        carries=carries,
    )


def _own_layer(layer: LayerRun, form: Form) -> OpenedLayer:
    i, f, g, o = layer.saved.gates.unbind(1)
    signals = Step(i, f, g, o, layer.saved.cell, layer.saved.hidden)._asdict()
    return OpenedLayer(
        suffix=layer.suffix,
        reverse=layer.reverse,
        signals={name: wide(signal) for name, signal in signals.items()},
        initial={"hidden_state": wide(layer.initial_h), "cell_state": wide(layer.initial_c)},
        weights=kept_weights(layer.weights),
        checked=partial(_by_the_equations, layer, form),
    )


def kept_weights(weights: Weights) -> dict[str, Tensor]:
    """The weights that a trajectory's own equations need."""
    return {name: wide(weight).clone() for name in ("weight_ch", "weight_hr") if (weight := getattr(weights, name)) is not None}


def _by_the_equations(layer: LayerRun, form: Form) -> Iterator[Difference]:
    """Recorded values beside what one readable step gives from the recorded state before it, at steps spread over the whole call."""
    gates, cell, hidden = layer.saved
    rows = torch.linspace(0, len(hidden) - 1, min(len(hidden), _ROWS), dtype=torch.float64, device=hidden.device).long()
    h, c = layer.seen(rows)
    with torch.autocast(hidden.device.type, enabled=False):
        expected = step(layer.x[rows], h, c, layer.weights, form)
    i, f, g, o = gates[rows].unbind(1)
    yield from map(compare, Step(i, f, g, o, cell[rows], hidden[rows]), expected)


def initial_states(module: nn.RNNBase, kind: str, layout: Layout, hx: Any, output: Tensor) -> tuple[Tensor, ...]:
    """The initial states, each ``(layers * directions, batch, unit)``, in the order of the rows; zero unless given."""
    cell = kind in ("lstm", "peephole_lstm")
    given = (None, None) if hx is None else hx if cell else (hx,)
    sizes = (module.proj_size or module.hidden_size, module.hidden_size)[: 2 if cell else 1]
    count = len(suffixes(module))
    shapes = [(count, size) if layout.unbatched else (count, layout.batch, size) for size in sizes]
    if hx is not None and [getattr(state, "shape", None) for state in given] != shapes:
        raise RecordingError(f"needed {type(module).__name__} to be called with its input and then its state, or its state as hx=")
    return tuple(
        output.new_zeros(count, layout.batch, size) if state is None else layout.state_in(state)
        for size, state in zip(sizes, given, strict=False)
    )
