"""A stack run one layer at a time: by its own kernel, or by the readable equations, step by step, with a slot for edits.

Whoever needs a layer run by our own equations in place of the fused one comes here: recording on autograd's graph, and changing
a signal while the model runs.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import _VF, Tensor, nn

from lstm_explain.errors import RecordingError
from lstm_explain.nn.equations import Form, Stepper, Weights, read, stepper, walk
from lstm_explain.nn.kernels import replay, sequence
from lstm_explain.nn.kernels.sequence import Saved
from lstm_explain.nn.layers import suffixes
from lstm_explain.nn.layout import Layout
from lstm_explain.nn.lstm import PeepholeLSTM, PeepholeLSTMCell
from lstm_explain.nn.sequence import run_sequence
from lstm_explain.recording.edits import Slot

_NAMES = ("hidden_state", "cell_state")


def kind_of(module: Any) -> tuple[str, Form | None]:
    """The kind of a layer or cell, as a trajectory has it, and of an LSTM its form."""
    if isinstance(module, (PeepholeLSTM, PeepholeLSTMCell)):
        return "peephole_lstm", module.form
    if isinstance(module, (nn.LSTM, nn.LSTMCell)):
        return "lstm", Form(None)
    if isinstance(module, (nn.GRU, nn.GRUCell)):
        return "gru", None
    return f"rnn_{module.nonlinearity}", None


def draws(module: Any) -> bool:
    """Whether a call of it draws masks between its layers."""
    return bool(module.training and module.dropout > 0 and module.num_layers > 1)


def repeatable(module: Any) -> None:
    """A pass with masks between its layers can be repeated only where the masks can be drawn again.

    Raises
    ------
    RecordingError
        If they can't.
    """
    if draws(module) and next(module.parameters()).device.type != "cpu":
        raise RecordingError(
            f"needed a pass that can be repeated, got {type(module).__name__} in training mode with dropout between its layers on "
            f"{next(module.parameters()).device}, whose masks can't be drawn again: call model.eval() first"
        )


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


def initial_states(module: Any, kind: str, layout: Layout, hx: Any, output: Tensor) -> tuple[Tensor, ...]:
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


def by_name(states: Sequence[Tensor]) -> dict[str, Tensor]:
    """A layer's states, hidden and cell or hidden alone, by name."""
    return dict(zip(_NAMES, states, strict=False))


class Walked(NamedTuple):
    """One layer and direction by the readable equations."""

    signals: Mapping[str, Tensor]
    """``(rows, unit)`` by name, as they left the layer; the hidden states, and all others where they were to be kept."""
    last: Mapping[str, Tensor]
    """The last states as they leave."""
    went_on: Mapping[str, Tensor] | None
    """The last states of the recurrence itself, where not everything that leaves is fed back."""
    started: Mapping[str, Tensor]
    """The states that each step started from, in the same case."""
    steps: Sequence[Mapping[str, Tensor]]
    """The signals once more, apart for each step."""


def by_equations(
    step: Stepper, z_x: Tensor, states: Mapping[str, Tensor], sizes: Sequence[int], reverse: bool, slot: Slot, keep: bool
) -> Walked:
    """One layer and direction step by step; what isn't fed back is recomputed afterwards, from the states that went on."""

    def one(t: int, z_t: Tensor, states: Sequence[Tensor]) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        now = step(z_t, states, slot.at(t, len(z_t)))
        return now, now if keep else {name: now[name] for name in (now if slot.leaves else ("hidden_state",)) if name in now}

    steps, last = walk(z_x, states, one, sizes, reverse)
    signals = {name: torch.cat([now[name] for now in steps]) for name in steps[0]}
    if not slot.leaves:
        return Walked(signals, last, None, {}, steps)
    started = {name: sequence.before(signals[name], state, sizes, reverse) for name, state in states.items()}
    if len(rows := slot.touched()):
        if len(sizes) == 1:  # the equations that a user has registered take all sequences of a call
            rows = torch.arange(len(z_x), device=rows.device)
        changed = step(z_x[rows], [state[rows] for state in started.values()], slot.among(rows))
        signals = {name: signal.index_copy(0, rows, changed[name]) for name, signal in signals.items()}
    left = {name: replay.last(signals[name], state, sizes, reverse) for name, state in states.items()}
    return Walked(signals, left, last, started, ())


class Ran(NamedTuple):
    """One layer in one direction: what it read, rows as in `Layout`, and what it computed, by the equations or by its own kernel."""

    suffix: str
    reverse: bool
    weights: Weights
    x: Tensor
    initial: Mapping[str, Tensor]
    hidden: Tensor
    last: Mapping[str, Tensor]
    walked: Walked | None = None
    saved: Saved | None = None


def by_kernel(
    module: Any,
    kind: str,
    layout: Layout,
    x: Tensor,
    states: Sequence[Mapping[str, Tensor]],
    weights: Sequence[Weights],
    form: Form | None,
    *,
    keep: bool,
) -> list[tuple[Tensor, Mapping[str, Tensor], Saved | None]]:
    """One layer in all its directions by the kernel that its module has: hidden states ``(rows, state)`` and last states of each.

    Beside them what our own layer has saved, where `keep` asks for it.
    """
    if isinstance(module, PeepholeLSTM):
        assert form is not None
        found: list[tuple[Tensor, Mapping[str, Tensor], Saved | None]] = []
        for at, (one, start) in enumerate(zip(weights, states, strict=True)):
            now = run_sequence(x, start["hidden_state"], start["cell_state"], one, form, layout.sizes, at == 1, keep=keep)
            found.append((now.hidden, by_name([now.last_h, now.last_c]), now.saved))
        return found
    flat = [w for one in weights for w in (*one[:4], one.weight_hr) if w is not None]
    stacked = [torch.stack([start[name] for start in states]).to(x.dtype) for name in states[0]]
    hx = stacked if kind == "lstm" else stacked[0]
    run, options = getattr(_VF, kind), (module.bias, 1, 0.0, module.training, module.bidirectional)
    if layout.packed:
        rows, *last = run(x, torch.tensor(layout.sizes), hx, flat, *options)
    else:
        rows, *last = run(x.view(len(layout.sizes), layout.batch, -1), hx, flat, *options, False)
        rows = rows.flatten(0, 1)
    ends = [by_name([state[at] for state in last]) for at in range(len(weights))]
    return [(hidden, end, None) for hidden, end in zip(rows.chunk(len(weights), dim=1), ends, strict=True)]


def run_stack(
    module: Any,
    kind: str,
    form: Form | None,
    layout: Layout,
    rows: Tensor,
    initial: Mapping[str, Mapping[str, Tensor]],
    weights: Mapping[str, Weights],
    slots: Mapping[str, Slot],
    keep: bool,
) -> tuple[list[Ran], Tensor]:
    """A whole stack: layers and directions that have a slot by the equations, all others by their own kernel.

    Parameters
    ----------
    initial : mapping of str to mapping of str to Tensor ``(batch, unit)``
        The states that each layer and direction starts from, by suffix, in the order of the rows.
    keep : bool
        Whether all signals are kept.

    Returns
    -------
    What each layer and direction computed, and the hidden states of the top ``(rows, directions * state)``.
    """
    names, directions = suffixes(module), 2 if module.bidirectional else 1
    found: list[Ran] = []
    for layer in range(module.num_layers):
        here = names[layer * directions : (layer + 1) * directions]
        if layer and draws(module):
            rows = torch.dropout(rows, module.dropout, True)
        plain: Sequence[Any] = [None] * directions
        if not all(suffix in slots for suffix in here):
            plain = by_kernel(module, kind, layout, rows, [initial[s] for s in here], [weights[s] for s in here], form, keep=keep)
        for suffix, by in zip(here, plain, strict=True):
            reverse, start, own = suffix.endswith("_reverse"), initial[suffix], weights[suffix]
            if suffix in slots:
                walked = by_equations(stepper(kind, form, own), read(rows, own), start, layout.sizes, reverse, slots[suffix], keep)
                found.append(Ran(suffix, reverse, own, rows, start, walked.signals["hidden_state"], walked.last, walked))
            else:
                hidden, last, saved = by
                found.append(Ran(suffix, reverse, own, rows, start, hidden, last, saved=saved))
        rows = torch.cat([ran.hidden for ran in found[-directions:]], dim=1) if directions == 2 else found[-1].hidden
    return found, rows
