"""What does one unit do while it reads this text? Karpathy, Johnson & Li (2015) made the picture famous."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lstm_explain.display import jsonable
from lstm_explain.errors import InputError
from lstm_explain.recording.recording import Recording

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, eq=False, repr=False)
class UnitTextResult:
    """One unit's value after each token of one sequence.

    Attributes
    ----------
    tokens : tuple of str ``(time,)``
        Characters or words; an empty string where a step reads nothing that can be shown.
    values : ndarray ``(time,)``
        The unit's value after reading the token.
    marks : ndarray of bool ``(time,)`` or None
        Where a label holds, to be shown beside the unit.
    layer, unit, signal
        Which unit it is.
    """

    tokens: tuple[str, ...]
    values: NDArray[np.float64]
    marks: NDArray[np.bool_] | None
    layer: str
    unit: int
    signal: str

    def __repr__(self) -> str:
        lowest, highest = self.values.min(), self.values.max()
        return f"<UnitText of {self.layer} unit {self.unit}, {self.signal}: {len(self.tokens)} tokens, {lowest:.2f} to {highest:.2f}>"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<p>{escape(repr(self))}</p>"

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers; None where a value isn't finite."""
        return dict(jsonable(vars(self)))

    def to_frame(self) -> "DataFrame":
        """A pandas frame, one row for each token. Needs pandas."""
        from pandas import DataFrame

        return DataFrame({"token": self.tokens, "value": self.values} | ({} if self.marks is None else {"mark": self.marks}))


def unit_text(
    recording: Recording,
    tokens: Sequence[str],
    *,
    layer: str,
    unit: int,
    signal: str | None = None,
    sequence: int = 0,
    start: int = 0,
    stop: int | None = None,
    marks: Sequence[bool] | NDArray[np.bool_] | None = None,
) -> UnitTextResult:
    """One unit's value over the tokens of one sequence.

    Parameters
    ----------
    recording : Recording
    tokens : str or sequence of str ``(time,)``
        What each step of the sequence read.
    layer : str
        A key of the recording.
    unit : int
    signal : str, optional
        Any gate or state; the state that remembers if left out: the cell state, or the hidden state where there is no cell.
    sequence : int
        Which sequence of the batch.
    start, stop : int
        The steps to show.
    marks : sequence of bool ``(time,)``, optional
        Where a label holds, to be shown beside the unit.

    Returns
    -------
    UnitTextResult

    Raises
    ------
    InputError
        If there is no such signal, sequence, unit or step, or the tokens or marks are not as many as the steps.
    """
    if layer not in recording:
        raise InputError(f"needed layer as one of {', '.join(recording)}, got {layer!r}")
    trajectory = recording[layer]
    signal = trajectory.memory if signal is None else signal
    values = trajectory.signal(signal)
    if not 0 <= sequence < len(values):
        raise InputError(f"needed sequence from 0 to {len(values) - 1}, got {sequence}")
    if not 0 <= unit < values.shape[2]:
        raise InputError(f"needed unit from 0 to {values.shape[2] - 1} of {layer} {signal}, got {unit}")
    steps = int(trajectory.valid[sequence].sum())
    for name, given in (("tokens", tokens), ("marks", marks)):
        if given is not None and len(given) < steps:
            raise InputError(f"needed {name} for the sequence's {steps} steps, got {len(given)}")
    shown = slice(*slice(start, stop).indices(steps))
    if not range(steps)[shown]:
        raise InputError(f"needed at least one of the sequence's {steps} steps, got start={start}, stop={stop}")
    return UnitTextResult(
        tokens=tuple(tokens[:steps][shown]),
        values=values[sequence, :steps, unit].double().cpu().numpy()[shown],
        marks=None if marks is None else np.asarray(marks, dtype=bool)[:steps][shown],
        layer=layer,
        unit=unit,
        signal=signal,
    )
