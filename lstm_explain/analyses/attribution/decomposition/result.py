"""What a contextual decomposition is: the shares of a phrase, of everything else and of constants, with what is left over."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lstm_explain.display import jsonable, number, table
from lstm_explain.trajectory import Padding

if TYPE_CHECKING:
    from pandas import DataFrame

RESETS = (
    "contextual decomposition doesn't see resets: what a later step outside the phrase has made the network forget stays with the phrase, "
    "and everything else is charged for it"
)
"""What has to be known to read one."""


@dataclass(frozen=True, eq=False, repr=False)
class ContextualDecompositionResult:
    """What a phrase, everything else and constants contributed to one number of each example's output.

    Attributes
    ----------
    beta, gamma, bias : ndarray ``(batch,)``
        The shares of the phrase and of everything else (an initial state is among it), and what comes from neither: biases of what reads
        the recurrent layers. In units of the output.
    output : ndarray ``(batch,)``
        The number that was explained, as the model computed it.
    residual : ndarray ``(batch,)``
        ``beta + gamma + bias - output``: zero, to rounding, where everything but the recurrent layers is linear.
    converged : ndarray of bool ``(batch,)``
        Whether the residual is within the tolerance of `settings`.
    phrase : ndarray of bool ``(batch, time)``
    valid : ndarray of bool ``(batch, time)``
    explained : tuple of str ``(batch,)``
        Which element of the output, in words.
    settings : mapping
        All that is needed to repeat it.
    padding : {"none", "known", "unknown"}
    caution : str
        What the method can't see.
    """

    beta: NDArray[np.float64]
    gamma: NDArray[np.float64]
    bias: NDArray[np.float64]
    output: NDArray[np.float64]
    residual: NDArray[np.float64]
    converged: NDArray[np.bool_]
    phrase: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    explained: tuple[str, ...]
    settings: Mapping[str, Any]
    padding: Padding
    caution: str = RESETS

    def __repr__(self) -> str:
        batch, time = self.valid.shape
        what = self.explained[0] if len(set(self.explained)) == 1 else f"{self.explained[0]}, ..."
        return (
            f"<Contextual decomposition: batch {batch}, time {time}, of {what} by {self._steps()}; {self._check()}; "
            f"padding {self.padding}; {self.caution}>"
        )

    def _steps(self) -> str:
        sizes = sorted(set(self.phrase.sum(1).tolist()))
        few = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        return f"a phrase of {few} step{'' if sizes == [1] else 's'}"

    def _check(self) -> str:
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(self.residual == 0, 0.0, np.abs(self.residual) / np.abs(self.output))
        allowed = number(self.settings["tolerance"])
        within = f"within {allowed} (or rounding) for {int(self.converged.sum())} of {len(self.converged)}"
        return f"residual at most {float(share.max()):.1e} of the output, {within}"

    def _repr_html_(self) -> str:
        rows = []
        for at, what in enumerate(self.explained):
            shares = [f"{of_all[at]:.4g}" for of_all in (self.output, self.beta, self.gamma, self.bias)]
            steps = ", ".join(map(str, np.flatnonzero(self.phrase[at]))) or "none"
            rows.append((at, what, steps, *shares, f"{self.residual[at]:.1e}", "yes" if self.converged[at] else "no"))
        header = ("example", "explained", "phrase", "output", "phrase (β)", "rest (γ)", "bias", "residual", "within tolerance")
        return table(f"Contextual decomposition: {self._check()}; padding {self.padding}. Caution: {self.caution}.", header, rows)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers; None where a value isn't finite."""
        return dict(jsonable(vars(self)))

    def to_frame(self) -> "DataFrame":
        """A pandas frame, one row for each example. Needs pandas."""
        from pandas import DataFrame

        names = ("explained", "output", "beta", "gamma", "bias", "residual", "converged")
        return DataFrame({"example": np.arange(len(self.output)), **{name: getattr(self, name) for name in names}})
