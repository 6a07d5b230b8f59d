"""A whole sequence of one layer, forward and backward, in bulk operations of PyTorch.

Rows are steps one after the other, as in `torch.nn.utils.rnn.PackedSequence`: ``sizes[t]`` rows for step t. A padded
batch is the case where all sizes are equal. Three things make this faster than the readable step: the input meets its
weights in one product for all steps; the hidden and the cell state lie side by side, so that both recurrent products of the
default form are one; and the weight gradients are one product each, after the loop. `native.layer` does the same, faster.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lstm_explain.nn.equations import Form, Weights, peephole_of


class Lines(NamedTuple):
    """What an input gives to the gates, biases and all, where each row is on a straight line: ``start + place * step``.

    ``start`` and ``step (lines, 4*hidden)``; ``of_row (rows,)``, of int64, says which line each row is on, and ``place (rows,)`` where.
    """

    start: Tensor
    step: Tensor
    of_row: Tensor
    place: Tensor


class Saved(NamedTuple):
    """What a sequence computed, which is also all that its gradient needs; nobody else writes into it.

    ``gates (rows, 4, hidden)`` after their nonlinearity, in the order i, f, g, o; ``cell (rows, hidden)`` and
    ``hidden (rows, state)`` after each step. Of lines no rows of ``hidden``, which only gradients of weights need.
    """

    gates: Tensor
    cell: Tensor
    hidden: Tensor


class Computed(NamedTuple):
    """A sequence's hidden states ``(rows, state)``, its last h and last c, and what it saved, where it was asked to."""

    hidden: Tensor
    last_h: Tensor
    last_c: Tensor
    saved: Saved | None


class Gradients(NamedTuple):
    """Gradients in the order of the inputs; None where none was asked for. That of lines is their start's."""

    x: Tensor | None
    h0: Tensor
    c0: Tensor
    weights: Weights


def steps_of(sizes: Sequence[int], reverse: bool) -> Iterator[tuple[slice, int]]:
    """The rows of each step, in the order in which the layer reads them."""
    stop = sum(sizes) if reverse else 0
    for n in reversed(sizes) if reverse else sizes:
        if reverse:
            yield slice(stop - n, stop), n
            stop -= n
        else:
            yield slice(stop, stop + n), n
            stop += n


def before(after: Tensor, initial: Tensor, sizes: Sequence[int], reverse: bool) -> Tensor:
    """The state that each row started from, ``(rows, state)``, from the states after it and those before the first step."""
    batch, rows = sizes[0], len(after)
    if sizes[-1] == batch:
        return torch.cat([after[batch:], initial] if reverse else [initial, after[: rows - batch]])
    parts: list[list[Tensor]] = []
    last, state = 0, after[:0]
    for at, n in steps_of(sizes, reverse):
        parts.append([state[:n], initial[last:n]])  # read backwards, shorter sequences begin later
        last, state = n, after[at]
    return torch.cat([part for step in (reversed(parts) if reverse else parts) for part in step])


def _by_step(rows: Tensor | None, sizes: Sequence[int]) -> Sequence[Any]:
    """Views of every step at once: one at a time they cost as much as the arithmetic of a small layer. None of none."""
    return [None] * len(sizes) if rows is None else rows.split(list(sizes))


def _recurrent(weights: Weights, form: Form) -> Tensor:
    """The matrix that meets [h, c] at each step: ``(4*hidden, state + hidden)`` when all four gates see c_{t-1} in full."""
    if form == Form("full", "previous") and weights.weight_ch is not None:
        return torch.cat([weights.weight_hh, weights.weight_ch], dim=1)
    return weights.weight_hh


def forward(
    x: Tensor | Lines, h0: Tensor, c0: Tensor, weights: Weights, form: Form, sizes: Sequence[int], reverse: bool, *, keep: bool
) -> Computed:
    """Run a sequence; shapes as in `lstm_explain.nn.equations.unroll`. `keep` asks for what it saves."""
    W_x, _, b_x, b_h, W_c, W_r = weights
    rows, P, H = sum(sizes), h0.shape[1], c0.shape[1]
    W_rec = _recurrent(weights, form).T
    K = W_rec.shape[0]
    W_ci_cf = W_c[: 2 * H].T if form == Form("full", "graves") and W_c is not None else None
    p_c = W_c[: 4 if form.wiring == "previous" else 2] if form.peephole == "diagonal" and W_c is not None else None
    W_co = peephole_of("o", W_c, form) if form.wiring == "graves" else None

    if isinstance(x, Lines):
        gates = torch.addcmul(x.start[x.of_row], x.step[x.of_row], x.place.unsqueeze(1))
    elif b_x is None or b_h is None:
        gates = x @ W_x.T
    else:
        gates = torch.addmm(b_x + b_h, x, W_x.T)
    states = gates.new_empty(rows, P + H)
    peeping = None if p_c is None else gates.view(rows, 4, H)[:, : len(p_c)]
    parts = gates, gates[:, : 2 * H], *gates.split(H, dim=1), peeping, states[:, :K], states[:, :P], states[:, P:]
    steps = list(zip(sizes, *(_by_step(part, sizes) for part in parts), strict=True))
    size = sizes[-1] if reverse else sizes[0]
    h_seen, c_seen, ended = h0[:size], c0[:size], list[tuple[Tensor, Tensor]]()
    seen = torch.cat([h_seen, c_seen], dim=1)[:, :K]
    for n, z, i_f, i, f, g, o, z_p, now, h, c in reversed(steps) if reverse else steps:
        if n < size:
            ended.append((h_seen[n:], c_seen[n:]))
            seen, h_seen, c_seen = seen[:n], h_seen[:n], c_seen[:n]
        elif n > size:  # read backwards, shorter sequences begin later
            h_seen, c_seen = torch.cat([h_seen, h0[size:n]]), torch.cat([c_seen, c0[size:n]])
            seen = torch.cat([h_seen, c_seen], dim=1)[:, :K]
        size = n
        z.addmm_(seen, W_rec)
        if z_p is not None:
            z_p.addcmul_(c_seen.unsqueeze(1), p_c)
        elif W_ci_cf is not None:
            i_f.addmm_(c_seen, W_ci_cf)
        i_f.sigmoid_()
        g.tanh_()
        c.copy_(c_seen).mul_(f).addcmul_(i, g)  # in place, which costs less than out=
        if W_co is not None:
            if form.peephole == "full":
                o.addmm_(c, W_co.T)
            else:
                o.addcmul_(c, W_co)
        o.sigmoid_()
        if W_r is None:
            h.copy_(c).tanh_().mul_(o)
        else:
            torch.mm(torch.tanh(c).mul_(o), W_r.T, out=h)
        seen, h_seen, c_seen = now, h, c
    last_h, last_c = (torch.cat(parts) for parts in zip((h_seen, c_seen), *reversed(ended), strict=True))
    hidden, cell = (part.contiguous() for part in states.split([P, H], dim=1))
    saved = Saved(gates.view(rows, 4, H), cell, hidden[:0] if isinstance(x, Lines) else hidden.clone()) if keep else None
    return Computed(hidden, last_h, last_c, saved)


def backward(
    saved: Saved,
    x: Tensor | Lines,
    h0: Tensor,
    c0: Tensor,
    weights: Weights,
    form: Form,
    sizes: Sequence[int],
    reverse: bool,
    grad_hidden: Tensor | None,
    grad_last_h: Tensor | None,
    grad_last_c: Tensor | None,
    needs: Sequence[bool],
) -> Gradients:
    """Gradients of a sequence with respect to its input, its initial state and its weights.

    `needs` has one flag for each of x, h0, c0 and the six fields of `Weights`, in that order. From lines none is
    wanted of weights.
    """
    W_x, W_h, _, _, W_c, W_r = weights
    gates, cell, hidden = saved
    rows, _, H = gates.shape
    P = W_h.shape[1]
    i, f, g, o = gates.unbind(1)
    W_rec = _recurrent(weights, form)
    K = W_rec.shape[1]
    c_seen = before(cell, c0, sizes, reverse)
    W_ci_cf = W_c[: 2 * H] if form == Form("full", "graves") and W_c is not None else None
    p_c = W_c[: 4 if form.wiring == "previous" else 2] if form.peephole == "diagonal" and W_c is not None else None
    W_co = peephole_of("o", W_c, form) if form.wiring == "graves" else None

    # d_z starts as the local slopes of i, f and g with respect to c_t, and of o with respect to m_t = o ⊙ tanh(c_t).
    tanh_c = torch.tanh(cell)
    d_z = torch.empty_like(gates)
    torch.mul(g, i * (1 - i), out=d_z[:, 0])
    torch.mul(c_seen, f * (1 - f), out=d_z[:, 1])
    torch.mul(i, 1 - g * g, out=d_z[:, 2])
    torch.mul(tanh_c, o * (1 - o), out=d_z[:, 3])
    m_by_c = o * (1 - tanh_c * tanh_c)
    d_h_rows = gates.new_empty(rows, P) if W_r is not None else None

    batch = max(sizes)
    d_state = gates.new_zeros(batch, P + H)
    if grad_last_h is not None:
        d_state[:, :P] = grad_last_h
    if grad_last_c is not None:
        d_state[:, P:] = grad_last_c
    flat = d_z.view(rows, 4 * H)
    z_p_rows = None if p_c is None else d_z[:, : len(p_c)]
    z_if_rows = None if W_ci_cf is None else flat[:, : 2 * H]
    taken = flat, d_z[:, 3], d_z[:, :3], z_if_rows, z_p_rows, f, m_by_c, grad_hidden, d_h_rows
    steps, n = list(zip(*(_by_step(rows_of, sizes) for rows_of in taken), strict=True)), -1
    for z, z_o, z_ifg, z_if, z_p, f_now, slope, d_out, d_h_row in steps if reverse else reversed(steps):
        if n != len(z):
            n = len(z)
            d_h, d_c, d_seen = d_state[:n, :P], d_state[:n, P:], d_state[:n, :K]
            d_c_wide = d_c.unsqueeze(1)
        if d_out is not None:
            d_h += d_out
        d_m = d_h
        if d_h_row is not None and W_r is not None:
            d_h_row.copy_(d_h)
            d_m = d_h @ W_r
        z_o.mul_(d_m)
        d_c.addcmul_(d_m, slope)
        if W_co is not None:
            d_c += z_o @ W_co if form.peephole == "full" else z_o * W_co
        z_ifg.mul_(d_c_wide)
        d_c.mul_(f_now)
        if z_p is not None:
            d_c += (z_p * p_c).sum(1)
        elif W_ci_cf is not None and z_if is not None:
            d_c.addmm_(z_if, W_ci_cf)
        d_h.zero_()
        d_seen.addmm_(z, W_rec)

    need_x, _, _, need_W_x, need_W_h, need_b_x, need_b_h, need_W_c, need_W_r = needs
    d_W_rec = None
    if need_W_h or (need_W_c and K > P):
        h_seen = before(hidden, h0, sizes, reverse)
        d_W_rec = flat.T @ (h_seen if K == P else torch.cat([h_seen, c_seen], dim=1))
    d_b = flat.sum(0) if need_b_x or need_b_h else None
    d_W_c = None
    if need_W_c and W_c is not None:
        if d_W_rec is not None and K > P:
            d_W_c = d_W_rec[:, P:]
        else:
            parts = []
            for gate in form.peephole_rows:
                d_gate = d_z[:, "ifgo".index(gate)]
                c_of_gate = cell if gate == "o" and form.wiring == "graves" else c_seen
                parts.append(d_gate.T @ c_of_gate if form.peephole == "full" else (d_gate * c_of_gate).sum(0, keepdim=True))
            d_W_c = torch.cat(parts)
    d_x = None
    if need_x:
        d_x = torch.zeros_like(x.start).index_add_(0, x.of_row, flat) if isinstance(x, Lines) else flat @ W_x
    return Gradients(
        x=d_x,
        h0=d_state[:, :P],
        c0=d_state[:, P:],
        weights=Weights(
            weight_ih=flat.T @ x if need_W_x and not isinstance(x, Lines) else None,  # type: ignore[arg-type]
            weight_hh=d_W_rec[:, :P] if need_W_h and d_W_rec is not None else None,  # type: ignore[arg-type]
            bias_ih=d_b if need_b_x else None,
            bias_hh=d_b if need_b_h else None,
            weight_ch=d_W_c,
            weight_hr=d_h_rows.T @ (o * tanh_c) if need_W_r and d_h_rows is not None else None,
        ),
    )
