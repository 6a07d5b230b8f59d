"""The equations a second time, from the paper, unit by unit in plain Python: slow, and the oracle for everything faster."""

import math

import numpy as np
from torch import nn

SIGNALS = ("input_gate", "forget_gate", "cell_candidate", "output_gate", "cell_state", "hidden_state")
GRU_SIGNALS = ("reset_gate", "update_gate", "candidate", "hidden_state")
RNN_SIGNALS = ("hidden_state",)


def sigma(z):
    return 1 / (1 + math.exp(-z))


def dot(row, vector):
    return sum(w * v for w, v in zip(row, vector, strict=True))


def in_the_papers_letters(weights, peephole, wiring):
    """One layer's PyTorch parameters as W_x, W_h, W_c and b, each by gate, and W_r; peepholes always as whole matrices."""
    hidden = len(weights["weight_ih"]) // 4
    blocks = {gate: slice(at * hidden, (at + 1) * hidden) for at, gate in enumerate("ifgo")}
    W_x = {gate: weights["weight_ih"][rows] for gate, rows in blocks.items()}
    W_h = {gate: weights["weight_hh"][rows] for gate, rows in blocks.items()}
    W_c = {gate: [[0.0] * hidden for _ in range(hidden)] for gate in "ifgo"}
    b = {gate: [0.0] * hidden for gate in "ifgo"}
    if "bias_ih" in weights:
        for gate, rows in blocks.items():
            b[gate] = [p + q for p, q in zip(weights["bias_ih"][rows], weights["bias_hh"][rows], strict=True)]
    if peephole is not None:
        for at, gate in enumerate("ifgo" if wiring == "previous" else "ifo"):
            for j in range(hidden):
                if peephole == "full":
                    W_c[gate][j] = weights["weight_ch"][at * hidden + j]
                else:
                    W_c[gate][j][j] = weights["weight_ch"][at][j]
    return W_x, W_h, W_c, b, weights.get("weight_hr")


def step(x, h, c, W_x, W_h, W_c, b, W_r, wiring):
    """One step of one sequence: i, f, g, o, the new c and the new h, each a list with one number for each unit."""

    def z(gate, j, cell):
        return dot(W_x[gate][j], x) + dot(W_h[gate][j], h) + dot(W_c[gate][j], cell) + b[gate][j]

    units = range(len(c))
    i = [sigma(z("i", j, c)) for j in units]
    f = [sigma(z("f", j, c)) for j in units]
    g = [math.tanh(z("g", j, c)) for j in units]
    c_new = [f[j] * c[j] + i[j] * g[j] for j in units]
    o = [sigma(z("o", j, c if wiring == "previous" else c_new)) for j in units]
    m = [o[j] * math.tanh(c_new[j]) for j in units]
    h_new = m if W_r is None else [dot(row, m) for row in W_r]
    return i, f, g, o, c_new, h_new


def by_gate(weights, letters):
    """A layer's W_x, W_h, b_x and b_h, each by gate, in the order of PyTorch's rows."""
    hidden = len(weights["weight_ih"]) // len(letters)
    zeros = [0.0] * (hidden * len(letters))
    rows = [weights["weight_ih"], weights["weight_hh"], weights.get("bias_ih", zeros), weights.get("bias_hh", zeros)]
    return [{gate: of[at * hidden : (at + 1) * hidden] for at, gate in enumerate(letters)} for of in rows]


def gru_step(x, h, W_x, W_h, b_x, b_h):
    """One step of a GRU: r, z, n and the new h. r acts on what h and b_h give together, and z is the share of h that is kept."""
    units = range(len(h))

    def read(gate, j):
        return dot(W_x[gate][j], x) + b_x[gate][j]

    def remembered(gate, j):
        return dot(W_h[gate][j], h) + b_h[gate][j]

    r = [sigma(read("r", j) + remembered("r", j)) for j in units]
    z = [sigma(read("z", j) + remembered("z", j)) for j in units]
    n = [math.tanh(read("n", j) + r[j] * remembered("n", j)) for j in units]
    return r, z, n, [(1 - z[j]) * n[j] + z[j] * h[j] for j in units]


def rnn_step(x, h, W_x, W_h, b_x, b_h, nonlinearity):
    """One step of a plain RNN: the new h, with tanh or with relu."""
    a = [dot(W_x["h"][j], x) + b_x["h"][j] + dot(W_h["h"][j], h) + b_h["h"][j] for j in range(len(h))]
    return ([math.tanh(a_j) if nonlinearity == "tanh" else max(a_j, 0.0) for a_j in a],)


def lstm_stepper(weights, peephole, wiring):
    letters = in_the_papers_letters(weights, peephole, wiring)
    return lambda x, h, c: step(x, h, c, *letters, wiring), SIGNALS, ("hidden_state", "cell_state")


def stepper(module, weights):
    """A module's step as ``step(x, *states)``, the names of what it returns, and which of these go on to the next step."""
    if isinstance(module, (nn.GRU, nn.GRUCell)):
        letters = by_gate(weights, "rzn")
        return lambda x, h: gru_step(x, h, *letters), GRU_SIGNALS, ("hidden_state",)
    if isinstance(module, (nn.RNN, nn.RNNCell)):
        letters = by_gate(weights, "h")
        return lambda x, h: rnn_step(x, h, *letters, module.nonlinearity), RNN_SIGNALS, ("hidden_state",)
    return lstm_stepper(weights, *getattr(module, "form", (None, "previous")))


def walk(xs, states, stepper, reverse=False):
    """One sequence by a step of `stepper`: its signals, each ``(time, unit)`` in the order of the input."""
    step, names, carried = stepper
    steps = [None] * len(xs)
    for t in reversed(range(len(xs))) if reverse else range(len(xs)):
        steps[t] = dict(zip(names, step(xs[t], *states), strict=True))
        states = [steps[t][name] for name in carried]
    return {name: np.array([now[name] for now in steps]) for name in names}


def run_layer(xs, h, c, weights, peephole, wiring, reverse):
    """One sequence through one layer and direction of an LSTM."""
    return walk(xs, (h, c), lstm_stepper(weights, peephole, wiring), reverse)


def layer_weights(module, suffix):
    """One layer's parameters as nested lists, by their names without the suffix."""
    names = {name.removesuffix(f"_{suffix}"): name for name, _ in module.named_parameters() if name.endswith(f"_{suffix}")}
    return {short: getattr(module, name).detach().double().tolist() for short, name in names.items()}


def run_stack(module, xs, *states):
    """One sequence through a stack in evaluation mode: every layer's signals by suffix, its output, and each of its last states.

    ``xs`` is ``(time, feature)``; the initial states, ``h_0`` and where there is a cell ``c_0``, are ``(layer * direction, unit)``, in
    PyTorch's order.
    """
    signals, ends = {}, []
    rows = np.asarray(xs, dtype=np.float64).tolist()
    for layer in range(module.num_layers):
        tops = []
        for reverse in (False, True)[: 1 + module.bidirectional]:
            suffix, at = f"l{layer}" + "_reverse" * reverse, len(ends)
            by = stepper(module, layer_weights(module, suffix))
            signals[suffix] = walk(rows, [list(map(float, state[at])) for state in states], by, reverse)
            tops.append(signals[suffix]["hidden_state"])
            ends.append([signals[suffix][name][0 if reverse else -1] for name in by[2]])
        rows = np.concatenate(tops, axis=1).tolist()
    return signals, np.array(rows), *(np.array(of_one_state) for of_one_state in zip(*ends, strict=True))
