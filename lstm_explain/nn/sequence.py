"""The fast sequence as one differentiable operation, and who computes it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from lstm_explain.nn.equations import Form, Step, Weights, read, stepper, unedited, unroll, walk
from lstm_explain.nn.kernels import native
from lstm_explain.nn.kernels import sequence as bulk
from lstm_explain.nn.kernels.native import layer as compiled
from lstm_explain.nn.kernels.sequence import Computed, Gradients, Lines, Saved

Call = tuple[Form, tuple[int, ...], bool]


def _without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    device = x.device.type
    there = torch.amp.autocast_mode.is_autocast_available(device)
    # To leave it costs time even where it isn't on.
    return torch.autocast(device, enabled=False) if there and torch.is_autocast_enabled(device) else nullcontext()


def _values(inputs: Sequence[Tensor | Lines | None]) -> Iterator[Tensor | None]:
    for one in inputs:
        yield from (one.start, one.step, one.place) if isinstance(one, Lines) else (one,)


def run_forward(call: Call, inputs: Sequence[Tensor | Lines | None], *, keep: bool) -> Computed:
    """Forward by whoever can; nothing is differentiable."""
    x, h0, c0, *weights = cast(list[Any], inputs)
    forward = compiled.forward if native.serves(*_values(inputs)) else bulk.forward
    with _without_autocast(h0):
        return forward(x, h0, c0, Weights(*weights), *call, keep=keep)


def run_backward(
    call: Call, saved: Saved, inputs: Sequence[Tensor | Lines | None], grads: Sequence[Tensor | None], needs: Sequence[bool]
) -> Gradients:
    """Backward by whoever can, from what either has saved; `needs` has one flag for each of `inputs`."""
    x, h0, c0, *weights = cast(list[Any], inputs)
    backward = compiled.backward if native.serves(*saved, *_values(inputs), *grads) else bulk.backward
    grad_hidden, grad_last_h, grad_last_c = grads
    with _without_autocast(h0):
        return backward(saved, x, h0, c0, Weights(*weights), *call, grad_hidden, grad_last_h, grad_last_c, needs)


class _Sequence(torch.autograd.Function):
    """Forward and backward by a kernel; where a second derivative is wanted, backward by the readable equations.

    A backward pass that autograd can't see into would drop second derivatives without a word, so under ``create_graph``
    the gradient is taken through `unroll` instead; and so it is for many gradients at once (``is_grads_batched``).
    """

    @staticmethod
    def forward(ctx: Any, call: Call, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        hidden, last_h, last_c, saved = run_forward(call, inputs, keep=True)
        assert saved is not None
        ctx.call = call
        # Not the hidden states themselves: they are the caller's output, who may write into them before the backward pass.
        ctx.save_for_backward(*saved, *inputs)
        ctx.mark_non_differentiable(*saved)
        ctx.set_materialize_grads(False)
        return hidden, last_h, last_c, *saved

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        gates, cell, hidden, *inputs = ctx.saved_tensors
        needs = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled() or any(one is not None and _batched(one) for one in grads):
            return None, *backward_by_unrolling(ctx.call, inputs, needs, grads[:3])
        by = run_backward(ctx.call, Saved(gates, cell, hidden), inputs, grads[:3], needs)
        return None, by.x, by.h0, by.c0, *by.weights


def backward_by_unrolling(
    call: Call, inputs: Sequence[Tensor | None], needs: Sequence[bool], grads: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """Gradients through the readable equations: differentiable themselves where that is asked for, and open to `torch.func`."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # One view for each place: the same tensor may stand in two of them, and each place has a gradient of its own.
        views = [None if tensor is None else tensor.view_as(tensor) for tensor in inputs]
        x, h0, c0, *weights = cast(list[Tensor], views)
        outputs = unroll(x, h0, c0, Weights(*weights), *call)
    asked = [(output, grad) for output, grad in zip(outputs, grads, strict=True) if grad is not None]
    wanted = [view for view, need in zip(views, needs, strict=True) if need and view is not None]
    if not asked or not wanted:
        return (None,) * len(views)
    found = iter(
        torch.autograd.grad(
            [output for output, _ in asked],
            wanted,
            [grad for _, grad in asked],
            create_graph=create_graph,
            allow_unused=True,
        )
    )
    return tuple(next(found) if need and view is not None else None for view, need in zip(views, needs, strict=True))


def _by_walking(call: Call, inputs: Sequence[Tensor | None]) -> Computed:
    form, sizes, reverse = call
    x, h0, c0, *weights = cast(list[Tensor], inputs)
    W = Weights(*weights)
    by = stepper("peephole_lstm", form, W)

    def step(t: int, z_x: Tensor, states: Sequence[Tensor]) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        now = by(z_x, states, unedited)
        return now, now

    steps, last = walk(read(x, W), {"hidden_state": h0, "cell_state": c0}, step, sizes, reverse)
    i, f, g, o, cell, hidden = (torch.cat([now[name] for now in steps]) for name in Step._fields)
    saved = Saved(torch.stack([i, f, g, o], dim=1).detach(), cell.detach(), hidden.detach())
    return Computed(hidden, last["hidden_state"], last["cell_state"], saved)


def _batched(tensor: Tensor) -> bool:
    of = torch._C._functorch
    return of.is_functorch_wrapped_tensor(tensor) or of.is_legacy_batchedtensor(tensor)


def _transformed(tensors: Sequence[Tensor | None]) -> bool:
    """Whether `torch.func`, forward-mode differentiation or `torch.jit.trace` is at work, which only see operations of PyTorch's."""
    if torch._C._are_functorch_transforms_active() or torch._C._is_tracing():
        return True
    return any(one is not None and forward_ad.unpack_dual(one).tangent is not None for one in tensors)


def run_sequence(
    x: Tensor, h0: Tensor, c0: Tensor, weights: Weights, form: Form, sizes: Sequence[int], reverse: bool, *, keep: bool = True
) -> Computed:
    """A whole sequence, fast; shapes as in `lstm_explain.nn.equations.unroll`.

    Returns
    -------
    Computed
        Hidden states and last states are differentiable, any number of times; what was saved is detached, and there where
        `keep` asks for it.
    """
    inputs = x, h0, c0, *weights
    call = form, tuple(sizes), reverse
    if torch.compiler.is_compiling():
        from lstm_explain.nn.operation import operation  # which is made of this file

        return operation(call, inputs)
    if _transformed(inputs):
        return _by_walking(call, inputs)
    if torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in inputs):
        hidden, last_h, last_c, *saved = cast(Any, _Sequence.apply)(call, *inputs)
        return Computed(hidden, last_h, last_c, Saved(*saved))
    return run_forward(call, inputs, keep=keep)
