"""What a layer of our own computed inside: it says so itself. And what is the same for layers of PyTorch's."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lstm_explain.nn.equations import Form, Step, Weights, step
from lstm_explain.nn.kernels import native
from lstm_explain.nn.kernels.native import layer as compiled
from lstm_explain.nn.layers import LayerRun, Run, run_layers
from lstm_explain.nn.layout import Layout
from lstm_explain.nn.lstm import PeepholeLSTM
from lstm_explain.nn.rounding import rounded_step
from lstm_explain.recording.difference import Difference, compare, wide
from lstm_explain.recording.opened import Forward, Opened, OpenedLayer, Rounded, input_and_state, mismatch, rows_of
from lstm_explain.recording.sampling import by_sample
from lstm_explain.recording.stack import by_name, draws, random_state, repeatable

_ROWS = 4096
"""How many steps are recomputed at once: bounds memory, changes nothing else."""


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
        layers=[own_layer(layer, form) for layer in run.layers],
        expected={"output": rows_of(run.output), "h_n": run.h_n, "c_n": run.c_n},
        returned={"output": rows_of(output), **dict(zip(("h_n", "c_n"), last, strict=True))},
        states=stacked(last, run.layout),
        dtype=run.h_n.dtype,
        given=given,
        carries=carries,
    )


def own_layer(layer: LayerRun, form: Form) -> OpenedLayer:
    """One layer and direction of our own as it ran."""
    return OpenedLayer(
        suffix=layer.suffix,
        reverse=layer.reverse,
        signals={name: wide(signal) for name, signal in _signals(layer).items()},
        initial={"hidden_state": wide(layer.initial_h), "cell_state": wide(layer.initial_c)},
        weights=kept_weights(layer.weights),
        checked=partial(_checked, layer, form),
        rounding=partial(_by_rounding, layer, form),
    )


def _signals(layer: LayerRun) -> dict[str, Tensor]:
    i, f, g, o = layer.saved.gates.unbind(1)
    return Step(i, f, g, o, layer.saved.cell, layer.saved.hidden)._asdict()


def kept_weights(weights: Weights) -> dict[str, Tensor]:
    """The weights that a trajectory's own equations need."""
    return {name: wide(weight).clone() for name in ("weight_ch", "weight_hr") if (weight := getattr(weights, name)) is not None}


def _checked(layer: LayerRun, form: Form) -> Iterator[Difference]:
    """Every recorded value beside its equation, from the recorded state before it.

    The compiled kernels do it where they can, with products of PyTorch's; what they share with the kernels that ran the layer, their
    nonlinearities, is held against PyTorch's own at a sample of steps.
    """
    tensors = (*layer.saved, layer.x, layer.initial_h, layer.initial_c, *layer.weights)
    if layer.weights.weight_hr is None and native.serves(*tensors):
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            x, h0, c0 = layer.x.detach(), layer.initial_h.detach(), layer.initial_c.detach()
            found = compiled.held(layer.saved, x, h0, c0, layer.weights, form, layer.sizes, layer.reverse)
            if not found.nonfinite:
                yield Difference(found.difference, found.scale, 0)
                signals, states = _signals(layer), by_name([h0, c0])
                yield from by_sample("peephole_lstm", form, layer.weights, x, signals, states, layer.sizes, layer.reverse)
                return
    yield from _by_the_equations(layer, form)


def _by_the_equations(layer: LayerRun, form: Form) -> Iterator[Difference]:
    """Every recorded value beside what one readable step gives from the recorded state before it."""
    for recorded, expected, _ in _step_by_step(layer, form):
        yield from map(compare, recorded, expected)


def _by_rounding(layer: LayerRun, form: Form, dtype: torch.dtype) -> Rounded:
    """Every recorded value beside the one nearest to it that rounding within one step allows: where cell states run far up that is much."""

    def checked() -> Iterator[Difference]:
        for recorded, expected, seen in _step_by_step(layer, form):
            with torch.autocast(expected.cell_state.device.type, enabled=False):
                radius = rounded_step(*seen, layer.weights, form, expected, torch.finfo(dtype).eps)
            for value, middle, side in zip(recorded, expected, radius, strict=True):
                nearest = value.clamp(middle - side, middle + side)
                # What isn't finite has no neighbour.
                yield compare(value, nearest.where(value.isfinite() & nearest.isfinite(), middle))

    return Rounded(0.0, checked)


def _step_by_step(layer: LayerRun, form: Form) -> Iterator[tuple[Step, Step, tuple[Tensor, Tensor, Tensor]]]:
    """Some steps at a time: as they were recorded, as one readable step gives them, and what that saw, x, h and c."""
    gates, cell, hidden = layer.saved
    h, c = layer.seen()
    for at in range(0, len(hidden), _ROWS):
        rows = slice(at, at + _ROWS)
        seen = layer.x[rows], h[rows], c[rows]
        with torch.autocast(hidden.device.type, enabled=False):
            expected = step(*seen, layer.weights, form)
        i, f, g, o = gates[rows].unbind(1)
        yield Step(i, f, g, o, cell[rows], hidden[rows]), expected, seen
