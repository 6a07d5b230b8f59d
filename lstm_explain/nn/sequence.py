"""The fast sequence as one differentiable operation."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from lstm_explain.nn.equations import Form, Weights, unroll
from lstm_explain.nn.kernels import sequence as kernel


class _Sequence(torch.autograd.Function):
    """Forward and backward by the kernel; where a second derivative is wanted, backward by the readable equations.

    A backward pass that autograd can't see into would drop second derivatives without a word, so under ``create_graph``
    the gradient is taken through `unroll` instead.
    """

    @staticmethod
    def forward(
        ctx: Any,
        form: Form,
        sizes: tuple[int, ...],
        reverse: bool,
        x: Tensor,
        h0: Tensor,
        c0: Tensor,
        *weights: Tensor | None,
    ) -> tuple[Tensor, ...]:
        with torch.autocast(x.device.type, enabled=False):
            saved, last_h, last_c = kernel.forward(x, h0, c0, Weights(*weights), form, sizes, reverse)  # type: ignore[arg-type]
        gates, seen, cell, hidden = saved
        ctx.call = form, sizes, reverse
        # Not the hidden states: they are the caller's output, who may write into them before the backward pass.
        ctx.save_for_backward(gates, seen, cell, x, h0, c0, *weights)
        ctx.mark_non_differentiable(gates, seen, cell)
        ctx.set_materialize_grads(False)
        return hidden, last_h, last_c, gates, seen, cell

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_last_h, grad_last_c = grads[:3]
        form, sizes, reverse = ctx.call
        gates, seen, cell, x, h0, c0, *weights = ctx.saved_tensors
        needs = ctx.needs_input_grad[3:]
        if torch.is_grad_enabled():
            return None, None, None, *_backward_by_unrolling(ctx.call, (x, h0, c0, *weights), needs, grads[:3])
        with torch.autocast(x.device.type, enabled=False):
            by = kernel.backward(
                kernel.Saved(gates, seen, cell, gates.new_empty(0)),
                x,
                Weights(*weights),
                form,
                sizes,
                reverse,
                grad_hidden,
                grad_last_h,
                grad_last_c,
                needs,
            )
        return None, None, None, by.x, by.h0, by.c0, *by.weights


def _backward_by_unrolling(
    call: tuple[Form, tuple[int, ...], bool],
    inputs: Sequence[Tensor | None],
    needs: Sequence[bool],
    grads: Sequence[Tensor | None],
) -> tuple[Tensor | None, ...]:
    form, sizes, reverse = call
    # One view for each place: the same tensor may stand in two of them, and each place has a gradient of its own.
    views = [None if tensor is None else tensor.view_as(tensor) for tensor in inputs]
    x, h0, c0, *weights = views
    outputs = unroll(x, h0, c0, Weights(*weights), form, sizes, reverse)  # type: ignore[arg-type]
    asked = [(output, grad) for output, grad in zip(outputs, grads, strict=True) if grad is not None]
    wanted = [view for view, need in zip(views, needs, strict=True) if need and view is not None]
    if not asked or not wanted:
        return (None,) * len(views)
    found = iter(
        torch.autograd.grad(
            [output for output, _ in asked],
            wanted,
            [grad for _, grad in asked],
            create_graph=True,
            allow_unused=True,
        )
    )
    return tuple(next(found) if need and view is not None else None for view, need in zip(views, needs, strict=True))


def run_sequence(
    x: Tensor, h0: Tensor, c0: Tensor, weights: Weights, form: Form, sizes: Sequence[int], reverse: bool
) -> tuple[kernel.Saved, Tensor, Tensor]:
    """A whole sequence, fast; shapes as in `lstm_explain.nn.equations.unroll`.

    Returns
    -------
    Saved, last h, last c
        ``Saved.hidden``, last h and last c are differentiable, any number of times; the gates and the cell states are what
        the pass computed, detached.
    """
    apply = cast(Any, _Sequence.apply)
    hidden, last_h, last_c, gates, seen, cell = apply(form, tuple(sizes), reverse, x, h0, c0, *weights)
    return kernel.Saved(gates, seen, cell, hidden), last_h, last_c
