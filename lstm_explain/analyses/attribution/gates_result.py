"""What an attribution to a gate or a state is: a number for each step and unit, with its residual."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lstm_explain.analyses.attribution.result import share_of_difference
from lstm_explain.display import jsonable, number, table
from lstm_explain.trajectory import Padding

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, eq=False, repr=False)
class GateAttributionResult:
    """What a gate or a state of one layer contributed, at each step and unit, to one number of each example's output.

    Attributes
    ----------
    attributions : ndarray ``(batch, time, unit)``
        In units of the output; by ``gradient``, of the output by those of the signal. Steps in the order of the input, exactly zero at
        padding.
    values, baselines : ndarray ``(batch, time, unit)``
        What the signal was, and what stands for "nothing was there"; zero at padding.
    valid : ndarray of bool ``(batch, time)``
    output : ndarray ``(batch,)``
        The number that was explained, with the signal held at what it was.
    noop : ndarray ``(batch,)``
        A control: by how much that differs from what the model says by itself; nothing, to rounding.
    baseline_output : ndarray ``(batch,)`` or None
        The same number with the signal held at the baseline; None for the gradient, which has none.
    convergence_delta : ndarray ``(batch,)`` or None
        The residual: the sum of the attributions less `output` plus `baseline_output`.
    converged : ndarray of bool ``(batch,)`` or None
        Whether the residual is within the tolerance of `settings`; None for a method that doesn't claim to add up: all but integrated
        gradients.
    explained : tuple of str ``(batch,)``
        Which element of the output, in words.
    layer, signal, method : str
    settings : mapping
        All that is needed to repeat it.
    padding : {"none", "known", "unknown"}
    """

    attributions: NDArray[np.float64]
    values: NDArray[np.float64]
    baselines: NDArray[np.float64]
    valid: NDArray[np.bool_]
    output: NDArray[np.float64]
    noop: NDArray[np.float64]
    baseline_output: NDArray[np.float64] | None
    convergence_delta: NDArray[np.float64] | None
    converged: NDArray[np.bool_] | None
    explained: tuple[str, ...]
    layer: str
    signal: str
    method: str
    settings: Mapping[str, Any]
    padding: Padding

    @property
    def by_step(self) -> NDArray[np.float64]:
        """The attributions of each step, summed over units: ``(batch, time)``."""
        summed: NDArray[np.float64] = self.attributions.sum(2)
        return summed

    @property
    def by_unit(self) -> NDArray[np.float64]:
        """The attributions of each unit, summed over steps: ``(batch, unit)``."""
        summed: NDArray[np.float64] = self.attributions.sum(1)
        return summed

    @property
    def relative_delta(self) -> NDArray[np.float64] | None:
        """The size of the residual as a share of the difference of outputs ``(batch,)``; infinite where the outputs don't differ."""
        if self.convergence_delta is None or self.baseline_output is None:
            return None
        return share_of_difference(self.convergence_delta, self.output, self.baseline_output)

    @property
    def unit(self) -> str:
        """What the attributions are measured in."""
        return f"change of the output by that of the {self._words}" if self.method == "gradient" else "in units of the output"

    @property
    def _words(self) -> str:
        return self.signal.replace("_", " ")

    def __repr__(self) -> str:
        batch, time, units = self.attributions.shape
        what = self.explained[0] if len(set(self.explained)) == 1 else f"{self.explained[0]}, ..."
        return (
            f"<Attribution to {self.signal} of {self.layer} by {self.method}: batch {batch}, time {time}, unit {units}, of {what}; "
            f"{self.check}; padding {self.padding}>"
        )

    @property
    def check(self) -> str:
        """What is known of how far it is to be trusted, in words."""
        held = f"held at what it was the output differs by at most {float(self.noop.max()):.1e}"
        if self.relative_delta is None:
            return f"doesn't claim to add up; {held}"
        residual = f"residual at most {float(self.relative_delta.max()):.1e} of the difference of outputs"
        if self.converged is None:
            return f"{residual}, but it doesn't claim to add up; {held}"
        allowed = number(self.settings["tolerance"])
        return f"{residual}, within {allowed} (or rounding) for {int(self.converged.sum())} of {len(self.converged)}; {held}"

    def _repr_html_(self) -> str:
        rows = []
        for at, what in enumerate(self.explained):
            before = "" if self.baseline_output is None else f"{self.baseline_output[at]:.4g}"
            delta = "" if self.convergence_delta is None else f"{self.convergence_delta[at]:.1e}"
            within = "" if self.converged is None else "yes" if self.converged[at] else "no"
            step, unit = np.unravel_index(np.abs(self.attributions[at]).argmax(), self.attributions.shape[1:])
            strongest = f"step {step}, unit {unit} ({self.attributions[at, step, unit]:.3g})"
            rows.append((at, what, f"{self.output[at]:.4g}", before, delta, within, strongest))
        header = ("example", "explained", "output", "with the baseline", "residual", "within tolerance", "strongest")
        caption = f"Attribution to {self.signal} of {self.layer} by {self.method}: {self.check}; padding {self.padding}"
        return table(caption, header, rows)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers; None where a value isn't finite."""
        return dict(jsonable(vars(self)))

    def to_frame(self) -> "DataFrame":
        """A pandas frame, one row for each unit at each valid step of each example. Needs pandas."""
        from pandas import DataFrame

        example, step, unit = np.nonzero(np.broadcast_to(self.valid[:, :, None], self.attributions.shape))
        at = example, step, unit
        columns = {"example": example, "step": step, "unit": unit, "value": self.values[at], "attribution": self.attributions[at]}
        return DataFrame(columns)
