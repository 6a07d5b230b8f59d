"""What a layer computed inside: our own says so itself; a fused one of PyTorch is replayed from its own hidden states.

A fused layer gives away the hidden states of its top layer. Those of the layers below come from the same kernel, called for one
layer at a time in the same mode, so that they are the same bit for bit. With the hidden states known, all the rest is
`lstm_explain.nn.kernels.replay`.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lstm_explain.errors import RecordingError
from lstm_explain.nn.equations import Form, Nonlinearity, RNNStep, Step, Weights, rnn_step, step
from lstm_explain.nn.kernels import replay
from lstm_explain.nn.layers import LayerRun, Run, run_layers, suffixes, weights_of
from lstm_explain.nn.layout import Layout, lay_out
from lstm_explain.nn.lstm import PeepholeLSTM
from lstm_explain.recording import workspace
from lstm_explain.recording.opened import Forward, Opened, OpenedLayer, Rounded, computes_in, input_and_state, mismatch, rows_of, wide
from lstm_explain.recording.stack import by_kernel, by_name, draws, initial_states, random_state, repeatable

_ROWS = 4096
_VALUES = 1 << 17
"""How many steps, and values of a signal, are recomputed at once: bounds memory, changes nothing else."""


def _parts(module: nn.Module, returned: Any, *, cell: bool) -> tuple[Any, tuple[Tensor, ...]]:
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
    _parts(module, returned, cell=True)
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
    i, f, g, o = layer.saved.gates.detach().unbind(1)
    # The hidden states are also the caller's output, who may write into them.
    signals = Step(i, f, g, o, layer.saved.cell.detach(), layer.saved.hidden.detach().clone())._asdict()
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


def _by_the_equations(layer: LayerRun, form: Form) -> Iterator[tuple[Tensor, Tensor]]:
    """Every recorded value beside what one readable step gives from the recorded state before it."""
    gates, seen, cell, hidden = layer.saved
    for at in range(0, len(hidden), _ROWS):
        rows = slice(at, at + _ROWS)
        h, c = seen[rows].split([hidden.shape[1], cell.shape[1]], dim=1)
        with torch.autocast(hidden.device.type, enabled=False):
            expected = step(layer.x[rows], h, c, layer.weights, form)
        i, f, g, o = gates[rows].unbind(1)
        yield from zip(Step(i, f, g, o, cell[rows], hidden[rows]), expected, strict=True)


def open_fused(module: nn.RNNBase, original: Forward, *args: Any, **kwargs: Any) -> tuple[Any, Opened]:
    """`torch.nn.LSTM`, `GRU` or `RNN`: its own pass, bit for bit, and then what it computed inside."""
    repeatable(module)
    state = torch.get_rng_state() if draws(module) else None
    returned = original(*args, **kwargs)
    input, hx = input_and_state(original, args, kwargs)
    kind = module.mode.lower()
    output, last = _parts(module, returned, cell=kind == "lstm")
    x, layout = lay_out(input, input_size=module.input_size, batch_first=module.batch_first, dtype=None)
    dtype = computes_in(rows_of(output))
    initial = initial_states(module, kind, layout, hx, rows_of(output))
    top = layout.rows(rows_of(output).detach())
    shape = (len(x), len(suffixes(module)) // module.num_layers * (module.proj_size or module.hidden_size))
    if top.shape != shape:
        got = f"an output of shape {tuple(rows_of(output).shape)}"
        raise RecordingError(f"needed {shape[0]} steps of {shape[1]} units from {type(module).__name__}, got {got}")
    expected = {"output": top, **dict(zip(("h_n", "c_n"), last, strict=False))}

    def opened(layers: list[OpenedLayer], ends: dict[str, Tensor], again: Callable[[], Opened] | None = None) -> Opened:
        return Opened(
            kind=kind,
            form=Form(None) if kind == "lstm" else None,
            layout=layout,
            layers=layers,
            expected=expected | ends,
            returned=expected,
            states=stacked(last, layout),
            dtype=dtype,
            given=hx is not None,
            carries=not module.bidirectional,
            again=again,
        )

    def replayed() -> Opened:
        # Nothing goes back through these: what they save is nobody's, and activation checkpointing, which counts, mustn't see it.
        with random_state(state), torch.autograd.graph.saved_tensors_hooks(lambda saved: None, lambda packed: packed):
            below = list(_below(module, kind, layout, x.detach(), initial))
        came = [*(hidden for hidden, _ in below), top.clone()]
        with torch.no_grad(), torch.autocast(top.device.type, enabled=False):
            return opened(*_replay(module, kind, layout, [x.detach(), *(onward for _, onward in below)], came, initial, dtype))

    left = workspace.left_behind(module, output, layout) if isinstance(module, nn.LSTM) else None
    if left is None:
        return returned, replayed()
    with torch.no_grad():
        if not all(map(workspace.known, left)):
            found = replayed()
            for one, layer in zip(left, found.layers, strict=True):
                workspace.learn(one, Step(**layer.signals))
            return returned, found
        last_c = stacked(last, layout)["cell_state"]
        steps = [now for one, c in zip(left, last_c, strict=True) if (now := workspace.read(one, c)) is not None]
        if len(steps) < len(left):
            return returned, replayed()
        tops = top.clone().chunk(2 if module.bidirectional else 1, dim=1)
        steps[-len(tops) :] = [now._replace(hidden_state=h) for now, h in zip(steps[-len(tops) :], tops, strict=True)]
        states = [tuple(state.detach()[at] for state in initial) for at in range(len(left))]
        layers = [_left(*parts, layout) for parts in zip(suffixes(module), steps, states, strict=True)]
        ends = [replay.last(layer.signals["hidden_state"], layer.initial["hidden_state"], layout.sizes, layer.reverse) for layer in layers]
        return returned, opened(layers, {"h_n": layout.state_out(torch.stack(ends))}, replayed)


def _left(suffix: str, now: Step, states: tuple[Tensor, ...], layout: Layout) -> OpenedLayer:
    """One layer and direction as its kernel left it."""
    reverse = suffix.endswith("_reverse")
    initial = by_name(states)

    def checked() -> Iterator[tuple[Tensor, Tensor]]:
        yield from _by_the_cell(now, None)
        seen = replay.before(now.cell_state, states[1], layout.sizes, reverse)
        rows = max(1, _VALUES // seen.shape[1])
        for i, f, g, c, before in zip(*(signal.split(rows) for signal in (*now[:3], now.cell_state, seen)), strict=True):
            yield c, (i * g).addcmul_(f, before)

    return OpenedLayer(suffix, reverse, now._asdict(), initial, checked=checked)


def _replay(
    module: nn.RNNBase,
    kind: str,
    layout: Layout,
    read: list[Tensor],
    came: list[Tensor],
    initial: tuple[Tensor, ...],
    dtype: torch.dtype,
) -> tuple[list[OpenedLayer], dict[str, Tensor]]:
    """All layers and directions from what they read and what came out of them, and their last states as the module returns them."""
    layers, ends = [], []
    directions = 2 if module.bidirectional else 1
    for at, suffix in enumerate(suffixes(module)):
        layer, direction = divmod(at, directions)
        hidden = wide(came[layer].chunk(directions, dim=1)[direction])
        states = tuple(wide(state[at]) for state in initial)
        weights = Weights(*(None if w is None else wide(w.to(dtype)) for w in weights_of(module, suffix)))  # type: ignore[arg-type]
        opened, end = replayed_layer(kind, suffix, direction == 1, wide(read[layer].to(dtype)), hidden, states, weights, layout)
        layers.append(opened)
        ends.append(end)
    stacked = [layout.state_out(torch.stack(states)) for states in zip(*ends, strict=True)]
    return layers, dict(zip(("h_n", "c_n"), stacked, strict=False))


def _below(module: nn.RNNBase, kind: str, layout: Layout, x: Tensor, initial: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, Tensor]]:
    """The hidden states of all layers but the top one, ``(rows, directions * state)``, by PyTorch's own kernel, one layer at a time.

    Beside them what the next layer reads of them: some are dropped in training mode.
    """
    directions = 2 if module.bidirectional else 1
    names = suffixes(module)
    for layer in range(module.num_layers - 1):
        here = range(layer * directions, (layer + 1) * directions)
        states = [by_name([state[at].detach() for state in initial]) for at in here]
        ran = by_kernel(module, kind, layout, x, states, [weights_of(module, names[at]) for at in here], None)
        hidden = x = torch.cat([one.detach() for one, _, _ in ran], dim=1)
        if draws(module):
            x = torch.dropout(x, module.dropout, True)
        yield hidden, x


def _by_the_cell(computed: Step, W_r: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """The hidden states that came out beside h = o tanh(c), of the gates and cell states that were replayed."""
    rows = max(1, _VALUES // computed.cell_state.shape[1])
    for o, c, h in zip(*(signal.split(rows) for signal in computed[3:]), strict=True):
        m = torch.tanh(c).mul_(o)
        yield h, m if W_r is None else m @ W_r.T


def _rounded(computed: Step, c0: Tensor, W_r: Tensor | None, layout: Layout, reverse: bool, dtype: torch.dtype) -> Rounded:
    """What rounding may add up to in a replayed cell state, and the hidden states beside those nearest to them that it allows."""
    error = replay.rounding(computed, c0, layout.sizes, reverse, dtype)

    def checked() -> Iterator[tuple[Tensor, Tensor]]:
        rows = max(1, _VALUES // error.shape[1])
        for o, c, h, e in zip(*(signal.split(rows) for signal in (*computed[3:], error)), strict=True):
            low, high = (o * torch.tanh(c + side) for side in (-e, e))
            middle, radius = (low + high) / 2, (high - low) / 2
            if W_r is not None:
                middle, radius = middle @ W_r.double().T, radius @ W_r.double().abs().T
            yield h, h.clamp(middle - radius, middle + radius)

    return Rounded(float(error.max()), checked)


def replayed_layer(
    kind: str, suffix: str, reverse: bool, x: Tensor, hidden: Tensor, initial: tuple[Tensor, ...], weights: Weights, layout: Layout
) -> tuple[OpenedLayer, tuple[Tensor, ...]]:
    """One layer and direction from what it read and what came out, and its last states."""
    h0 = initial[0]
    last_h = replay.last(hidden, h0, layout.sizes, reverse)
    states = by_name(initial)
    if kind == "lstm":
        computed, last_c = replay.lstm(x, hidden, h0, initial[1], weights, layout.sizes, reverse)
        rounding = partial(_rounded, computed, initial[1], weights.weight_hr, layout, reverse)
        by = partial(_by_the_cell, computed, weights.weight_hr)
        layer = OpenedLayer(suffix, reverse, computed._asdict(), states, kept_weights(weights), by, rounding)
        return layer, (last_h, last_c)
    if kind == "gru":
        gated = replay.gru(x, hidden, h0, weights, layout.sizes, reverse)
        came = gated._replace(hidden_state=hidden)
        return OpenedLayer(suffix, reverse, came._asdict(), states, checked=lambda: [(hidden, gated.hidden_state)]), (last_h,)
    nonlinearity: Nonlinearity = "tanh" if kind == "rnn_tanh" else "relu"

    def checked() -> Iterator[tuple[Tensor, Tensor]]:
        yield hidden, rnn_step(x, replay.before(hidden, h0, layout.sizes, reverse), weights, nonlinearity).hidden_state

    return OpenedLayer(suffix, reverse, RNNStep(hidden)._asdict(), states, checked=checked), (last_h,)
