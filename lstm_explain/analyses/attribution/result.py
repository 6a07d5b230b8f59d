"""What an attribution is: a number for each step and feature, with its residual."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lstm_explain.display import jsonable, number, table
from lstm_explain.errors import InputError
from lstm_explain.trajectory import Padding

if TYPE_CHECKING:
    from pandas import DataFrame


def share_of_difference(residual: NDArray[np.float64], output: NDArray[np.float64], before: NDArray[np.float64]) -> NDArray[np.float64]:
    """The size of residuals as a share of what the outputs differ by; infinite where they don't differ, 0 where nothing is left over."""
    size = np.abs(residual)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(size == 0, 0.0, size / np.abs(output - before))


@dataclass(frozen=True, eq=False, repr=False)
class AttributionResult:
    """What each input contributed to one number of each example's output.

    Attributes
    ----------
    attributions : ndarray ``(batch, time[, feature])``
        In units of the output; exactly zero at padding. For tokens, `feature` is the embedding's axis. A method that replaces inputs has
        one value for each step where it doesn't divide steps; a group's value is in equal shares on its valid inputs, so that sums are
        right, and whole in `by_group`. Of several inputs, the first one's.
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
        gradients, Shapley values and the decompositions; gradient_shap adds up on average over its draws.
    explained : tuple of str ``(batch,)``
        Which element of the output, in words.
    method : str
    settings : mapping
        All that is needed to repeat it.
    padding : {"none", "known", "unknown"}
    others : tuple of ndarray
        Of several inputs, those after the first, each in its own shape.
    groups : tuple of str, or None
        Where groups were asked for, their names.
    by_group : ndarray ``(batch, group)`` or None
        What each group contributed, or its sum; groups are all of the inputs, so that the residual is the same.
    spread : ndarray as `attributions`, or None
        The standard error of random draws: how far, as one standard deviation, the mean would be from itself with another seed. None for a
        method that draws nothing.
    group_spread : ndarray ``(batch, group)`` or None
        The same of `by_group`.
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
    others: tuple[NDArray[np.float64], ...] = ()
    groups: tuple[str, ...] | None = None
    by_group: NDArray[np.float64] | None = None
    spread: NDArray[np.float64] | None = None
    group_spread: NDArray[np.float64] | None = None
    elsewhere: Mapping[str, NDArray[np.float64]] | None = None

    @property
    def by_step(self) -> NDArray[np.float64]:
        """The attributions of each step, summed over features: ``(batch, time)``; of several inputs, the first one's."""
        summed: NDArray[np.float64] = self.attributions.reshape(*self.valid.shape, -1).sum(2)
        return summed

    @property
    def relative_delta(self) -> NDArray[np.float64] | None:
        """The size of the residual as a share of the difference of outputs ``(batch,)``; infinite where the outputs don't differ.

        Of a decomposition it is the share of the output.
        """
        before = np.zeros_like(self.output) if self.baseline_output is None else self.baseline_output
        return None if self.convergence_delta is None else share_of_difference(self.convergence_delta, self.output, before)

    def __repr__(self) -> str:
        batch, time = self.valid.shape
        return f"<Attribution by {self.method}: batch {batch}, time {time}, of {self._what()}; {self._check()}; padding {self.padding}>"

    def _what(self) -> str:
        what = self.explained[0] if len(set(self.explained)) == 1 else f"{self.explained[0]}, ..."
        return f"{what}, to {self.settings['credit_to']}" if "credit_to" in self.settings else what

    @property
    def unit(self) -> str:
        """What the attributions are measured in."""
        return "rescaled in time, from 0 to 1" if self.settings.get("temporal_rescaling") else "in units of the output"

    def _check(self) -> str:
        return self._adds_up() if self.spread is None else f"{self._adds_up()}; standard error at most {float(self.spread.max()):.1e}"

    def _adds_up(self) -> str:
        if self.settings.get("temporal_rescaling"):
            return "rescaled in time, which doesn't add up"
        if self.relative_delta is None:
            return "doesn't claim to add up"
        whole = "output" if self.elsewhere is not None else "difference of outputs"
        residual = f"residual at most {float(self.relative_delta.max()):.1e} of the {whole}"
        if self.method == "gradient_shap":
            return f"{residual}; it adds up on average over its draws"
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

    def groups_to_frame(self) -> "DataFrame":
        """A pandas frame, one row for each group of each example. Needs pandas.

        Raises
        ------
        InputError
            If there are no groups.
        """
        from pandas import DataFrame

        if self.groups is None or self.by_group is None:
            raise InputError("needed attributions to groups, got none: give lx.attribute by=")
        batch, count = self.by_group.shape
        columns = {"example": np.repeat(np.arange(batch), count), "group": list(self.groups) * batch, "attribution": self.by_group.ravel()}
        return DataFrame(columns if self.group_spread is None else columns | {"spread": self.group_spread.ravel()})
