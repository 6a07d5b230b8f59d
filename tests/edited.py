"""A stack or a cell from the equations, one sequence and step at a time, with every value edited before anything reads it."""

import torch
from cases import apart, close, drawn_states, last_states
from torch import nn


def keep(suffix, name, t, value):
    return value


def weights_of(module, suffix):
    end = f"_{suffix}" if suffix else ""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_ch", "weight_hr")
    found = {name: getattr(module, f"{name}{end}", None) for name in names}
    return {name: weight.detach().double() for name, weight in found.items() if weight is not None}


def step(module, weights, x, states, edit):
    """Every signal of one step, ``(unit,)``, by name."""
    zeros = torch.zeros(len(weights["weight_ih"]), dtype=torch.float64)
    read = weights["weight_ih"] @ x + weights.get("bias_ih", zeros)
    kept = weights["weight_hh"] @ states[0] + weights.get("bias_hh", zeros)
    if isinstance(module, (nn.RNN, nn.RNNCell)):
        a = read + kept
        return {"hidden_state": edit("hidden_state", torch.tanh(a) if module.nonlinearity == "tanh" else a.clamp(min=0))}
    if isinstance(module, (nn.GRU, nn.GRUCell)):
        (r_x, z_x, n_x), (r_h, z_h, n_h) = read.chunk(3), kept.chunk(3)
        r = edit("reset_gate", torch.sigmoid(r_x + r_h))
        z = edit("update_gate", torch.sigmoid(z_x + z_h))
        n = edit("candidate", torch.tanh(n_x + r * n_h))
        h = edit("hidden_state", (1 - z) * n + z * states[0])
        return {"reset_gate": r, "update_gate": z, "candidate": n, "hidden_state": h}
    peephole, wiring = getattr(module, "form", (None, "previous"))
    rows = "" if peephole is None else "ifgo" if wiring == "previous" else "ifo"
    seen = dict(zip(rows, weights["weight_ch"].chunk(len(rows)), strict=True)) if rows else {}

    def z(gate, c):
        W = seen.get(gate)
        through = 0 if W is None else W @ c if peephole == "full" else W[0] * c
        return (read + kept).chunk(4)["ifgo".index(gate)] + through

    c = states[1]
    i = edit("input_gate", torch.sigmoid(z("i", c)))
    f = edit("forget_gate", torch.sigmoid(z("f", c)))
    g = edit("cell_candidate", torch.tanh(z("g", c)))
    c_new = edit("cell_state", f * c + i * g)
    o = edit("output_gate", torch.sigmoid(z("o", c if wiring == "previous" else c_new)))
    m = o * torch.tanh(c_new)
    h = edit("hidden_state", weights["weight_hr"] @ m if "weight_hr" in weights else m)
    return {"input_gate": i, "forget_gate": f, "cell_candidate": g, "output_gate": o, "cell_state": c_new, "hidden_state": h}


def run_layer(module, weights, suffix, xs, states, edit):
    """One sequence through one layer and direction: its steps in the order of the input, and its last states."""
    names = ("hidden_state", "cell_state")[: len(states)]
    steps = [None] * len(xs)
    for t in range(len(xs))[:: -1 if suffix.endswith("_reverse") else 1]:
        steps[t] = step(module, weights, xs[t], states, lambda name, value, t=t: edit(suffix, name, t, value))
        states = [steps[t][name] for name in names]
    return {name: torch.stack([now[name] for now in steps]) for name in steps[0]}, states


def run_stack(module, xs, states, edit=keep, between=None):
    """One sequence through a stack: signals by suffix, output, last states; `between` is what happens between layers."""
    signals, ends, rows = {}, [], xs
    for layer in range(module.num_layers):
        tops = []
        rows = between(layer, rows) if between and layer else rows
        for reverse in range(1 + module.bidirectional):
            suffix = f"l{layer}" + "_reverse" * reverse
            start = [state[len(ends)] for state in states]
            signals[suffix], last = run_layer(module, weights_of(module, suffix), suffix, rows, start, edit)
            tops.append(signals[suffix]["hidden_state"])
            ends.append(last)
        rows = torch.cat(tops, dim=1)
    return signals, rows, [torch.stack(of_one) for of_one in zip(*ends, strict=True)]


def edited(case, module, edit=keep):
    """What `run_stack` gives for each sequence of the case, in the order of the input."""
    sequences, states = drawn_states(case, 1 if isinstance(module, (nn.GRU, nn.RNN)) else 2)
    return [run_stack(module, xs, start, edit) for xs, start in zip(sequences, states, strict=True)]


def same(case, returned, expected):
    """A stack's output and last states, against what `edited` gives."""
    ends = [state.detach().unsqueeze(1) if case.layout == "unbatched" else state.detach() for state in last_states(returned[1])]
    for at, (rows, (_, slow_rows, slow_ends)) in enumerate(zip(apart(case, returned[0]), expected, strict=True)):
        close(rows.detach(), slow_rows)
        for end, slow in zip(ends, slow_ends, strict=True):
            close(end[:, at], slow)
