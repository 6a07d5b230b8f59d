"""What rounding may do within one step of a peephole LSTM: little, but where cell states run far up, more than a plain tolerance."""

import torch
from torch import Tensor
from torch.nn import functional

from lstm_explain.nn.equations import Form, Step, Weights, peephole_of, read

SURELY = 4.0
"""Standard deviations of rounding, as it adds up in a sum of products (Higham & Mary 2019, "A new approach to probabilistic rounding error
analysis": with the root of how many there are)."""


def rounded_step(x: Tensor, h: Tensor, c: Tensor, weights: Weights, form: Form, given: Step, eps: float) -> Step:
    """How far rounding in a dtype may bring each value of `step` from where it is, as far as it goes with `SURELY`.

    Parameters
    ----------
    x, h, c, weights, form
        As `step` takes them.
    given : Step
        What it gives.
    eps : float
        The dtype's.
    """
    sizes = Weights(*(None if one is None else one.abs() for one in weights))  # type: ignore[arg-type]
    _, W_h, _, b_h, W_c, W_r = sizes

    def W_c_on(gate: str, c: Tensor) -> Tensor | float:
        W = peephole_of(gate, W_c, form)
        return 0.0 if W is None else functional.linear(c, W) if form.peephole == "full" else c * W.reshape(-1)

    terms = x.shape[-1] + h.shape[-1] + (c.shape[-1] if form.peephole == "full" else 1) + 2
    e_i, e_f, e_g, e_o = (read(x.abs(), sizes) + functional.linear(h.abs(), W_h, b_h)).chunk(4, dim=-1)
    unit, c = SURELY * terms**0.5 * eps / 2, c.abs()
    e_i, e_f, e_g = unit * (e_i + W_c_on("i", c)), unit * (e_f + W_c_on("f", c)), unit * (e_g + W_c_on("g", c))

    def gate(value: Tensor, e: Tensor) -> Tensor:
        # The slope where it is, and how far that may be from the steepest within e.
        return e * (value * (1 - value) + e / 10).clamp(max=0.25) + 2 * eps

    i, f, g = gate(given.input_gate, e_i), gate(given.forget_gate, e_f), e_g * (1 - given.cell_candidate**2 + e_g).clamp(max=1) + 2 * eps
    cell = c * f + given.cell_candidate.abs() * i + (given.input_gate + i) * g + 2 * eps * (c * given.forget_gate + 1)
    seen = c if form.wiring == "previous" else given.cell_state.abs()
    e_o = unit * (e_o + W_c_on("o", seen)) + (0.0 if form.wiring == "previous" else W_c_on("o", cell))
    o = gate(given.output_gate, e_o)
    m = o + given.output_gate * cell + 2 * eps
    hidden = (
        m if W_r is None else functional.linear(m, W_r) + SURELY * len(W_r.T) ** 0.5 * eps / 2 * functional.linear(torch.ones_like(m), W_r)
    )
    return Step(i, f, g, o, cell, hidden)
