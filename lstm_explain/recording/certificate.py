"""Is it what the layer computed? Recomputed against returned, and every recorded value against the layer's equations."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from lstm_explain.display import number, table
from lstm_explain.errors import CertificateError
from lstm_explain.recording.difference import compare
from lstm_explain.recording.opened import Opened
from lstm_explain.trajectory import Trajectory

_TOLERANCES = {torch.float64: (1e-12, 1e-12), torch.float32: (1e-5, 1.3e-6), torch.float16: (5e-3, 5e-3), torch.bfloat16: (5e-2, 5e-2)}
"""Absolute and relative, by dtype; float32 as in `torch.testing.assert_close`."""


_SAMPLE = 3
"""Steps on which names are checked: a wrong one is wrong at all of them, and the values have been checked already."""


class CallCheck(NamedTuple):
    """The check of one call of one module: recomputed against returned, and every recorded value against the equations.

    Differences are the largest absolute ones; ``scale`` is the largest absolute value compared; ``tolerance`` is what a difference may be
    at that scale in that dtype. ``rounding`` is what rounding alone may add up to in the cell state over many steps with forget gates
    near 1, 0 where that wasn't needed: ``c_n`` may differ by so much more, and in ``equations`` what it may do to each hidden state is
    left out; of a peephole LSTM what it may do to any value within one step, where that isn't little. ``c_n`` is 0 where there is no
    cell, and stands for all further states of a registered cell. ``nonfinite`` counts NaN and infinite values in the call's output; they
    must stand at the same places in both, and are left out of the differences. ``edited`` names the signals that `lstm_explain.intervene`
    changed: there the recorded value is held against the edit's, and everywhere else against the equations. ``sampled`` of ``steps`` were
    recomputed from their inputs, where it wasn't all of them (``record(fast=True)``): the output is the compiled kernel's then, and
    differs from the layer's own by rounding.
    """

    module: str
    call: int
    output: float
    h_n: float
    c_n: float
    equations: float
    scale: float
    tolerance: float
    nonfinite: int
    dtype: str
    rounding: float = 0.0
    edited: str = ""
    sampled: int = 0
    steps: int = 0

    @property
    def worst(self) -> float:
        """The largest of the four differences."""
        return max(self.output, self.h_n, self.c_n, self.equations)

    @property
    def nearest(self) -> tuple[str, float, float]:
        """The difference that comes nearest to what is allowed: its name, itself, and what is allowed."""
        plain, cell = self.tolerance, self.tolerance + self.rounding
        found = (("output", self.output, plain), ("h_n", self.h_n, plain), ("c_n", self.c_n, cell), ("equations", self.equations, plain))
        return max(found, key=lambda one: one[1] / one[2])

    @property
    def share(self) -> float:
        """The largest difference as a share of what is allowed."""
        _, difference, allowed = self.nearest
        return difference / allowed


@dataclass(frozen=True, repr=False)
class Certificate:
    """Whether a recording is what the model computed.

    Attributes
    ----------
    calls : tuple of CallCheck
        One for each call; where nothing was kept of the calls (``into=``), the worst one of each module.
    count : int or None
        How many calls were checked, where `calls` hasn't all of them.
    kept : str or None
        What was kept, where it wasn't everything.
    """

    calls: tuple[CallCheck, ...]
    count: int | None = None
    kept: str | None = None

    @property
    def state(self) -> Literal["certified", "partial", "sampled", "uncertified"]:
        """Whether every call was checked and held.

        ``partial``: it was, and then some signals weren't kept, so that what is left can't all be checked again. ``sampled``: some calls
        were computed by the compiled kernels and checked at some of their steps (``record(fast=True)``). ``uncertified``: nothing was
        recorded.
        """
        if not self.calls or not all(call.share <= 1 for call in self.calls):
            return "uncertified"
        if any(call.sampled for call in self.calls):
            return "sampled"
        return "partial" if self.kept else "certified"

    @property
    def worst(self) -> CallCheck:
        """The call that comes nearest to what is allowed.

        Raises
        ------
        ValueError
            If nothing was recorded.
        """
        return max(self.calls, key=lambda call: call.share)

    def __str__(self) -> str:
        if not self.calls:
            return "uncertified: nothing was recorded"
        worst, count = self.worst, self.count or len(self.calls)
        name, difference, allowed = worst.nearest
        rounding = f", {worst.rounding:.1e} of it for rounding over many steps" if worst.rounding and name == "c_n" else ""
        kept = f"; kept: {self.kept}" if self.kept else ""
        changed = ", ".join(dict.fromkeys(one for call in self.calls for one in call.edited.split(", ") if one))
        edited = f"; edited: {changed}" if changed else ""
        calls = f"{count} call{'s' if count > 1 else ''}"
        if self.state == "sampled":
            sampled, steps = (sum(getattr(call, name) for call in self.calls) for name in ("sampled", "steps"))
            done = f"{calls} computed by the compiled kernels, {number(sampled)} of {number(steps)} steps recomputed"
        else:
            done = f"{calls} recomputed"
        return f"{self.state}: {done}, largest difference {difference:.1e} (allowed {allowed:.1e}{rounding}, {worst.dtype}){edited}{kept}"

    def __repr__(self) -> str:
        return f"<Certificate: {self}>"

    def _repr_html_(self) -> str:
        rows = [(c.module or "(root)", c.call, *(f"{value:.1e}" for value in c.nearest[1:]), c.dtype) for c in self.calls]
        return table(str(self), ("module", "call", "largest difference", "allowed", "dtype"), rows)


@torch.no_grad()
def certify(module: str, call: int, opened: Opened, trajectories: Iterable[Trajectory]) -> CallCheck:
    """Check one call: what was recomputed against what was returned, and the trajectories by their names.

    Parameters
    ----------
    module, call
        Which it is, for the message.
    opened : Opened
        The call, recomputed.
    trajectories : iterable of Trajectory
        What would be recorded, where its names are to be checked as well.

    Raises
    ------
    CertificateError
        If what was recorded isn't what the layer returned, or doesn't satisfy the layer's equations.
    """
    ends = {name: compare(tensor, opened.returned[name]) for name, tensor in opened.expected.items()}
    layers = [found for layer in opened.layers for found in layer.checked()]
    named = [0.0, *(trajectory.residual(_SAMPLE) for trajectory in trajectories)]
    absolute, relative = _TOLERANCES[opened.dtype]
    scale = max(found.scale for found in [*ends.values(), *layers])
    finite = not any(found.nonfinite for found in [*ends.values(), *layers])
    check = CallCheck(
        module=module,
        call=call,
        output=ends["output"].difference if "output" in ends else 0.0,
        h_n=ends["h_n"].difference if "h_n" in ends else 0.0,
        c_n=max((end.difference for name, end in ends.items() if name not in ("output", "h_n")), default=0.0),
        equations=max([*named, *(found.difference for found in layers)]),
        scale=scale,
        tolerance=absolute + relative * scale,
        nonfinite=0 if finite else int((~opened.returned["output"].isfinite()).sum()),
        dtype=str(opened.dtype).removeprefix("torch."),
        sampled=0 if opened.sample is None else opened.sample.steps,
        steps=0 if opened.sample is None else opened.sample.of,
    )
    if not check.share <= 1:
        if rounded := [layer.rounding(opened.dtype) for layer in opened.layers if layer.rounding]:
            left = [found.difference for one in rounded for found in one.checked()]
            check = check._replace(rounding=max(one.cell for one in rounded), equations=max([*named, *left]))
    if not check.share <= 1:
        worst, difference, allowed = check.nearest
        raise CertificateError(
            f"{module or 'the model'}, call {call}: what the equations give differs from what the layer returned by "
            f"{difference:.1e} in {worst}, at most {allowed:.1e} was expected. Likely a subclass with a forward pass of "
            "its own, or weights that are changed inside the call; nothing of this call is kept"
        )
    return check
