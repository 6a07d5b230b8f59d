"""The rules of layer-wise relevance propagation a second time, from the papers: one sequence, step by step, backwards in time.

z_j = Σ_i z_i w_ij + b_j hands R_j to its terms in proportion, ε sign z_j among them (Bach et al. 2015); a product of gate and signal by the
rule (Arras et al. 2017, 2019); a nonlinearity hands on what it gets.
"""

import numpy as np
from scalar import by_gate, in_the_papers_letters, layer_weights, run_stack
from torch import nn


class Ledger:
    """What went to biases and to ε."""

    def __init__(self, epsilon):
        self.epsilon, self.bias, self.absorbed = epsilon, 0.0, 0.0

    def linear(self, R, z, terms, bias):
        """R of a sum z to its terms, each ``(values, weights)``."""
        stabiliser = np.where(z >= 0, self.epsilon, -self.epsilon)
        per = R / (z + stabiliser)
        self.bias += (bias * per).sum()
        self.absorbed += (stabiliser * per).sum()
        return [values * (np.asarray(weights).T @ per) for values, weights in terms]


def product(R, gate, signal, rule):
    """R of gate times signal, to each."""
    if rule == "all":
        return 0 * R, R
    share = 0.5 if rule == "half" else np.abs(gate) / (np.abs(gate) + np.abs(signal))
    return share * R, (1 - share) * R


def shifted(states, start, reverse):
    return np.concatenate([states[1:], start[None]]) if reverse else np.concatenate([start[None], states[:-1]])


def lstm_layer(module, suffix, xs, signals, h_0, c_0, R_h, rule, ledger):
    """R of a layer's hidden states ``(time, state)`` to its inputs ``(time, feature)``, and what is left for its initial states."""
    form = getattr(module, "form", (None, "previous"))
    W_x, W_h, W_c, b, W_r = in_the_papers_letters(layer_weights(module, suffix), *form)
    b = {gate: np.asarray(bias) for gate, bias in b.items()}
    reverse = suffix.endswith("_reverse")
    i, f, g, o, c, h = (
        signals[name] for name in ("input_gate", "forget_gate", "cell_candidate", "output_gate", "cell_state", "hidden_state")
    )
    h_before, c_before = shifted(h, h_0, reverse), shifted(c, c_0, reverse)
    R_x, R_h_next, R_c_next = np.zeros_like(xs), np.zeros(h.shape[1]), np.zeros(c.shape[1])
    for t in range(len(xs)) if reverse else reversed(range(len(xs))):
        seen = {"i": c_before[t], "f": c_before[t], "g": c_before[t], "o": c_before[t] if form[1] == "previous" else c[t]}

        def down(gate, R, t=t, seen=seen):
            """R of a gate or the candidate to the input, the hidden state and the cell state that it saw."""
            terms = [(xs[t], W_x[gate]), (h_before[t], W_h[gate]), (seen[gate], W_c[gate])]
            z = sum(np.asarray(weights) @ values for values, weights in terms) + b[gate]
            return ledger.linear(R, z, terms, b[gate])

        R_m = R_h[t] + R_h_next
        if W_r is not None:
            m = o[t] * np.tanh(c[t])
            R_m = m * (np.asarray(W_r).T @ (R_m / h[t]))
        R_o, R_c = product(R_m, o[t], np.tanh(c[t]), rule)
        R_c = R_c + R_c_next
        from_o = down("o", R_o)
        R_x[t] += from_o[0]
        R_h_next, R_c_next = from_o[1], np.zeros(c.shape[1])
        if form[1] == "previous":
            R_c_next = from_o[2]
        else:
            R_c = R_c + from_o[2]
        stabiliser = np.where(c[t] >= 0, ledger.epsilon, -ledger.epsilon)
        per = R_c / (c[t] + stabiliser)
        ledger.absorbed += (stabiliser * per).sum()
        R_f, R_kept = product(f[t] * c_before[t] * per, f[t], c_before[t], rule)
        R_i, R_g = product(i[t] * g[t] * per, i[t], g[t], rule)
        R_c_next = R_c_next + R_kept
        for gate, R in (("i", R_i), ("f", R_f), ("g", R_g)):
            to_x, to_h, to_c = down(gate, R)
            R_x[t] += to_x
            R_h_next = R_h_next + to_h
            R_c_next = R_c_next + to_c
    return R_x, R_h_next.sum() + R_c_next.sum()


def gru_layer(module, suffix, xs, signals, h_0, R_h, ledger):
    """The same of a GRU, whose gates hold still: h_t = (1 - z) n + z h_{t-1}, n = tanh(W_xn x + b_xn + r (W_hn h + b_hn))."""
    W_x, W_h, b_x, b_h = by_gate(layer_weights(module, suffix), "rzn")
    reverse = suffix.endswith("_reverse")
    r, z, n, h = (signals[name] for name in ("reset_gate", "update_gate", "candidate", "hidden_state"))
    before = shifted(h, h_0, reverse)
    R_x, R_next = np.zeros_like(xs), np.zeros(h.shape[1])
    for t in range(len(xs)) if reverse else reversed(range(len(xs))):
        stabiliser = np.where(h[t] >= 0, ledger.epsilon, -ledger.epsilon)
        per = (R_h[t] + R_next) / (h[t] + stabiliser)
        ledger.absorbed += (stabiliser * per).sum()
        reset = r[t][:, None] * np.asarray(W_h["n"])
        bias = np.asarray(b_x["n"]) + r[t] * np.asarray(b_h["n"])
        terms = [(xs[t], W_x["n"]), (before[t], reset)]
        a = sum(np.asarray(weights) @ values for values, weights in terms) + bias
        R_x[t], to_h = ledger.linear((1 - z[t]) * n[t] * per, a, terms, bias)
        R_next = z[t] * before[t] * per + to_h
    return R_x, R_next.sum()


def relevance(module, xs, states, step, unit, rule="all", epsilon=0.0):
    """R of one hidden unit of a stack at one step to its inputs ``(time, feature)``; and to biases, initial states and ε."""
    xs, states = np.asarray(xs, float), [np.asarray(state, float) for state in states]
    signals, top, *_ = run_stack(module, xs, *states)
    directions, ledger, initial = 1 + module.bidirectional, Ledger(epsilon), 0.0
    R = np.zeros_like(top)
    R[step, unit] = top[step, unit]
    for layer in reversed(range(module.num_layers)):
        names = [f"l{layer}" + "_reverse" * reverse for reverse in range(directions)]
        below = [f"l{layer - 1}" + "_reverse" * reverse for reverse in range(directions)]
        read = np.concatenate([signals[name]["hidden_state"] for name in below], axis=1) if layer else xs
        R_read = np.zeros_like(read)
        for at, (name, R_h) in enumerate(zip(names, np.split(R, directions, axis=1), strict=True)):
            start = [state[layer * directions + at] for state in states]
            if isinstance(module, nn.GRU):
                to_x, to_state = gru_layer(module, name, read, signals[name], *start, R_h, ledger)
            else:
                to_x, to_state = lstm_layer(module, name, read, signals[name], *start, R_h, rule, ledger)
            R_read += to_x
            initial += to_state
        R = R_read
    return R, ledger.bias, initial, ledger.absorbed
