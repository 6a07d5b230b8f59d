"""The equations a third time, one sequence and one step at a time in torch, every gradient kept: the oracle for gradients."""

import torch
from torch import sigmoid, tanh


def peephole(weights, gate, c, form):
    """What the cell adds to a gate: by whole matrices or unit by unit, ``previous`` for all of i, f, g, o, ``graves`` for i, f, o."""
    kind, wiring = form
    order = "ifgo" if wiring == "previous" else "ifo"
    if kind is None or gate not in order:
        return 0.0
    at, n = order.index(gate), len(c)
    return weights["weight_ch"][at * n : (at + 1) * n] @ c if kind == "full" else weights["weight_ch"][at] * c


def one_step(kind, form, weights, x, states):
    """One step of one sequence: its signals by name, each ``(unit,)``."""
    h, n = states[0], len(states[-1])
    b_x, b_h = weights.get("bias_ih", 0.0), weights.get("bias_hh", 0.0)
    from_x, from_h = weights["weight_ih"] @ x + b_x, weights["weight_hh"] @ h + b_h

    def z(at):
        return from_x[at * n : (at + 1) * n] + from_h[at * n : (at + 1) * n]

    if kind in ("tanh", "relu"):
        return {"hidden_state": getattr(torch, kind)(z(0))}
    if kind == "gru":
        r, keep = kept(sigmoid(z(0))), kept(sigmoid(z(1)))
        new = kept(tanh(from_x[2 * n :] + r * from_h[2 * n :]))
        return {"reset_gate": r, "update_gate": keep, "candidate": new, "hidden_state": new - keep * new + keep * h}
    c = states[1]
    i, f, g = (kept(act(z(at) + peephole(weights, "ifg"[at], c, form))) for at, act in enumerate((sigmoid, sigmoid, tanh)))
    after = kept(f * c + i * g)
    o = kept(sigmoid(z(3) + peephole(weights, "o", c if form[1] == "previous" else after, form)))
    m = o * tanh(after)
    hidden = weights["weight_hr"] @ m if "weight_hr" in weights else m
    return {"input_gate": i, "forget_gate": f, "cell_candidate": g, "output_gate": o, "cell_state": after, "hidden_state": hidden}


def kept(tensor):
    """The same, with its gradient to be kept."""
    tensor.retain_grad()
    return tensor


def weights_of(module, suffix):
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_ch", "weight_hr")
    found = {name: getattr(module, f"{name}_{suffix}" if suffix else name, None) for name in names}
    return {name: weight for name, weight in found.items() if weight is not None}


def kind_of(module):
    name = type(module).__name__
    return "gru" if name.startswith("GRU") else module.nonlinearity if name.startswith("RNN") else "lstm"


def run(module, sequences, states):
    """A stack, or a cell, over each sequence by itself.

    ``states`` are ``(layer * direction, sequence, unit)``. What comes back, for each sequence: the steps of each layer and direction
    by suffix, the rows of the top ``(time, unit)``, and the last states, each ``(layer * direction, unit)``.
    """
    kind, form = kind_of(module), getattr(module, "form", (None, "previous"))
    directions = 2 if getattr(module, "bidirectional", False) else 1
    results = []
    for at, xs in enumerate(sequences):
        rows, steps, ends = list(xs), {}, []
        for layer in range(getattr(module, "num_layers", 1)):
            tops = []
            for reverse in (False, True)[:directions]:
                suffix = f"l{layer}" + "_reverse" * reverse if hasattr(module, "num_layers") else ""
                now = [state[len(ends), at] for state in states]
                of = [None] * len(rows)
                for t in reversed(range(len(rows))) if reverse else range(len(rows)):
                    of[t] = one_step(kind, form, weights_of(module, suffix), rows[t], now)
                    now = [kept(of[t][name]) for name in ("hidden_state", "cell_state")[: len(states)]]
                steps[suffix] = of
                ends.append(now)
                tops.append([one["hidden_state"] for one in of])
            rows = [torch.cat(parts) for parts in zip(*tops, strict=True)]
        results.append((steps, torch.stack(rows), [torch.stack(state) for state in zip(*ends, strict=True)]))
    return results
