"""The equations of the LSTM with peepholes, the GRU and the plain RNN, one step at a time: what everything faster is held against.

LSTM. With the ``previous`` wiring every gate and the candidate see the cell state of the step before::

    i_t = σ(W_xi x_t + W_hi h_{t-1} + W_ci c_{t-1} + b_i)
    f_t = σ(W_xf x_t + W_hf h_{t-1} + W_cf c_{t-1} + b_f)
    g_t = tanh(W_xg x_t + W_hg h_{t-1} + W_cg c_{t-1} + b_g)
    o_t = σ(W_xo x_t + W_ho h_{t-1} + W_co c_{t-1} + b_o)
    c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t
    h_t = o_t ⊙ tanh(c_t)

With the ``graves`` wiring (Gers & Schmidhuber 2000; Graves 2013, eqs. 7-11) i and f see c_{t-1}, o sees the new c_t,
and g sees no cell. A projection (Sak, Senior & Beaufays 2014) makes h_t = W_r (o_t ⊙ tanh(c_t)).

GRU, as PyTorch has it: r acts on the product with h_{t-1}, and z is the share that is *kept* (in Cho et al. 2014 r acts on
h_{t-1} itself)::

    r_t = σ(W_xr x_t + W_hr h_{t-1} + b_r)
    z_t = σ(W_xz x_t + W_hz h_{t-1} + b_z)
    n_t = tanh(W_xn x_t + b_xn + r_t ⊙ (W_hn h_{t-1} + b_hn))
    h_t = (1 - z_t) ⊙ n_t + z_t ⊙ h_{t-1}

RNN (Elman 1990)::

    h_t = tanh(W_x x_t + W_h h_{t-1} + b),  or relu
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Peephole = Literal["full", "diagonal"]
Wiring = Literal["previous", "graves"]
Nonlinearity = Literal["tanh", "relu"]
Tap = Callable[[str, Tensor], Tensor]
"""``tap(name, value)`` sees what a step has just computed, and says what the step goes on with."""


class Form(NamedTuple):
    """Which equations: what the peepholes are, and which cell state they see."""

    peephole: Peephole | None = "full"
    wiring: Wiring = "previous"

    @property
    def peephole_rows(self) -> str:
        """The gates that have a peephole, in the order of the rows of ``weight_ch``."""
        if self.peephole is None:
            return ""
        return "ifgo" if self.wiring == "previous" else "ifo"


class Weights(NamedTuple):
    """The parameters of one layer in one direction, by PyTorch's names and in its layout.

    Rows i, f, g, o for an LSTM (k = 4), r, z, n for a GRU (k = 3), and one block for an RNN. ``weight_ih (k*hidden, input)``,
    ``weight_hh (k*hidden, state)``, biases ``(k*hidden,)`` or None. LSTMs alone may have
    ``weight_ch`` the peepholes, ``(k*hidden, hidden)`` when full and ``(k, hidden)`` when diagonal, with one block for
    each letter of `Form.peephole_rows`; ``weight_hr (state, hidden)`` the projection or None.
    """

    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor | None = None
    bias_hh: Tensor | None = None
    weight_ch: Tensor | None = None
    weight_hr: Tensor | None = None


class Step(NamedTuple):
    """What one step computes; each ``(batch, hidden)``, ``hidden_state`` ``(batch, state)``."""

    input_gate: Tensor
    forget_gate: Tensor
    cell_candidate: Tensor
    output_gate: Tensor
    cell_state: Tensor
    hidden_state: Tensor


class GRUStep(NamedTuple):
    """What one step of a GRU computes; each ``(batch, hidden)``."""

    reset_gate: Tensor
    update_gate: Tensor
    candidate: Tensor
    hidden_state: Tensor


class RNNStep(NamedTuple):
    """What one step of a plain RNN computes, ``(batch, hidden)``."""

    hidden_state: Tensor


def peephole_of(gate: str, weight_ch: Tensor | None, form: Form) -> Tensor | None:
    """The peephole weights of one gate (``"i"``, ``"f"``, ``"g"`` or ``"o"``), or None where it sees no cell."""
    if weight_ch is None or gate not in form.peephole_rows:
        return None
    return weight_ch.chunk(len(form.peephole_rows))[form.peephole_rows.index(gate)]


def _sees(weight_ch: Tensor | None, form: Form) -> Callable[[str, Tensor], Tensor | float]:
    def seen(gate: str, c: Tensor) -> Tensor | float:
        W = peephole_of(gate, weight_ch, form)
        if W is None:
            return 0.0
        return functional.linear(c, W) if form.peephole == "full" else c * W.reshape(-1)

    return seen


def untouched(name: str, value: Tensor) -> Tensor:
    """The tap that lets everything be."""
    return value


def step(x: Tensor, h: Tensor, c: Tensor, weights: Weights, form: Form, *, tap: Tap = untouched) -> Step:
    """One step of one layer.

    Parameters
    ----------
    x : Tensor ``(batch, input)``
    h : Tensor ``(batch, state)``
        The hidden state before the step.
    c : Tensor ``(batch, hidden)``
        The cell state before the step.
    tap : callable
        Called with each field's name and value when it is computed, each gate after its nonlinearity; what it returns is used
        onwards, and is what the step returns: another cell state is the one that h is made of, and o where it sees the new c.
    """
    W_x, W_h, b_x, b_h, W_c, W_r = weights
    W_c_on = _sees(W_c, form)
    z_i, z_f, z_g, z_o = (functional.linear(x, W_x, b_x) + functional.linear(h, W_h, b_h)).chunk(4, dim=-1)

    i = tap("input_gate", torch.sigmoid(z_i + W_c_on("i", c)))
    f = tap("forget_gate", torch.sigmoid(z_f + W_c_on("f", c)))
    g = tap("cell_candidate", torch.tanh(z_g + W_c_on("g", c)))
    c_new = tap("cell_state", f * c + i * g)
    o = tap("output_gate", torch.sigmoid(z_o + W_c_on("o", c if form.wiring == "previous" else c_new)))
    m = o * torch.tanh(c_new)
    h_new = tap("hidden_state", m if W_r is None else functional.linear(m, W_r))
    return Step(i, f, g, o, c_new, h_new)


def gru_step(x: Tensor, h: Tensor, weights: Weights, *, tap: Tap = untouched) -> GRUStep:
    """One step of a GRU; ``x (batch, input)``, ``h (batch, hidden)`` before the step, `tap` as in `step`."""
    W_x, W_h, b_x, b_h, _, _ = weights
    x_r, x_z, x_n = functional.linear(x, W_x, b_x).chunk(3, dim=-1)
    h_r, h_z, h_n = functional.linear(h, W_h, b_h).chunk(3, dim=-1)

    r = tap("reset_gate", torch.sigmoid(x_r + h_r))
    z = tap("update_gate", torch.sigmoid(x_z + h_z))
    n = tap("candidate", torch.tanh(x_n + r * h_n))
    return GRUStep(r, z, n, tap("hidden_state", (1 - z) * n + z * h))


def rnn_step(x: Tensor, h: Tensor, weights: Weights, nonlinearity: Nonlinearity, *, tap: Tap = untouched) -> RNNStep:
    """One step of a plain RNN; ``x (batch, input)``, ``h (batch, hidden)`` before the step, `tap` as in `step`."""
    W_x, W_h, b_x, b_h, _, _ = weights
    a = functional.linear(x, W_x, b_x) + functional.linear(h, W_h, b_h)
    return RNNStep(tap("hidden_state", torch.tanh(a) if nonlinearity == "tanh" else torch.relu(a)))


def stepper(kind: str, form: Form | None, *, tap: Tap = untouched) -> Callable[..., Any]:
    """A kind's step as ``step(x, *states, weights)``: ``"gru"``, ``"rnn_tanh"``, ``"rnn_relu"``, or an LSTM of a form; tapped."""
    if form is not None:
        return lambda x, h, c, weights: step(x, h, c, weights, form, tap=tap)
    if kind == "gru":
        return lambda x, h, weights: gru_step(x, h, weights, tap=tap)
    nonlinearity: Nonlinearity = "tanh" if kind == "rnn_tanh" else "relu"
    return lambda x, h, weights: rnn_step(x, h, weights, nonlinearity, tap=tap)


def walk(
    x: Tensor, states: Mapping[str, Tensor], step: Callable[..., Any], sizes: Sequence[int], reverse: bool
) -> tuple[list[Any], dict[str, Tensor]]:
    """A whole sequence, step by step: the readable path, differentiable any number of times.

    Parameters
    ----------
    x : Tensor ``(rows, input)``
        The steps one after the other, as in `torch.nn.utils.rnn.PackedSequence`: ``sizes[t]`` rows for step t, the longest
        sequence first.
    states : mapping of str to Tensor ``(batch, unit)``
        The states before the first step, by name, in the order in which `step` takes them.
    step : callable
        ``step(x_t, *states)``, one of this file's steps with its weights filled in.
    sizes : sequence of int
        How many sequences reach each step.
    reverse : bool
        Whether the layer reads from the last step to the first.

    Returns
    -------
    What each step computed, in the order of `x`, and the last states.
    """
    inputs = x.split(list(sizes))
    now = dict(states)
    steps: list[Any] = [None] * len(sizes)
    for t in reversed(range(len(sizes))) if reverse else range(len(sizes)):
        n = sizes[t]
        steps[t] = step(inputs[t], *(state[:n] for state in now.values()))
        now = {name: torch.cat([getattr(steps[t], name), state[n:]]) for name, state in now.items()}
    return steps, now


def unroll(
    x: Tensor, h0: Tensor, c0: Tensor, weights: Weights, form: Form, sizes: Sequence[int], reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """A whole sequence of an LSTM by `walk`.

    Returns
    -------
    hidden states ``(rows, state)`` in the order of `x`, last h ``(batch, state)``, last c ``(batch, hidden)``.
    """
    states = {"hidden_state": h0, "cell_state": c0}
    steps, last = walk(x, states, lambda x, h, c: step(x, h, c, weights, form), sizes, reverse)
    return torch.cat([now.hidden_state for now in steps]), last["hidden_state"], last["cell_state"]
