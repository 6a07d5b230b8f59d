"""What a fused layer of PyTorch computed inside: replayed from its own hidden states, or read where it has left its gates.

A fused layer gives away the hidden states of its top layer. Those of the layers below come from the same kernel, called for one
layer at a time in the same mode, so that they are the same bit for bit. With the hidden states known, all the rest is
`lstm_explain.nn.kernels.replay`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lstm_explain.errors import RecordingError
from lstm_explain.nn.equations import Form, GRUStep, Nonlinearity, RNNStep, Step, Weights, rnn_step
from lstm_explain.nn.kernels import replay
from lstm_explain.nn.kernels.native import Found
from lstm_explain.nn.kernels.sequence import before
from lstm_explain.nn.layers import suffixes, weights_of
from lstm_explain.nn.layout import Layout, lay_out
from lstm_explain.recording import workspace
from lstm_explain.recording.difference import Difference, compare, wide
from lstm_explain.recording.layers import kept_weights, parts, stacked
from lstm_explain.recording.opened import Forward, Opened, OpenedLayer, Rounded, computes_in, input_and_state, rows_of
from lstm_explain.recording.stack import by_kernel, by_name, draws, initial_states, random_state, repeatable

_VALUES = 1 << 17
"""How many values of a signal are recomputed at once: bounds memory, changes nothing else."""


def open_fused(module: nn.RNNBase, original: Forward, *args: Any, **kwargs: Any) -> tuple[Any, Opened]:
    """`torch.nn.LSTM`, `GRU` or `RNN`: its own pass, bit for bit, and then what it computed inside."""
    repeatable(module)
    state = torch.get_rng_state() if draws(module) else None
    returned = original(*args, **kwargs)
    call = _Call(module, returned, *input_and_state(original, args, kwargs), state)
    return returned, call.left_behind() or call.replayed()


class _Call:
    """One call of a fused layer: what went in, what came out, and the two ways of opening it."""

    def __init__(self, module: nn.RNNBase, returned: Any, input: Any, hx: Any, state: Tensor | None) -> None:
        self.module, self.state, self.given = module, state, hx is not None
        self.kind, self.names = module.mode.lower(), suffixes(module)
        self.output, self.last = parts(module, returned, cell=self.kind == "lstm")
        x, self.layout = lay_out(input, input_size=module.input_size, batch_first=module.batch_first, dtype=None)
        self.x = x.detach()
        output = rows_of(self.output)
        self.dtype = computes_in(output)
        self.initial = tuple(one.detach() for one in initial_states(module, self.kind, self.layout, hx, output))
        self.top = self.layout.rows(output.detach())
        self.directions = 2 if module.bidirectional else 1
        shape = (len(x), self.directions * (module.proj_size or module.hidden_size))
        if self.top.shape != shape:
            got = f"an output of shape {tuple(output.shape)}"
            raise RecordingError(f"needed {shape[0]} steps of {shape[1]} units from {type(module).__name__}, got {got}")

    def _opened(self, layers: list[OpenedLayer], ends: dict[str, Tensor], *, safely: bool) -> Opened:
        return Opened(
            kind=self.kind,
            form=Form(None) if self.kind == "lstm" else None,
            layout=self.layout,
            layers=layers,
            expected=ends,
            returned={"output": self.top, **dict(zip(("h_n", "c_n"), self.last, strict=False))},
            states=stacked(self.last, self.layout),
            dtype=self.dtype,
            given=self.given,
            carries=not self.module.bidirectional,
            again=None if safely else self.replayed,
        )

    def replayed(self) -> Opened:
        """All layers and directions from their own hidden states."""
        below = self._below()
        read = [self.x, *(onward for _, onward in below)]
        came = [*(hidden for hidden, _ in below), self.top]
        layers, ends = [], []
        with torch.no_grad(), _in_its_own_dtype(self.top):
            for at, suffix in enumerate(self.names):
                layer, direction = divmod(at, self.directions)
                hidden = came[layer] if self.directions == 1 else came[layer].chunk(2, dim=1)[direction]
                opened, end = self._replayed(suffix, at, read[layer], hidden, copy=layer == len(came) - 1)
                layers.append(opened)
                ends.append(end)
            expected = [self.layout.state_out(torch.stack(states)) for states in zip(*ends, strict=True)]
        return self._opened(layers, dict(zip(("h_n", "c_n"), expected, strict=False)), safely=True)

    def _below(self) -> list[tuple[Tensor, Tensor]]:
        """The hidden states of all layers but the top one, ``(rows, directions * state)``, by PyTorch's own kernel, one layer at a time.

        Beside them what the next layer reads of them: some are dropped in training mode.
        """
        module, x = self.module, self.x
        found: list[tuple[Tensor, Tensor]] = []
        if module.num_layers == 1:
            return found
        # Nothing goes back through these: what they save is nobody's, and activation checkpointing, which counts, mustn't see it.
        with random_state(self.state), torch.autograd.graph.saved_tensors_hooks(lambda saved: None, lambda packed: packed):
            for layer in range(module.num_layers - 1):
                here = range(layer * self.directions, (layer + 1) * self.directions)
                states = [by_name([state[at] for state in self.initial]) for at in here]
                ran = by_kernel(
                    module, self.kind, self.layout, x, states, [weights_of(module, self.names[at]) for at in here], None, keep=False
                )
                hidden = x = ran[0][0].detach() if len(ran) == 1 else torch.cat([one.detach() for one, _, _ in ran], dim=1)
                if draws(module):
                    x = torch.dropout(x, module.dropout, True)
                found.append((hidden, x))
        return found

    def _replayed(self, suffix: str, at: int, x: Tensor, hidden: Tensor, *, copy: bool) -> tuple[OpenedLayer, tuple[Tensor, ...]]:
        fields = weights_of(self.module, suffix)
        weights = Weights(*(None if w is None else wide(self._rounded(w)) for w in fields))  # type: ignore[arg-type]
        initial = tuple(wide(state[at]) for state in self.initial)
        return replayed_layer(self.kind, suffix, wide(self._rounded(x)), wide(hidden), initial, weights, self.layout, copy=copy)

    def _rounded(self, tensor: Tensor) -> Tensor:
        """A tensor in the dtype that the call computed in."""
        return tensor if tensor.dtype == self.dtype else tensor.to(self.dtype)

    def left_behind(self) -> Opened | None:
        """All layers and directions as their kernel has left them; None where it hasn't, or where it isn't known how it does."""
        left = workspace.left_behind(self.module, self.output, self.layout) if isinstance(self.module, nn.LSTM) else None
        if left is None:
            return None
        with torch.no_grad():
            if not all(map(workspace.known, left)):
                found = self.replayed()
                for one, layer in zip(left, found.layers, strict=True):
                    workspace.learn(one, Step(**layer.signals))
                return found
            last_c = stacked(self.last, self.layout)["cell_state"]
            tops = self.top.chunk(self.directions, dim=1)
            layers, ends = [], []
            for at, (suffix, one) in enumerate(zip(self.names, left, strict=True)):
                top = at - (len(left) - self.directions)
                if top >= 0:
                    one = one._replace(hidden=tops[top])
                h0, c0 = (state[at] for state in self.initial)
                read = workspace.read(one, last_c[at], c0, copy=top >= 0)
                if read is None:
                    return None
                reverse = suffix.endswith("_reverse")
                by = partial(_checked, read.found, partial(_by_both, read.signals, c0, self.layout.sizes, reverse))
                states = {"hidden_state": h0, "cell_state": c0}
                layers.append(OpenedLayer(suffix, reverse, read.signals._asdict(), states, checked=by))
                ends.append(replay.last(one.hidden, h0, self.layout.sizes, reverse))
            return self._opened(layers, {"h_n": self.layout.state_out(torch.stack(ends))}, safely=False)


def replayed_layer(
    kind: str, suffix: str, x: Tensor, hidden: Tensor, initial: tuple[Tensor, ...], weights: Weights, layout: Layout, *, copy: bool
) -> tuple[OpenedLayer, tuple[Tensor, ...]]:
    """One layer and direction from what it read and what came out, and its last states; `copy` as in `replay.lstm`."""
    sizes, reverse, h0 = layout.sizes, suffix.endswith("_reverse"), initial[0]
    last_h = replay.last(hidden, h0, sizes, reverse)
    states = by_name(initial)
    if kind == "lstm":
        now, last_c, found = replay.lstm(x, hidden, h0, initial[1], weights, sizes, reverse, copy=copy)
        rounding = partial(_by_rounding, now, initial[1], weights.weight_hr, sizes, reverse)
        by = partial(_checked, found, partial(_by_the_cell, now, weights.weight_hr))
        return OpenedLayer(suffix, reverse, now._asdict(), states, kept_weights(weights), by, rounding), (last_h, last_c)
    if kind == "gru":
        gated, found = replay.gru(x, hidden, h0, weights, sizes, reverse, copy=copy)
        by = partial(_checked, found, partial(_by_the_gates, gated, h0, sizes, reverse))
        return OpenedLayer(suffix, reverse, gated._asdict(), states, checked=by), (last_h,)
    came = RNNStep(hidden.clone() if copy else hidden)
    nonlinearity: Nonlinearity = "tanh" if kind == "rnn_tanh" else "relu"

    def checked() -> Iterator[Difference]:
        expected = rnn_step(x, before(hidden, h0, sizes, reverse), weights, nonlinearity)
        yield compare(came.hidden_state, expected.hidden_state)

    return OpenedLayer(suffix, reverse, came._asdict(), states, checked=checked), (last_h,)


def _in_its_own_dtype(tensor: Tensor) -> AbstractContextManager[Any]:
    """Without autocast, where it is on: to leave it costs time even where it isn't."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def _checked(found: Found | None, slowly: Callable[[], Iterator[Difference]]) -> Iterator[Difference]:
    """What the compiled kernels have found; compared slowly where they haven't, or where there are values that aren't finite."""
    if found is None or found.nonfinite:
        yield from slowly()
    else:
        yield Difference(found.difference, found.scale, 0)


def _pieces(*signals: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Some rows of all signals at a time."""
    rows = max(1, _VALUES // signals[0].shape[1])
    return zip(*(signal.split(rows) for signal in signals), strict=True)


def _by_the_cell(now: Step, W_r: Tensor | None) -> Iterator[Difference]:
    """The hidden states that came out beside h = o tanh(c)."""
    for o, c, h in _pieces(*now[3:]):
        m = torch.tanh(c).mul_(o)
        yield compare(h, m if W_r is None else m @ W_r.T)


def _by_both(now: Step, c0: Tensor, sizes: Sequence[int], reverse: bool) -> Iterator[Difference]:
    """Both states beside c = f c + i g and h = o tanh(c)."""
    yield from _by_the_cell(now, None)
    for i, f, g, c, c_seen in _pieces(*now[:3], now.cell_state, before(now.cell_state, c0, sizes, reverse)):
        yield compare(c, (i * g).addcmul_(f, c_seen))


def _by_the_gates(now: GRUStep, h0: Tensor, sizes: Sequence[int], reverse: bool) -> Iterator[Difference]:
    """The hidden states that came out beside h = (1 - z) n + z h."""
    for z, n, h, h_seen in _pieces(*now[1:], before(now.hidden_state, h0, sizes, reverse)):
        yield compare(h, torch.lerp(n, h_seen, z))


def _by_rounding(now: Step, c0: Tensor, W_r: Tensor | None, sizes: Sequence[int], reverse: bool, dtype: torch.dtype) -> Rounded:
    """What rounding may add up to in a replayed cell state, and the hidden states beside those nearest to them that it allows."""
    error = replay.rounding(now, c0, sizes, reverse, dtype)

    def checked() -> Iterator[Difference]:
        for o, c, h, e in _pieces(*now[3:], error):
            low, high = (o * torch.tanh(c + side) for side in (-e, e))
            middle, radius = (low + high) / 2, (high - low) / 2
            if W_r is not None:
                middle, radius = middle @ W_r.double().T, radius @ W_r.double().abs().T
            yield compare(h, h.clamp(middle - radius, middle + radius))

    return Rounded(float(error.max()), checked)
