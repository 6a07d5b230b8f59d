"""The fast sequence as operations of PyTorch's dispatcher, so that `torch.compile` and `torch.export` see it as one node.

They trace; a kernel reached through ctypes leaves no trace, and the readable equations would be unrolled, step by step, into the graph.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from lstm_explain.nn.equations import Form
from lstm_explain.nn.kernels.sequence import Computed, Saved
from lstm_explain.nn.sequence import Call, backward_by_unrolling, run_backward, run_forward


def _call(peephole: str, wiring: str, sizes: Sequence[int], reverse: bool) -> Call:
    return Form(cast(Any, peephole or None), cast(Any, wiring)), tuple(sizes), reverse


@torch.library.custom_op("lstm_explain::sequence", mutates_args=())
def _sequence(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    weight_ch: Tensor | None,
    weight_hr: Tensor | None,
    peephole: str,
    wiring: str,
    sizes: Sequence[int],
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs = x, h0, c0, weight_ih, weight_hh, bias_ih, bias_hh, weight_ch, weight_hr
    hidden, last_h, last_c, saved = run_forward(_call(peephole, wiring, sizes, reverse), inputs, keep=True)
    assert saved is not None
    return hidden, last_h, last_c, *saved


@_sequence.register_fake
def _shapes(x: Tensor, h0: Tensor, c0: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    rows, P, H = x.shape[0], h0.shape[1], c0.shape[1]
    signals = x.new_empty(rows, 4, H), x.new_empty(rows, H), x.new_empty(rows, P)
    return x.new_empty(rows, P), x.new_empty(h0.shape), x.new_empty(c0.shape), *signals


@torch.library.custom_op("lstm_explain::sequence_backward", mutates_args=())
def _sequence_backward(
    grad_hidden: Tensor | None,
    grad_last_h: Tensor | None,
    grad_last_c: Tensor | None,
    gates: Tensor,
    cell: Tensor,
    hidden: Tensor,
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    weight_ch: Tensor | None,
    weight_hr: Tensor | None,
    needs: Sequence[bool],
    peephole: str,
    wiring: str,
    sizes: Sequence[int],
    reverse: bool,
) -> list[Tensor]:
    inputs = x, h0, c0, weight_ih, weight_hh, bias_ih, bias_hh, weight_ch, weight_hr
    grads = grad_hidden, grad_last_h, grad_last_c
    by = run_backward(_call(peephole, wiring, sizes, reverse), Saved(gates, cell, hidden), inputs, grads, needs)
    # Two biases have the same gradient, and what an operation returns mustn't be the same memory twice.
    return [one.clone() for one, need in zip((by.x, by.h0, by.c0, *by.weights), needs, strict=True) if need and one is not None]


@_sequence_backward.register_fake
def _shapes_backward(*arguments: Any) -> list[Tensor]:
    inputs, needs = arguments[6:15], arguments[15]
    return [one.new_empty(one.shape) for one, need in zip(inputs, needs, strict=True) if need]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.call = inputs[9:]
    ctx.save_for_backward(*output[3:], *inputs[:9])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    needs = list(ctx.needs_input_grad[:9])
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        found = backward_by_unrolling(_call(*ctx.call), ctx.saved_tensors[3:], needs, grads[:3])
    else:
        by = iter(_sequence_backward(*grads[:3], *ctx.saved_tensors, needs, *ctx.call))
        found = tuple(next(by) if need else None for need in needs)
    return *found, None, None, None, None


_sequence.register_autograd(_backward, setup_context=_setup)


def operation(call: Call, inputs: Sequence[Tensor | None]) -> Computed:
    """As `lstm_explain.nn.sequence.run_sequence`, by one operation of the dispatcher's."""
    form, sizes, reverse = call
    hidden, last_h, last_c, *saved = _sequence(*inputs, form.peephole or "", form.wiring, list(sizes), reverse)
    return Computed(hidden, last_h, last_c, Saved(*saved))
