"""Is it what the layer computed? Recomputed against returned, and every recorded value against the readable equations."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from lstm_explain.errors import CertificateError
from lstm_explain.nn.equations import Form, Step, step
from lstm_explain.nn.layers import LayerRun, Run
from lstm_explain.trajectory import CallCheck, Trajectory

_TOLERANCES = {torch.float64: (1e-12, 1e-12), torch.float32: (1e-5, 1.3e-6), torch.float16: (5e-3, 5e-3), torch.bfloat16: (5e-2, 5e-2)}
"""Absolute and relative, by dtype; float32 as in `torch.testing.assert_close`."""


_ROWS = 4096
"""How many steps the equations are checked on at once: bounds memory, changes nothing else."""


def _difference(a: Tensor, b: Tensor) -> tuple[float, float, int]:
    """The largest absolute difference and value where both are finite, and how many values aren't; inf where the places differ."""
    if a.shape != b.shape:
        return float("inf"), 0.0, 0
    a, b = (t.detach().to(torch.promote_types(t.dtype, torch.float32)) for t in (a, b))
    difference, scale = float((a - b).abs_().max()), float(a.abs().max())
    if math.isfinite(difference) and math.isfinite(scale):
        return difference, scale, 0
    finite = a.isfinite()
    nonfinite = int((~finite).sum())
    if not torch.equal(finite, b.isfinite()):
        return float("inf"), 0.0, nonfinite
    if not finite.any():
        return 0.0, 0.0, nonfinite
    return float((a - b)[finite].abs().max()), float(a[finite].abs().max()), nonfinite


def _by_the_equations(layer: LayerRun, form: Form) -> tuple[float, float]:
    """Every recorded value beside what one readable step gives from the recorded state before it."""
    gates, seen, cell, hidden = layer.saved
    worst = scale = 0.0
    for at in range(0, len(hidden), _ROWS):
        rows = slice(at, at + _ROWS)
        h, c = seen[rows].split([hidden.shape[1], cell.shape[1]], dim=1)
        with torch.autocast(hidden.device.type, enabled=False):
            expected = step(layer.x[rows], h, c, layer.weights, form)
        i, f, g, o = gates[rows].unbind(1)
        recorded = Step(i, f, g, o, cell[rows], hidden[rows])
        for pair in zip(recorded, expected, strict=True):
            difference, size, _ = _difference(*pair)
            worst, scale = max(worst, difference), max(scale, size)
    return worst, scale


@torch.no_grad()
def certify(
    module: str,
    call: int,
    run: Run,
    form: Form,
    returned: tuple[Tensor | PackedSequence, tuple[Tensor, Tensor]],
    trajectories: Iterable[Trajectory],
) -> CallCheck:
    """Check one call: the run against what was returned and against the readable step, the trajectories against their names.

    Raises
    ------
    CertificateError
        If what was recorded isn't what the layer returned, or doesn't satisfy the layer's equations.
    """
    output, (h_n, c_n) = returned
    pairs = {"output": (run.output, output), "h_n": (run.h_n, h_n), "c_n": (run.c_n, c_n)}
    ends = {name: _difference(*(part.data if isinstance(part, PackedSequence) else part for part in pair)) for name, pair in pairs.items()}
    equations = [_by_the_equations(layer, form) for layer in run.layers]
    dtype = run.h_n.dtype
    absolute, relative = _TOLERANCES[dtype]
    scale = max([end[1] for end in ends.values()] + [scale for _, scale in equations])
    check = CallCheck(
        module=module,
        call=call,
        output=ends["output"][0],
        h_n=ends["h_n"][0],
        c_n=ends["c_n"][0],
        equations=max([difference for difference, _ in equations] + [trajectory.residual() for trajectory in trajectories]),
        scale=scale,
        tolerance=absolute + relative * scale,
        nonfinite=ends["output"][2],
        dtype=str(dtype).removeprefix("torch."),
    )
    if not check.worst <= check.tolerance:
        worst = max(("output", "h_n", "c_n", "equations"), key=lambda name: getattr(check, name))
        raise CertificateError(
            f"{module or 'the model'}, call {call}: what the equations give differs from what the layer returned by {check.worst:.1e} in "
            f"{worst}, at most {check.tolerance:.1e} was expected. Likely a subclass with a forward pass of its own, weights that are "
            "changed inside the call, or autocast; nothing of this call is kept"
        )
    return check
