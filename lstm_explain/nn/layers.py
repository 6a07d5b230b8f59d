"""A stack of layers and directions, run by our own equations: `PeepholeLSTM` itself, and the replay of `torch.nn.LSTM`."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import dropout
from torch.nn.utils.rnn import PackedSequence

from lstm_explain.errors import InputError
from lstm_explain.nn.equations import Form, Weights
from lstm_explain.nn.kernels.sequence import Computed, Saved, before
from lstm_explain.nn.layout import Layout, lay_out
from lstm_explain.nn.sequence import run_sequence

RunsSequence = Callable[..., Computed]
"""Whoever runs one layer in one direction, called as `run_sequence` is."""


class LSTMLike(Protocol):
    """What `torch.nn.LSTM` and `PeepholeLSTM` have in common: sizes, and weights under PyTorch's names."""

    input_size: int
    hidden_size: int
    proj_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool
    training: bool


class LayerRun(NamedTuple):
    """One layer in one direction: what it read, rows as in `Layout`, and what it computed."""

    suffix: str
    weights: Weights
    reverse: bool
    sizes: tuple[int, ...]
    x: Tensor
    initial_h: Tensor
    initial_c: Tensor
    saved: Saved
    last_h: Tensor
    last_c: Tensor

    def seen(self) -> tuple[Tensor, Tensor]:
        """The hidden and the cell state that each row started from, detached."""
        _, cell, hidden = self.saved
        states = (hidden, self.initial_h.detach()), (cell, self.initial_c.detach())
        h, c = (before(after, initial, self.sizes, self.reverse) for after, initial in states)
        return h, c


class Run(NamedTuple):
    """One call of a stack: what the caller gets, and every layer and direction of it, where they were to be kept."""

    output: Tensor | PackedSequence
    h_n: Tensor
    c_n: Tensor
    layers: list[LayerRun]
    layout: Layout


def suffixes(module: LSTMLike) -> list[str]:
    """PyTorch's names of a stack's layers and directions, in its order: ``l0``, ``l0_reverse``, ``l1``, ..."""
    directions = ("", "_reverse") if module.bidirectional else ("",)
    return [f"l{layer}{direction}" for layer in range(module.num_layers) for direction in directions]


def weights_of(module: LSTMLike, suffix: str) -> Weights:
    """The weights of one layer and direction, read through the module's attributes at the time of the call."""

    def get(name: str) -> Tensor | None:
        return getattr(module, f"{name}_{suffix}", None)

    weight_ih, weight_hh = getattr(module, f"weight_ih_{suffix}"), getattr(module, f"weight_hh_{suffix}")
    bias_ih, bias_hh = (get("bias_ih"), get("bias_hh")) if module.bias else (None, None)
    return Weights(weight_ih, weight_hh, bias_ih, bias_hh, get("weight_ch"), get("weight_hr") if module.proj_size else None)


def _initial(module: LSTMLike, layout: Layout, hx: tuple[Tensor, Tensor] | None, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The initial states ``(layers * directions, batch, unit)``, zero unless given, in the order of the rows."""
    count = len(suffixes(module))
    sizes = module.proj_size or module.hidden_size, module.hidden_size
    if hx is None:
        return rows.new_zeros(count, layout.batch, sizes[0]), rows.new_zeros(count, layout.batch, sizes[1])
    if not (isinstance(hx, (tuple, list)) and len(hx) == 2 and all(isinstance(state, Tensor) for state in hx)):
        raise InputError(f"needed the initial state as a pair of tensors (h_0, c_0), got {type(hx).__name__}")
    for name, state, size in zip(("h_0", "c_0"), hx, sizes, strict=True):
        shape = (count, size) if layout.unbatched else (count, layout.batch, size)
        if tuple(state.shape) != shape:
            raise InputError(f"needed {name} of shape {shape}, got {tuple(state.shape)}")
        if state.dtype != rows.dtype:
            raise InputError(f"needed {name} of the weights' dtype {rows.dtype}, got {state.dtype}: convert it with .to()")
    return layout.state_in(hx[0]), layout.state_in(hx[1])


def run_layers(
    module: LSTMLike,
    form: Form,
    input: Tensor | PackedSequence,
    hx: tuple[Tensor, Tensor] | None = None,
    *,
    keep: bool = True,
    weights: Callable[[LSTMLike, str], Weights] = weights_of,
    lowest: RunsSequence = run_sequence,
) -> Run:
    """Run a whole stack by our own equations; `keep` is whether what each layer computed inside is wanted.

    `weights` says which they are of a layer and direction, and `lowest` runs the layer that reads the input.

    Raises
    ------
    InputError
        If the input or the initial state doesn't fit the module.
    """
    names = suffixes(module)
    dtype = getattr(module, f"weight_ih_{names[0]}").dtype
    rows, layout = lay_out(input, input_size=module.input_size, batch_first=module.batch_first, dtype=dtype)
    states = _initial(module, layout, hx, rows)
    return run_rows(module, form, rows, layout, states, keep=keep, weights=weights, lowest=lowest)


def run_rows(
    module: LSTMLike,
    form: Form,
    rows: Tensor,
    layout: Layout,
    states: Sequence[Tensor],
    *,
    keep: bool = True,
    weights: Callable[[LSTMLike, str], Weights] = weights_of,
    lowest: RunsSequence = run_sequence,
) -> Run:
    """`run_layers` of an input that is laid out, from initial states ``(layers * directions, batch, unit)`` in the order of its rows."""
    names, (h_0, c_0) = suffixes(module), states
    directions = 2 if module.bidirectional else 1
    runs: list[LayerRun] = []
    last: list[tuple[Tensor, Tensor]] = []
    for layer in range(module.num_layers):
        if layer > 0 and module.dropout > 0 and module.training:
            rows = dropout(rows, module.dropout, training=True)
        tops = []
        for direction in range(directions):
            at, reverse = layer * directions + direction, direction == 1
            own, by = weights(module, names[at]), run_sequence if layer else lowest
            now = by(rows, h_0[at], c_0[at], own, form, layout.sizes, reverse, keep=keep)
            if keep and now.saved is not None:
                runs.append(LayerRun(names[at], own, reverse, layout.sizes, rows, h_0[at], c_0[at], now.saved, now.last_h, now.last_c))
            tops.append(now.hidden)
            last.append((now.last_h, now.last_c))
        rows = torch.cat(tops, dim=1) if directions == 2 else tops[0]
    h_n, c_n = (layout.state_out(torch.stack(of_all)) for of_all in zip(*last, strict=True))
    return Run(layout.output(rows), h_n, c_n, runs, layout)
