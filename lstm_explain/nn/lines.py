"""A sequence run at many places of straight lines at once, as one differentiable operation.

What an input gives to the gates, W x + b, is linear in it. So all places of a line take two products with the weights, one for where it
starts and one for how far it goes; and backward all places of a line are one sum before they meet the weights again, where gradients
are wanted of the line and not of each place.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lstm_explain.nn.equations import Form, Weights
from lstm_explain.nn.kernels.sequence import Computed, Lines, Saved
from lstm_explain.nn.sequence import Call, run_backward, run_forward


class _OnLines(torch.autograd.Function):
    """Forward and backward by a kernel."""

    @staticmethod
    def forward(ctx: Any, call: Call, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        hidden, last_h, last_c, saved = run_forward(call, (Lines(*cast(Any, inputs[:4])), *inputs[4:]), keep=True)
        assert saved is not None
        ctx.call = call
        ctx.save_for_backward(*saved, *inputs)
        ctx.set_materialize_grads(False)
        return hidden, last_h, last_c

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        gates, cell, hidden, *inputs = ctx.saved_tensors
        needs = (True, True, True, *(False,) * 6)
        by = run_backward(ctx.call, Saved(gates, cell, hidden), (Lines(*inputs[:4]), *inputs[4:]), grads, needs)
        return None, by.x, None, None, None, by.h0, by.c0, *(None,) * 6


def run_lines(lines: Lines, h0: Tensor, c0: Tensor, weights: Weights, form: Form, sizes: Sequence[int], reverse: bool) -> Computed:
    """A sequence of an LSTM whose input is on lines.

    Parameters
    ----------
    lines : Lines
        Gradients reach where they start, and nothing else of them.
    h0, c0, weights, form, sizes, reverse
        As in `lstm_explain.nn.sequence.run_sequence`; gradients don't reach the weights.

    Returns
    -------
    Computed
        Hidden states and last states, differentiable once.
    """
    hidden, last_h, last_c = cast(Any, _OnLines.apply)((form, tuple(sizes), reverse), *lines, h0, c0, *weights)
    return Computed(hidden, last_h, last_c, None)
