"""The equations a second time, from the paper, unit by unit in plain Python: slow, and the oracle for everything faster."""

import math

import numpy as np

SIGNALS = ("input_gate", "forget_gate", "cell_candidate", "output_gate", "cell_state", "hidden_state")


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


def run_layer(xs, h, c, weights, peephole, wiring, reverse):
    """One sequence through one layer and direction: its signals, each ``(time, unit)`` in the order of the input."""
    letters = in_the_papers_letters(weights, peephole, wiring)
    steps = [None] * len(xs)
    for t in reversed(range(len(xs))) if reverse else range(len(xs)):
        steps[t] = step(xs[t], h, c, *letters, wiring)
        c, h = steps[t][4:]
    return {name: np.array([now[at] for now in steps]) for at, name in enumerate(SIGNALS)}


def layer_weights(module, suffix):
    """One layer's parameters as nested lists, by their names without the suffix."""
    names = {name.removesuffix(f"_{suffix}"): name for name, _ in module.named_parameters() if name.endswith(f"_{suffix}")}
    return {short: getattr(module, name).detach().double().tolist() for short, name in names.items()}


def run_stack(module, xs, h_0, c_0):
    """One sequence through a stack in evaluation mode: every layer's signals by suffix, its output, and its last states.

    ``xs`` is ``(time, feature)``; ``h_0`` and ``c_0`` are ``(layer * direction, unit)``, in PyTorch's order.
    """
    peephole, wiring = getattr(module, "peephole", None), getattr(module, "wiring", "previous")
    signals, h_n, c_n = {}, [], []
    rows = np.asarray(xs, dtype=np.float64).tolist()
    for layer in range(module.num_layers):
        tops = []
        for reverse in (False, True)[: 1 + module.bidirectional]:
            suffix, at = f"l{layer}" + "_reverse" * reverse, len(h_n)
            start = list(map(float, h_0[at])), list(map(float, c_0[at]))
            signals[suffix] = run_layer(rows, *start, layer_weights(module, suffix), peephole, wiring, reverse)
            h, c = signals[suffix]["hidden_state"], signals[suffix]["cell_state"]
            tops.append(h)
            h_n.append(h[0 if reverse else -1])
            c_n.append(c[0 if reverse else -1])
        rows = np.concatenate(tops, axis=1).tolist()
    return signals, np.array(rows), np.array(h_n), np.array(c_n)
