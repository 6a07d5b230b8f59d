"""A whole sequence of one layer and direction, forward and backward, by the compiled kernels; the same as `kernels.sequence`, faster.

Forward is one call. Backward is one call for some steps at a time: between two of them what the pre-activations of these steps had to
do with the loss meets inputs and states in bulk products of PyTorch's, while it is still in the cache.
"""

import ctypes
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from lstm_explain.nn.equations import Form, Weights
from lstm_explain.nn.kernels import native
from lstm_explain.nn.kernels.native import Found
from lstm_explain.nn.kernels.native.calls import Layout
from lstm_explain.nn.kernels.native.memory import empty
from lstm_explain.nn.kernels.sequence import Computed, Gradients, Lines, Saved, before, steps_of

_CHUNK = 1 << 22
"""Bytes of pre-activations' gradients between two bulk products."""


class Layer(ctypes.Structure):
    """A layer in one direction, and of an LSTM its form."""

    _fields_ = [
        ("layout", Layout),
        *((name, ctypes.c_long) for name in ("features", "state")),
        *((name, ctypes.c_int) for name in ("kind", "peephole", "wiring", "projects")),
    ]


class _Lines(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_void_p) for name in ("start", "step", "of_row", "place")), ("count", ctypes.c_long)]


class _Step(ctypes.Structure):
    _fields_ = [(name, ctypes.c_long) for name in ("read", "row", "size")]


class _Forward(ctypes.Structure):
    _fields_ = [
        ("form", Layer),
        ("lines", _Lines),
        ("x", ctypes.c_void_p),
        ("x_row", ctypes.c_long),
        *((name, ctypes.c_void_p) for name in ("h0", "c0", "weight_ih", "weight_hh", "bias", "weight_ch", "weight_hr")),
        *((name, ctypes.c_void_p) for name in ("gates", "cell", "hidden", "kept_hidden", "last_h", "last_c", "room")),
    ]


class _Backward(ctypes.Structure):
    _fields_ = [
        ("form", Layer),
        ("lines", _Lines),
        ("last", _Step),
        ("stop", ctypes.c_long),
        ("first_row", ctypes.c_long),
        *((name, ctypes.c_void_p) for name in ("gates", "cell", "c0", "grad_hidden")),
        ("grad_stride", ctypes.c_long),
        *((name, ctypes.c_void_p) for name in ("weight_hh", "weight_ch", "weight_hr")),
        *((name, ctypes.c_void_p) for name in ("d_h", "d_c", "d_start", "d_z", "d_h_rows", "m", "sums", "room")),
    ]


CALLS = _Forward, _Backward


def entries(name: str) -> tuple[Callable[..., int], Callable[..., None]]:
    """How much room a kernel needs, and the kernel."""
    library = native.library()
    room, run = getattr(library, f"lx_{name}_room"), getattr(library, f"lx_{name}_run")
    room.restype, run.restype = ctypes.c_long, None
    return room, run


def _form(form: Form, weights: Weights, sizes: Sequence[int], reverse: bool) -> Layer:
    (units4, features), state = weights.weight_ih.shape, weights.weight_hh.shape[1]
    layout = native.layout(sizes, units4 // 4, reverse)
    peephole = (None, "diagonal", "full").index(form.peephole if weights.weight_ch is not None else None)
    return Layer(layout, features, state, 0, peephole, ("previous", "graves").index(form.wiring), weights.weight_hr is not None)


def _lines(x: Tensor | Lines) -> _Lines:
    return _Lines(*map(address, x), len(x.start)) if isinstance(x, Lines) else _Lines()


def address(tensor: Tensor | None) -> int | None:
    """Where a tensor's values are; None of none."""
    return None if tensor is None else tensor.data_ptr()


def in_rows(tensor: Tensor) -> Tensor:
    """With the values of each row side by side."""
    return tensor if tensor.stride(1) == 1 else tensor.contiguous()


def _contiguous(weights: Weights) -> Weights:
    return Weights(*(None if weight is None else weight.contiguous() for weight in weights))  # type: ignore[arg-type]


def forward(
    x: Tensor | Lines, h0: Tensor, c0: Tensor, weights: Weights, form: Form, sizes: Sequence[int], reverse: bool, *, keep: bool
) -> Computed:
    """As `lstm_explain.nn.kernels.sequence.forward`."""
    weights = _contiguous(weights)
    W_x, W_h, b_x, b_h, W_c, W_r = weights
    x = Lines(*(part.contiguous() for part in x)) if isinstance(x, Lines) else in_rows(x)
    h0, c0 = h0.contiguous(), c0.contiguous()
    rows, P, H = sum(sizes), h0.shape[1], c0.shape[1]
    bias = None if b_x is None or b_h is None else b_x + b_h
    gates, cell = (empty(h0, rows, 4, H), empty(h0, rows, H)) if keep else (None, None)
    kept = empty(h0, rows, P) if keep and not isinstance(x, Lines) else None  # only gradients of weights need them
    hidden, last_h, last_c = empty(h0, rows, P), torch.empty_like(h0), torch.empty_like(c0)
    lstm, is_double, threads = _form(form, weights, sizes, reverse), h0.dtype == torch.float64, torch.get_num_threads()
    room_for, run = entries("lstm_forward")
    room = torch.empty(room_for(ctypes.byref(lstm), is_double, threads), dtype=torch.uint8)
    tensors = (h0, c0, W_x, W_h, bias, W_c, W_r, gates, cell, hidden, kept, last_h, last_c, room)
    input = (None, 0) if isinstance(x, Lines) else (x.data_ptr(), x.stride(0))
    call = _Forward(lstm, _lines(x), *input, *map(address, tensors))
    run(ctypes.byref(call), is_double, threads, False)
    saved = None if gates is None or cell is None else Saved(gates, cell, h0[:0] if kept is None else kept)
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
    """As `lstm_explain.nn.kernels.sequence.backward`."""
    weights = _contiguous(weights)
    h0, c0 = h0.contiguous(), c0.contiguous()
    grad_hidden = None if grad_hidden is None else in_rows(grad_hidden)
    d_h, d_c = torch.empty_like(h0), torch.empty_like(c0)
    for d, grad in ((d_h, grad_last_h), (d_c, grad_last_c)):
        d.zero_() if grad is None else d.copy_(grad)
    if isinstance(x, Lines):
        d_start = _to_lines(saved, x, c0, weights, form, sizes, reverse, grad_hidden, d_h, d_c)
        return Gradients(d_start, d_h, d_c, Weights(*(None,) * 6))  # type: ignore[arg-type]
    W_x, W_h, _, _, W_c, W_r = weights
    gates, cell, hidden = saved
    P, H = hidden.shape[1], cell.shape[1]
    need_x, _, _, need_W_x, need_W_h, need_b_x, need_b_h, need_W_c, need_W_r = needs
    chunks = list(_chunks(sizes, reverse, max(1, _CHUNK // (4 * H * x.element_size()))))
    most = max(at.stop - at.start for at, *_ in chunks)
    d_z, projects = gates.new_empty(most, 4 * H), need_W_r and W_r is not None
    d_h_rows, m = (gates.new_empty(most, P), gates.new_empty(most, H)) if projects else (None, None)
    lstm, is_double, threads = _form(form, weights, sizes, reverse), x.dtype == torch.float64, torch.get_num_threads()
    room_for, run = entries("lstm_backward")
    room = torch.empty(room_for(ctypes.byref(lstm), is_double, threads), dtype=torch.uint8)
    sums = gates.new_zeros(min(threads, sizes[0]), 8, H)

    h_seen, c_seen = _seen(hidden, h0, sizes, reverse), _seen(cell, c0, sizes, reverse)
    full = W_c is not None and form.peephole == "full"
    d_x = empty(x, *x.shape) if need_x else None
    # Transposed: PyTorch's products are faster that way round.
    d_W_x = x.new_zeros(x.shape[1], 4 * H) if need_W_x else None
    d_W_h = x.new_zeros(P, 4 * H) if need_W_h else None
    d_W_c = x.new_zeros(H, len(W_c)) if need_W_c and W_c is not None and full else None
    d_W_r = x.new_zeros(H, P) if projects else None
    total = gates.new_zeros(8, H)
    stride = 0 if grad_hidden is None else grad_hidden.stride(0)
    before_rows = gates, cell, c0, grad_hidden
    tensors = W_h, W_c, W_r, d_h, d_c, None, d_z, d_h_rows, m, sums, room
    for number, (at, last, stop) in enumerate(chunks):
        call = _Backward(lstm, _Lines(), last, stop, at.start, *map(address, before_rows), stride, *map(address, tensors))
        run(ctypes.byref(call), is_double, threads, number > 0)
        total += sums.sum(0)
        sums.zero_()
        d = d_z[: at.stop - at.start]
        if d_x is not None:
            torch.mm(d, W_x, out=d_x[at])
        if d_W_x is not None:
            d_W_x.addmm_(x[at].T, d)
        if d_W_h is not None:
            d_W_h.addmm_(h_seen(at).T, d)
        if d_W_c is not None and form.wiring == "previous":
            d_W_c.addmm_(c_seen(at).T, d)
        elif d_W_c is not None:
            d_W_c[:, : 2 * H].addmm_(c_seen(at).T, d[:, : 2 * H])
            d_W_c[:, 2 * H :].addmm_(cell[at].T, d[:, 3 * H :])
        if d_W_r is not None and d_h_rows is not None and m is not None:
            d_W_r.addmm_(m[: len(d)].T, d_h_rows[: len(d)])
    by_peephole = _transposed(d_W_c)
    if need_W_c and W_c is not None and not full:
        by_peephole = total[4 : 4 + len(W_c)]
    d_b = total[:4].flatten()
    by_bias = d_b if need_b_x else None, d_b if need_b_h else None
    by_weights = _transposed(d_W_x), _transposed(d_W_h), *by_bias, by_peephole, _transposed(d_W_r)
    return Gradients(d_x, d_h, d_c, Weights(*by_weights))  # type: ignore[arg-type]


def _to_lines(
    saved: Saved,
    lines: Lines,
    c0: Tensor,
    weights: Weights,
    form: Form,
    sizes: Sequence[int],
    reverse: bool,
    grad_hidden: Tensor | None,
    d_h: Tensor,
    d_c: Tensor,
) -> Tensor:
    """The gradient of the lines' start, in one call: rows are added to their lines step by step, and need no memory of their own."""
    gates, cell, _ = saved
    lines = Lines(*(part.contiguous() for part in lines))
    lstm, is_double, threads = _form(form, weights, sizes, reverse), c0.dtype == torch.float64, torch.get_num_threads()
    room_for, run = entries("lstm_backward")
    room = torch.empty(room_for(ctypes.byref(lstm), is_double, threads), dtype=torch.uint8)
    mine = min(threads, sizes[0])
    d_start, sums = c0.new_zeros(mine, *lines.start.shape), c0.new_zeros(mine, 8, cell.shape[1])
    d_z = c0.new_empty(sizes[0], lines.start.shape[1])
    ((_, last, stop),) = _chunks(sizes, reverse, sum(sizes))
    stride = 0 if grad_hidden is None else grad_hidden.stride(0)
    tensors = weights.weight_hh, weights.weight_ch, weights.weight_hr, d_h, d_c, d_start, d_z, None, None, sums, room
    before_rows = gates, cell, c0, grad_hidden
    call = _Backward(lstm, _lines(lines), last, stop, 0, *map(address, before_rows), stride, *map(address, tensors))
    run(ctypes.byref(call), is_double, threads, False)
    return d_start[0] if mine == 1 else d_start.sum(0)


def held(saved: Saved, x: Tensor, h0: Tensor, c0: Tensor, weights: Weights, form: Form, sizes: Sequence[int], reverse: bool) -> Found:
    """Everything that a forward pass without projection has saved, held against its equations, each row from the states before it.

    Pre-activations are made once more, by PyTorch's products.
    """
    W_x, W_h, b_x, b_h, W_c, _ = _contiguous(weights)
    gates, cell, hidden = saved
    rows, _, H = gates.shape
    full = W_c is not None and form.peephole == "full"
    bias = None if b_x is None or b_h is None else b_x + b_h
    h_seen, c_seen = _seen(hidden, h0, sizes, reverse), _seen(cell, c0, sizes, reverse)
    most = max(1, _CHUNK // (4 * H * x.element_size()) // sizes[0]) * sizes[0]  # whole steps
    z, found = x.new_empty(min(most, rows), 4 * H), []
    for start in range(0, rows, most):
        at = slice(start, min(start + most, rows))
        part, h, c = z[: at.stop - start], h_seen(at), c_seen(at)
        torch.mm(x[at], W_x.T, out=part) if bias is None else torch.addmm(bias, x[at], W_x.T, out=part)
        part.addmm_(h, W_h.T)
        if full and W_c is not None and form.wiring == "previous":
            part.addmm_(c, W_c.T)
        elif full and W_c is not None:
            part[:, : 2 * H].addmm_(c, W_c[: 2 * H].T)
            part[:, 3 * H :].addmm_(cell[at], W_c[2 * H :].T)
        found.append(
            native.lstm_held(part, c.contiguous(), None if full else W_c, form.wiring == "graves", gates[at], cell[at], hidden[at])
        )
    return Found(max(one.difference for one in found), max(one.scale for one in found), any(one.nonfinite for one in found))


def _transposed(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.T.contiguous()


def _chunks(sizes: Sequence[int], reverse: bool, most: int) -> Iterator[tuple[slice, _Step, int]]:
    """Some steps at a time, the last read first: their rows, the last of them, and how many are read before the first of them."""
    if (rows := sum(sizes)) <= most:
        last = _Step(len(sizes) - 1, 0, sizes[0]) if reverse else _Step(len(sizes) - 1, rows - sizes[-1], sizes[-1])
        yield slice(0, rows), last, 0
        return
    steps = list(steps_of(sizes, reverse))
    to = len(steps)
    while to:
        begin, count = to - 1, steps[to - 1][1]
        while begin and count + steps[begin - 1][1] <= most:
            begin -= 1
            count += steps[begin][1]
        first, (at, size) = steps[begin][0], steps[to - 1]
        yield slice(min(first.start, at.start), max(first.stop, at.stop)), _Step(to - 1, at.start, size), begin
        to = begin


def _seen(after: Tensor, initial: Tensor, sizes: Sequence[int], reverse: bool) -> Callable[[slice], Tensor]:
    """The states that some rows started from; where all steps are as wide these are other rows, and nothing is copied."""
    batch, rows = sizes[0], len(after)
    if sizes[-1] != batch:
        whole: list[Tensor] = []

        def of(at: slice) -> Tensor:
            if not whole:
                whole.append(before(after, initial, sizes, reverse))
            return whole[0][at]

        return of
    if reverse:
        return lambda at: torch.cat([after[at.start + batch :], initial]) if at.stop == rows else after[at.start + batch : at.stop + batch]
    return lambda at: after[at.start - batch : at.stop - batch] if at.start else torch.cat([initial, after[: at.stop - batch]])
