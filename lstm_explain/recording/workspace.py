"""The gates where the fused kernel has left them: in oneDNN's workspace, which autograd keeps for the backward pass.

On the CPU, in float32 and with gradients enabled, `torch.nn.LSTM` runs oneDNN in training mode, and each layer's node in the
graph holds a buffer with every gate after its nonlinearity and every cell state. How they lie in it isn't documented and
depends on the shape, so it is learnt: when a shape comes again, the gates are replayed and looked for in the buffer. What is read
afterwards is held against c = f c + i g and h = o tanh(c) like everything else, and replayed where that doesn't hold.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lstm_explain.nn.equations import Step
from lstm_explain.nn.kernels import native
from lstm_explain.nn.kernels.native import Found
from lstm_explain.nn.kernels.native.memory import empty
from lstm_explain.nn.layers import suffixes, weights_of
from lstm_explain.nn.layout import Layout
from lstm_explain.recording.opened import saved_elsewhere

_NODE = "MkldnnRnnLayerBackward0"
_FAR = 1e-5
"""Farther from what was replayed than this, a value in the buffer is another one."""
_PADDED = 256
"""Rows are padded by fewer values than this."""


class Place(NamedTuple):
    """Where a buffer has what, counted in values: gates from its beginning, rows padded to a stride; cell states from an offset."""

    gate_stride: int
    cell_offset: int
    cell_stride: int


_PLACES: dict[tuple[int, ...], Place | None] = {}
"""By shape; None where the search found nothing."""
_SEEN: set[tuple[int, ...]] = set()
"""Shapes that came once: the search costs more than a replay, so it waits for the second time."""


class Left(NamedTuple):
    """What one layer and direction left behind: its buffer, its hidden states ``(rows, hidden)``, and its last cell state."""

    buffer: Tensor
    hidden: Tensor
    shape: tuple[int, ...]


def left_behind(module: nn.LSTM, output: Any, layout: Layout) -> list[Left] | None:
    """What every layer and direction of a call has left in the graph, or None where it isn't all there."""
    if not isinstance(output, Tensor) or output.dtype != torch.float32 or output.device.type != "cpu" or output.grad_fn is None:
        return None
    if module.proj_size or saved_elsewhere():
        return None
    names = suffixes(module)
    at = {weights_of(module, suffix).weight_ih.data_ptr(): suffix for suffix in names}
    nodes: dict[str, Any] = {}
    ahead: list[Any] = [output.grad_fn]
    steps = 0
    while ahead and len(nodes) < len(names) and steps < 16 * len(names):
        node, steps = ahead.pop(0), steps + 1
        if node.name() == _NODE and (suffix := at.get(node._saved_weight0.data_ptr())) is not None:
            nodes[suffix] = node
        ahead += [below for below, _ in node.next_functions if below is not None]
    if len(nodes) < len(names):
        return None
    time, batch = len(layout.sizes), layout.batch
    found = []
    for suffix in names:
        node = nodes[suffix]
        buffer, read = node._saved_result3, node._saved_input
        if buffer.numel() % 4 or read.shape[:2] != (time, batch):
            return None
        shape = (time, batch, read.shape[2], module.hidden_size, int(suffix.endswith("_reverse")))
        found.append(Left(buffer.flatten().view(torch.float32), node._saved_result0.detach().flatten(0, 1), shape))
    return found


def known(left: Left) -> bool:
    """Whether the place of everything is known for a buffer of this shape, or is known not to be found."""
    return left.shape in _PLACES


def learn(left: Left, computed: Step) -> None:
    """Look in a buffer for what was replayed, rows ``(rows, hidden)`` in the order of time, and remember where it is.

    It is done when a shape comes for the second time: batches of ever new lengths are replayed.
    """
    if left.shape in _SEEN:
        _PLACES[left.shape] = _search(left, computed)
    _SEEN.add(left.shape)


def _search(left: Left, computed: Step) -> Place | None:
    time, batch, _, hidden, reverse = left.shape
    rows, buffer = time * batch, left.buffer

    def in_order(signal: Tensor) -> Tensor:
        """Rows in the order in which the layer read them."""
        return signal.view(time, batch, hidden).flip(0).flatten(0, 1) if reverse else signal

    gates = torch.cat([in_order(signal) for signal in computed[:4]], dim=1)
    strides = [s for s in range(4 * hidden, 4 * hidden + _PADDED) if rows * s <= buffer.numel() and _fits(buffer, 0, s, gates)]
    if not strides or time < 3:
        return None
    cell = in_order(computed.cell_state)[:-batch]  # the last one isn't in it
    start = rows * strides[0]
    begins = ((buffer[start : buffer.numel() - cell.numel() + 1] - cell[0, 0]).abs() <= _FAR).nonzero().flatten() + start
    for offset in begins.tolist():
        for stride in range(hidden, hidden + _PADDED):
            if offset + len(cell) * stride <= buffer.numel() + stride - hidden and _fits(buffer, offset, stride, cell):
                return Place(strides[0], offset, stride)
    return None


def _fits(buffer: Tensor, offset: int, stride: int, rows: Tensor) -> bool:
    """Whether rows lie in a buffer at an offset and with a stride: the second one first, which tells most others apart."""
    width = rows.shape[1]
    second = buffer[offset + stride : offset + stride + width]
    if len(second) < width or (second - rows[1]).abs().max() > _FAR:
        return False
    whole = buffer.as_strided((len(rows), width), (stride, 1), buffer.storage_offset() + offset)
    return bool((whole - rows).abs().max() <= _FAR)


class Read(NamedTuple):
    """What was read of one layer and direction; `found` where the compiled kernels have checked it on the way."""

    signals: Step
    found: Found | None


def read(left: Left, last_c: Tensor, initial_c: Tensor, *, copy: bool) -> Read | None:
    """Every signal of a layer from its buffer, gates as views where they can be; None where it isn't known how.

    `copy` is whether its hidden states are somebody else's, who may write into them.
    """
    place = _PLACES.get(left.shape)
    if place is None:
        return None
    time, batch, _, hidden, reverse = left.shape
    begin = left.buffer.storage_offset()
    gates = left.buffer.as_strided((time * batch, 4 * hidden), (place.gate_stride, 1), begin)
    cell = left.buffer.as_strided(((time - 1) * batch, hidden), (place.cell_stride, 1), begin + place.cell_offset)

    def in_time(rows: Tensor) -> Tensor:
        """Rows in the order of time, which are in the order in which the layer read."""
        return rows.unflatten(0, (time, batch)).flip(0).flatten(0, 1) if reverse else rows

    if native.serves(gates, left.hidden, last_c, initial_c):
        kept_c = empty(gates, time * batch, hidden)
        kept_h = empty(gates, time * batch, hidden) if copy else None
        sizes = (batch,) * time
        found = native.lstm_check(
            gates, cell, last_c.contiguous(), initial_c.contiguous(), left.hidden, kept_c, kept_h, sizes, bool(reverse)
        )
        h = left.hidden if kept_h is None else kept_h
    else:
        found, kept_c = None, in_time(torch.cat([cell, last_c]))
        h = left.hidden.clone() if copy else left.hidden
    i, f, g, o = in_time(gates).unflatten(1, (4, hidden)).unbind(1)
    return Read(Step(i, f, g, o, kept_c, h), found)
