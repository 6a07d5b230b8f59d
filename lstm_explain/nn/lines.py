"""A sequence run at many places of a straight line between two inputs at once, as one differentiable operation.

What an input gives to the gates, W x + b, is linear in it. So all places of a line take two products with the weights, one for where it
starts and one for how far it goes; and backward the places are summed before they meet the weights again, where gradients are wanted
of the line and not of each place.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lstm_explain.nn.equations import Form, Weights
from lstm_explain.nn.kernels.sequence import Computed, Saved
from lstm_explain.nn.sequence import Call, run_backward, run_forward


class _Lines(torch.autograd.Function):
    """Forward and backward by a kernel; the gradient of `start` is summed over the places."""

    @staticmethod
    def forward(
        ctx: Any, call: Call, start: Tensor, step: Tensor, places: Tensor, order: Tensor | None, *inputs: Tensor | None
    ) -> tuple[Tensor, ...]:
        _, count, gates = start.shape
        if order is None:
            z = torch.addcmul(start.unsqueeze(1), step.unsqueeze(1), places.view(1, -1, 1, 1))
            ctx.index = None
        else:
            of_all = len(places) * count
            ctx.index = order // of_all * count + order % count
            at = places[order // count % len(places)].unsqueeze(1)
            z = torch.addcmul(start.flatten(0, 1)[ctx.index], step.flatten(0, 1)[ctx.index], at)
        hidden, last_h, last_c, saved = run_forward(call, (z.view(-1, gates), *inputs), keep=True, given=True)
        assert saved is not None
        ctx.call, ctx.shape = call, (len(places), *start.shape)
        ctx.save_for_backward(*saved, *inputs)
        ctx.set_materialize_grads(False)
        return hidden, last_h, last_c

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        gates, cell, hidden, *inputs = ctx.saved_tensors
        places, steps, count, width = ctx.shape
        total = gates.new_zeros(steps, count, width)

        def each(at: slice, d_z: Tensor) -> None:
            if ctx.index is None:
                rows = places * count
                torch.sum(d_z.view(-1, places, count, width), 1, out=total[at.start // rows : at.stop // rows])
            else:
                total.flatten(0, 1).index_add_(0, ctx.index[at], d_z)

        z = gates.flatten(1)
        by = run_backward(ctx.call, Saved(gates, cell, hidden), (z, *inputs), grads, (False,) * 9, each)
        return None, total, None, None, None, by.h0, by.c0, *(None,) * 6


def run_lines(
    start: Tensor,
    step: Tensor,
    places: Tensor,
    order: Tensor | None,
    h0: Tensor,
    c0: Tensor,
    weights: Weights,
    form: Form,
    sizes: Sequence[int],
    reverse: bool,
) -> Computed:
    """A sequence of an LSTM for each pair of a place and a line.

    Parameters
    ----------
    start : Tensor ``(steps, lines, 4*hidden)``
        What the input gives to the gates where each line starts, biases and all; gradients reach it.
    step : Tensor ``(steps, lines, 4*hidden)``
        How far that goes along the line; gradients don't reach it, nor the weights.
    places : Tensor ``(places,)``
        0 is where a line starts, 1 where it ends.
    order : Tensor of int ``(rows,)`` or None
        The rows among those of all steps, places and lines, in that order, where sequences end before the last step; None where none does.
    h0, c0, weights, form, sizes, reverse
        As in `lstm_explain.nn.sequence.run_sequence`, for the pairs in the order of the rows.

    Returns
    -------
    Computed
        Hidden states and last states, differentiable once.
    """
    call = form, tuple(sizes), reverse
    hidden, last_h, last_c = cast(Any, _Lines.apply)(call, start, step, places, order, h0, c0, *weights)
    return Computed(hidden, last_h, last_c, None)
