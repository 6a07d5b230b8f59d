"""What a sequence computed inside, from its input and the hidden states that came out of it.

With the hidden states known at every step nothing is recurrent but the cell state: the gates of all steps are two matrix
products, and the cell state is a scan. Rows are steps one after the other, as in `lstm_explain.nn.kernels.sequence`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lstm_explain.nn.equations import GRUStep, Step, Weights, gru_step
from lstm_explain.nn.kernels import native
from lstm_explain.nn.kernels.native import Found
from lstm_explain.nn.kernels.native.memory import empty
from lstm_explain.nn.kernels.sequence import before, steps_of

_NARROW = 1024
"""States with no more values are scanned in rounds rather than in steps."""

_ROUNDINGS = 8
"""Roundings in one step of a cell state, those inside its gates' nonlinearities included."""


def last(after: Tensor, initial: Tensor, sizes: Sequence[int], reverse: bool) -> Tensor:
    """The state that each sequence ended with, ``(batch, state)``."""
    if reverse:
        return after[: sizes[0]]
    if sizes[-1] == sizes[0]:
        return after[-sizes[0] :]
    state = initial
    for at, n in steps_of(sizes, reverse):
        state = torch.cat([after[at], state[n:]])
    return state


def _add_recurrent(z: Tensor, hidden: Tensor, h0: Tensor, W_h: Tensor, sizes: Sequence[int], reverse: bool) -> None:
    batch, rows = sizes[0], len(hidden)
    if sizes[-1] != batch:
        z.addmm_(before(hidden, h0, sizes, reverse), W_h.T)
        return
    # All steps are as wide as the first: what a row started from is the row one step away, and nothing need be moved.
    first, rest = (slice(rows - batch, rows), slice(0, rows - batch)) if reverse else (slice(0, batch), slice(batch, rows))
    z[first].addmm_(h0, W_h.T)
    z[rest].addmm_(hidden[batch:] if reverse else hidden[: rows - batch], W_h.T)


def _scan(kept: Tensor, added: Tensor, initial: Tensor, sizes: Sequence[int], reverse: bool) -> Tensor:
    """``state_t = kept_t ⊙ state_{t-1} + added_t``, written over `added`; returns the last state ``(batch, unit)``."""
    state = initial
    if sizes[-1] == sizes[0] and state.numel() <= _NARROW:
        return _doubled(kept, added, initial, sizes[0], reverse)
    if sizes[-1] == sizes[0]:
        steps = list(zip(kept.split(sizes[0]), added.split(sizes[0]), strict=True))
        for k, a in reversed(steps) if reverse else steps:
            state = a.addcmul_(k, state)
        return state
    for at, n in steps_of(sizes, reverse):
        now = added[at].addcmul_(kept[at], state[:n])
        state = now if n == len(state) else torch.cat([now, state[n:]])
    return state


def _doubled(kept: Tensor, added: Tensor, initial: Tensor, batch: int, reverse: bool) -> Tensor:
    """The same in log2(steps) rounds of the whole sequence (Hillis & Steele 1986): for batches so narrow that a step is all overhead.

    After the round for n, a row holds what its last 2n steps added, and the product of what they kept.
    """
    first, steps = (slice(-batch, None), len(added) // batch) if reverse else (slice(0, batch), len(added) // batch)
    added[first].addcmul_(kept[first], initial)
    kept, n = kept.clone(), 1
    while n < steps:
        later, earlier = slice(n * batch, None), slice(None, -n * batch)
        if reverse:
            later, earlier = earlier, later
        more, kept_longer = kept[later] * added[earlier], kept[later] * kept[earlier]
        added[later] += more
        kept[later] = kept_longer
        n *= 2
    return added[:batch] if reverse else added[-batch:]


def _products(x: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
    if not native.serves(x, W):
        return x @ W.T if b is None else torch.addmm(b, x, W.T)
    z = empty(x, len(x), len(W))
    return torch.mm(x, W.T, out=z) if b is None else torch.addmm(b, x, W.T, out=z)


def lstm(
    x: Tensor, hidden: Tensor, h0: Tensor, c0: Tensor, weights: Weights, sizes: Sequence[int], reverse: bool, *, copy: bool
) -> tuple[Step, Tensor, Found | None]:
    """Every gate and state of an LSTM without peepholes, its last cell state ``(batch, hidden)``, and what compiled kernels have checked.

    Parameters
    ----------
    x : Tensor ``(rows, input)``
    hidden : Tensor ``(rows, state)``
        What came out.
    h0, c0 : Tensor ``(batch, state)``, ``(batch, hidden)``
    copy : bool
        Whether the hidden states are somebody else's, who may write into them.
    """
    W_x, W_h, b_x, b_h, _, W_r = weights
    H = c0.shape[1]
    z = _products(x, W_x, None if b_x is None or b_h is None else b_x + b_h)
    _add_recurrent(z, hidden, h0, W_h, sizes, reverse)
    i, f, g, o = z.view(len(z), 4, H).unbind(1)
    if native.serves(z, hidden, c0) and hidden.stride(1) == 1:
        cell, last_c = empty(z, len(z), H), c0.clone(memory_format=torch.contiguous_format)
        kept = empty(z, len(z), H) if copy and W_r is None else None
        found = native.lstm_replay(z, cell, last_c, hidden if W_r is None else None, kept, sizes, reverse)
        ours = hidden.clone() if kept is None and copy else hidden if kept is None else kept
        return Step(i, f, g, o, cell, ours), last_c, found if W_r is None else None
    z[:, : 2 * H].sigmoid_()
    z[:, 2 * H : 3 * H].tanh_()
    z[:, 3 * H :].sigmoid_()
    cell = i * g
    last_c = _scan(f, cell, c0, sizes, reverse)
    return Step(i, f, g, o, cell, hidden.clone() if copy else hidden), last_c, None


def gru(
    x: Tensor, hidden: Tensor, h0: Tensor, weights: Weights, sizes: Sequence[int], reverse: bool, *, copy: bool
) -> tuple[GRUStep, Found | None]:
    """Every gate of a GRU, arguments as in `lstm`, and what the compiled kernels have checked."""
    W_x, W_h, b_x, b_h, _, _ = weights
    H = h0.shape[1]
    if native.serves(x, hidden, h0) and hidden.stride(1) == 1:
        z, recurrent = _products(x, W_x, b_x), _products(before(hidden, h0, sizes, reverse), W_h, b_h)
        kept = empty(x, len(x), H) if copy else None
        found = native.gru_replay(z, recurrent, h0.contiguous(), hidden, kept, sizes, reverse)
        r, u, n = z.view(len(z), 3, H).unbind(1)
        return GRUStep(r, u, n, hidden if kept is None else kept), found
    now = gru_step(x, before(hidden, h0, sizes, reverse), weights)
    return now._replace(hidden_state=hidden.clone() if copy else hidden), None


def rounding(computed: Step, c0: Tensor, sizes: Sequence[int], reverse: bool, dtype: torch.dtype) -> Tensor:
    """What rounding alone may add up to in an LSTM's cell state, ``(rows, hidden)``: each step rounds, and the next ones keep f of it."""
    i, f, g, _, c, _ = (signal.double().nan_to_num(0.0, 0.0, 0.0) for signal in computed)
    error = _ROUNDINGS * torch.finfo(dtype).eps * (c.abs() + (i * g).abs())
    _scan(f, error, torch.zeros_like(c0, dtype=torch.float64), sizes, reverse)
    return error
