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
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional  # not its functions by name: tracers of operations find them in their module

Peephole = Literal["full", "diagonal"]
Wiring = Literal["previous", "graves"]
Nonlinearity = Literal["tanh", "relu"]


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


def _peeping(weight_ch: Tensor | None, form: Form) -> Callable[[str, Tensor, Tensor], Tensor]:
    def with_c(gate: str, z: Tensor, c: Tensor) -> Tensor:
        W = peephole_of(gate, weight_ch, form)
        if W is None:
            return z
        return z + (functional.linear(c, W) if form.peephole == "full" else c * W.reshape(-1))

    return with_c


Kept = TypeVar("Kept")

Edit = Callable[[str, Tensor], Tensor]
"""What is done to a signal between its being computed and its being used: ``edit(name, signal)`` gives what is used."""


Stepper = Callable[[Tensor, Sequence[Tensor], Edit], dict[str, Tensor]]
"""``step(z_x, states, edit)`` with what `read` gives, the states before the step and the slot: every signal by name."""


def unedited(name: str, signal: Tensor) -> Tensor:
    """A signal as it was computed."""
    return signal


def read(x: Tensor, weights: Weights) -> Tensor:
    """What an input gives to the gates, of any number of steps at once: ``(rows, input)`` to ``(rows, k*hidden)``."""
    return functional.linear(x, weights.weight_ih, weights.bias_ih)


def step(x: Tensor, h: Tensor, c: Tensor, weights: Weights, form: Form) -> Step:
    """One step of one layer.

    Parameters
    ----------
    x : Tensor ``(batch, input)``
    h : Tensor ``(batch, state)``
        The hidden state before the step.
    c : Tensor ``(batch, hidden)``
        The cell state before the step.
    """
    return _step(read(x, weights), h, c, weights, form, unedited)


def _step(z_x: Tensor, h: Tensor, c: Tensor, weights: Weights, form: Form, edit: Edit) -> Step:
    """`step` of what `read` gives, with a slot for edits."""
    _, W_h, _, b_h, W_c, W_r = weights
    with_c = _peeping(W_c, form)
    z_i, z_f, z_g, z_o = (z_x + functional.linear(h, W_h, b_h)).chunk(4, dim=-1)

    i = edit("input_gate", torch.sigmoid(with_c("i", z_i, c)))
    f = edit("forget_gate", torch.sigmoid(with_c("f", z_f, c)))
    g = edit("cell_candidate", torch.tanh(with_c("g", z_g, c)))
    c_new = edit("cell_state", f * c + i * g)
    o = edit("output_gate", torch.sigmoid(with_c("o", z_o, c if form.wiring == "previous" else c_new)))
    m = o * torch.tanh(c_new)
    h_new = edit("hidden_state", m if W_r is None else functional.linear(m, W_r))
    return Step(i, f, g, o, c_new, h_new)


def gru_step(x: Tensor, h: Tensor, weights: Weights) -> GRUStep:
    """One step of a GRU; ``x (batch, input)``, ``h (batch, hidden)`` before the step."""
    return _gru_step(read(x, weights), h, weights, unedited)


def _gru_step(z_x: Tensor, h: Tensor, weights: Weights, edit: Edit) -> GRUStep:
    _, W_h, _, b_h, _, _ = weights
    x_r, x_z, x_n = z_x.chunk(3, dim=-1)
    h_r, h_z, h_n = functional.linear(h, W_h, b_h).chunk(3, dim=-1)

    r = edit("reset_gate", torch.sigmoid(x_r + h_r))
    z = edit("update_gate", torch.sigmoid(x_z + h_z))
    n = edit("candidate", torch.tanh(x_n + r * h_n))
    return GRUStep(r, z, n, edit("hidden_state", (1 - z) * n + z * h))


def rnn_step(x: Tensor, h: Tensor, weights: Weights, nonlinearity: Nonlinearity) -> RNNStep:
    """One step of a plain RNN; ``x (batch, input)``, ``h (batch, hidden)`` before the step."""
    return _rnn_step(read(x, weights), h, weights, nonlinearity, unedited)


def _rnn_step(z_x: Tensor, h: Tensor, weights: Weights, nonlinearity: Nonlinearity, edit: Edit) -> RNNStep:
    _, W_h, _, b_h, _, _ = weights
    a = z_x + functional.linear(h, W_h, b_h)
    return RNNStep(edit("hidden_state", torch.tanh(a) if nonlinearity == "tanh" else torch.relu(a)))


def stepper(kind: str, form: Form | None, weights: Weights) -> Stepper:
    """A kind's step: ``"gru"``, ``"rnn_tanh"``, ``"rnn_relu"``, or an LSTM of a form."""
    if form is not None:
        return lambda z_x, states, edit: _step(z_x, states[0], states[1], weights, form, edit)._asdict()
    if kind == "gru":
        return lambda z_x, states, edit: _gru_step(z_x, states[0], weights, edit)._asdict()
    nonlinearity: Nonlinearity = "tanh" if kind == "rnn_tanh" else "relu"
    return lambda z_x, states, edit: _rnn_step(z_x, states[0], weights, nonlinearity, edit)._asdict()


def walk(
    x: Tensor,
    states: Mapping[str, Tensor],
    step: Callable[[int, Tensor, Sequence[Tensor]], tuple[Mapping[str, Tensor], Kept]],
    sizes: Sequence[int],
    reverse: bool,
) -> tuple[list[Kept], dict[str, Tensor]]:
    """A whole sequence, step by step: the readable path, differentiable any number of times.

    Parameters
    ----------
    x : Tensor ``(rows, any)``
        The steps one after the other, as in `torch.nn.utils.rnn.PackedSequence`: ``sizes[t]`` rows for step t, the longest
        sequence first.
    states : mapping of str to Tensor ``(batch, unit)``
        The states before the first step, by name, in the order in which `step` takes them.
    step : callable
        ``step(t, x_t, states)`` gives what the step computed, the new states by their names among it, and what is kept of it.
    sizes : sequence of int
        How many sequences reach each step.
    reverse : bool
        Whether the layer reads from the last step to the first.

    Returns
    -------
    What is kept of each step, in the order of `x`, and the last states.
    """
    inputs = x.split(list(sizes))
    now = dict(states)
    steps: list[Any] = [None] * len(sizes)
    for t in reversed(range(len(sizes))) if reverse else range(len(sizes)):
        n = sizes[t]
        computed, steps[t] = step(t, inputs[t], [state[:n] for state in now.values()])
        after = {name: computed[name] for name in now}
        now = {name: state if n == len(now[name]) else torch.cat([state, now[name][n:]]) for name, state in after.items()}
    return steps, now


def unroll(
    x: Tensor, h0: Tensor, c0: Tensor, weights: Weights, form: Form, sizes: Sequence[int], reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """A whole sequence of an LSTM by `walk`.

    Returns
    -------
    hidden states ``(rows, state)`` in the order of `x`, last h ``(batch, state)``, last c ``(batch, hidden)``.
    """
    by = stepper("peephole_lstm", form, weights)

    def step(t: int, z_x: Tensor, states: Sequence[Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        now = by(z_x, states, unedited)
        return now, now["hidden_state"]

    hidden, last = walk(read(x, weights), {"hidden_state": h0, "cell_state": c0}, step, sizes, reverse)
    return torch.cat(hidden), last["hidden_state"], last["cell_state"]
