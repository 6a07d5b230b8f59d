"""What an attribution is: a number for each step and feature, with its residual."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lstm_explain.display import jsonable, number, table
from lstm_explain.trajectory import Padding

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, eq=False, repr=False)
class AttributionResult:
    """What each input contributed to one number of each example's output.

    Attributes
    ----------
    attributions : ndarray ``(batch, time[, feature])``
        In units of the output; exactly zero at padding. For tokens, `feature` is the embedding's axis. Occlusion has one value for each
        step.
    valid : ndarray of bool ``(batch, time)``
    output : ndarray ``(batch,)``
        The number that was explained.
    baseline_output : ndarray ``(batch,)`` or None
        The same number with the baseline in place of the input; None for a method without one.
    convergence_delta : ndarray ``(batch,)`` or None
        The residual, what the attributions are short of adding up, or beyond it: their sum less `output` plus `baseline_output`; of a
        decomposition their sum and that of `elsewhere` less `output`. None for a method that has neither.
    converged : ndarray of bool ``(batch,)`` or None
        Whether the residual is within the tolerance of `settings`. None for a method that doesn't claim to add up: all but integrated
        gradients and the decompositions.
    explained : tuple of str ``(batch,)``
        Which element of the output, in words.
    method : str
    settings : mapping
        All that is needed to repeat it.
    padding : {"none", "known", "unknown"}
    elsewhere : mapping of str to ndarray ``(batch,)``, or None
        What a decomposition credits to others than the inputs, in units of the output. LRP: ``bias``, ``initial_state``, ``epsilon`` (what
        the ε-rule has taken). Cell decomposition: ``initial_state``, the top layer's, whatever computed it, and ``constant``, the output
        where that layer's state is zero. Both: ``padding``, where the model reads it.
    """

    attributions: NDArray[np.float64]
    valid: NDArray[np.bool_]
    output: NDArray[np.float64]
    baseline_output: NDArray[np.float64] | None
    convergence_delta: NDArray[np.float64] | None
    converged: NDArray[np.bool_] | None
    explained: tuple[str, ...]
    method: str
    settings: Mapping[str, Any]
    padding: Padding
    elsewhere: Mapping[str, NDArray[np.float64]] | None = None

    @property
    def by_step(self) -> NDArray[np.float64]:
        """The attributions of each step, summed over features: ``(batch, time)``."""
        summed: NDArray[np.float64] = self.attributions.reshape(*self.valid.shape, -1).sum(2)
        return summed

    @property
    def relative_delta(self) -> NDArray[np.float64] | None:
        """The size of the residual as a share of the difference of outputs ``(batch,)``; infinite where the outputs don't differ.

        Of a decomposition it is the share of the output.
        """
        if self.convergence_delta is None:
            return None
        residual = np.abs(self.convergence_delta)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = residual / np.abs(self.output - (0.0 if self.baseline_output is None else self.baseline_output))
        return np.where(residual == 0, 0.0, share)

    def __repr__(self) -> str:
        batch, time = self.valid.shape
        return f"<Attribution by {self.method}: batch {batch}, time {time}, of {self._what()}; {self._check()}; padding {self.padding}>"

    def _what(self) -> str:
        what = self.explained[0] if len(set(self.explained)) == 1 else f"{self.explained[0]}, ..."
        return f"{what}, to {self.settings['credit_to']}" if "credit_to" in self.settings else what

    def _check(self) -> str:
        if self.relative_delta is None:
            return "doesn't claim to add up"
        whole = "output" if self.elsewhere is not None else "difference of outputs"
        residual = f"residual at most {float(self.relative_delta.max()):.1e} of the {whole}"
        if self.converged is None:
            return f"{residual}, but it doesn't claim to add up"
        allowed = number(self.settings["tolerance"])
        return f"{residual}, within {allowed} (or rounding) for {int(self.converged.sum())} of {len(self.converged)}"

    def _repr_html_(self) -> str:
        rows = []
        for at, what in enumerate(self.explained):
            before = "" if self.baseline_output is None else f"{self.baseline_output[at]:.4g}"
            delta = "" if self.convergence_delta is None else f"{self.convergence_delta[at]:.1e}"
            strongest = int(np.abs(self.by_step[at]).argmax())
            within = "" if self.converged is None else "yes" if self.converged[at] else "no"
            others = [f"{share[at]:.3g}" for share in (self.elsewhere or {}).values()]
            strong = f"{strongest} ({self.by_step[at, strongest]:.3g})"
            rows.append((at, what, f"{self.output[at]:.4g}", before, *others, delta, within, strong))
        to = [f"to {name.replace('_', ' ')}" for name in self.elsewhere or {}]
        header = ("example", "explained", "output", "baseline's output", *to, "residual", "within tolerance", "strongest step")
        return table(f"Attribution by {self.method}: {self._check()}; padding {self.padding}", header, rows)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers; None where a value isn't finite."""
        return dict(jsonable(vars(self)))

    def to_frame(self) -> "DataFrame":
        """A pandas frame, one row for each valid step of each example. Needs pandas."""
        from pandas import DataFrame

        example, step = np.nonzero(self.valid)
        return DataFrame({"example": example, "step": step, "attribution": self.by_step[self.valid]})
