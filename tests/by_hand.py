"""The equations with something done to them by hand, one sequence and one step at a time in torch: the oracle for interventions."""

import torch
from torch import sigmoid, tanh
from unrolled import kind_of, peephole, weights_of


def one_step(kind, form, weights, x, states, edit):
    """One step of one sequence; `edit` is called with each signal's name and value ``(unit,)`` and gives the one to go on with."""
    h, n = states[0], len(states[-1])
    b_x, b_h = weights.get("bias_ih", 0.0), weights.get("bias_hh", 0.0)
    from_x, from_h = weights["weight_ih"] @ x + b_x, weights["weight_hh"] @ h + b_h

    def z(at):
        return from_x[at * n : (at + 1) * n] + from_h[at * n : (at + 1) * n]

    if kind in ("tanh", "relu"):
        return {"hidden_state": edit("hidden_state", getattr(torch, kind)(z(0)))}
    if kind == "gru":
        r, keep = edit("reset_gate", sigmoid(z(0))), edit("update_gate", sigmoid(z(1)))
        new = edit("candidate", tanh(from_x[2 * n :] + r * from_h[2 * n :]))
        return {"reset_gate": r, "update_gate": keep, "candidate": new, "hidden_state": edit("hidden_state", new - keep * new + keep * h)}
    c = states[1]
    i = edit("input_gate", sigmoid(z(0) + peephole(weights, "i", c, form)))
    f = edit("forget_gate", sigmoid(z(1) + peephole(weights, "f", c, form)))
    g = edit("cell_candidate", tanh(z(2) + peephole(weights, "g", c, form)))
    after = edit("cell_state", f * c + i * g)
    o = edit("output_gate", sigmoid(z(3) + peephole(weights, "o", c if form[1] == "previous" else after, form)))
    m = o * tanh(after)
    hidden = edit("hidden_state", weights["weight_hr"] @ m if "weight_hr" in weights else m)
    return {"input_gate": i, "forget_gate": f, "cell_candidate": g, "output_gate": o, "cell_state": after, "hidden_state": hidden}


def run(module, sequences, states, edits, feedback=True):
    """A stack, or a cell in a loop, over each sequence by itself.

    ``states`` are ``(layer * direction, sequence, unit)``; ``edits[suffix](b, t, length, name, value)`` gives what a signal becomes. What
    comes back, for each sequence: signals by suffix, each ``(time, unit)``; the top's rows; the last states ``(layer * direction, unit)``.
    """
    kind, form = kind_of(module), getattr(module, "form", (None, "previous"))
    directions = 2 if getattr(module, "bidirectional", False) else 1
    results = []
    for b, xs in enumerate(sequences):
        rows, signals, ends = list(xs), {}, []
        for layer in range(getattr(module, "num_layers", 1)):
            tops = []
            for reverse in (False, True)[:directions]:
                suffix = f"l{layer}" + "_reverse" * reverse if hasattr(module, "num_layers") else ""
                now = left = [state[len(ends), b] for state in states]
                names = ("hidden_state", "cell_state")[: len(states)]
                steps = [None] * len(rows)
                for t in reversed(range(len(rows))) if reverse else range(len(rows)):

                    def edit(name, value, t=t, suffix=suffix, rows=rows, b=b):
                        return edits[suffix](b, t, len(rows), name, value) if suffix in edits else value

                    steps[t] = one_step(kind, form, weights_of(module, suffix), rows[t], now, edit)
                    clean = steps[t] if feedback else one_step(kind, form, weights_of(module, suffix), rows[t], now, lambda _, value: value)
                    now, left = [clean[name] for name in names], [steps[t][name] for name in names]
                signals[suffix] = {name: torch.stack([one[name] for one in steps]) for name in steps[0]}
                ends.append(left)
                tops.append([one["hidden_state"] for one in steps])
            rows = [torch.cat(parts) for parts in zip(*tops, strict=True)]
        results.append((signals, torch.stack(rows), [torch.stack(state) for state in zip(*ends, strict=True)]))
    return results
