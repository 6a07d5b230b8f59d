"""What became of this unit? Its trajectory in a run that was changed, beside the one that wasn't."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from lstm_explain.display import jsonable
from lstm_explain.errors import InputError
from lstm_explain.recording.recording import Recording
from lstm_explain.trajectory import Trajectory

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, eq=False, repr=False)
class ComparedRunsResult:
    """One signal of some units over one sequence, in two runs.

    Attributes
    ----------
    clean, edited : ndarray ``(unit, time)``
        The values in the run that wasn't changed, and in the one that was.
    changed : ndarray of bool ``(unit, time)``
        Where an intervention itself has put the value; everywhere else it follows from that.
    intervened : ndarray of bool ``(time,)``
        The steps at which anything was changed in this sequence, in any layer that reads it.
    layer, signal, units, sequence
        Which they are.
    """

    clean: NDArray[np.float64]
    edited: NDArray[np.float64]
    changed: NDArray[np.bool_]
    intervened: NDArray[np.bool_]
    layer: str
    signal: str
    units: tuple[int, ...]
    sequence: int

    def __repr__(self) -> str:
        which = f"unit{'s' if len(self.units) > 1 else ''} {', '.join(map(str, self.units))}"
        largest = f"largest difference {np.abs(self.edited - self.clean).max():.2g}"
        return f"<ComparedRuns of {self.layer} {which}, {self.signal}: {self.clean.shape[1]} steps, {largest}>"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<p>{escape(repr(self))}</p>"

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers; None where a value isn't finite."""
        return dict(jsonable(vars(self)))

    def to_frame(self) -> "DataFrame":
        """A pandas frame, one row for each unit and step. Needs pandas."""
        from pandas import DataFrame

        units, steps = self.clean.shape
        return DataFrame(
            {
                "unit": np.repeat(self.units, steps),
                "step": np.tile(np.arange(steps), units),
                "clean": self.clean.ravel(),
                "edited": self.edited.ravel(),
                "changed": self.changed.ravel(),
            }
        )


def compare_runs(
    clean: Recording,
    edited: Recording,
    *,
    layer: str,
    units: Sequence[int] | int,
    signal: str | None = None,
    sequence: int = 0,
) -> ComparedRunsResult:
    """One signal of some units over one sequence, with an intervention beside without.

    Parameters
    ----------
    clean, edited : Recording
        Of the same sequences: without `lstm_explain.intervene`, and inside it.
    layer : str
        A key of both recordings; it needn't be the one that was changed.
    units : int or sequence of int
    signal : str, optional
        Any gate or state; the state that remembers if left out: the cell state, or the hidden state where there is no cell.
    sequence : int
        Which sequence of the batch.

    Returns
    -------
    ComparedRunsResult

    Raises
    ------
    InputError
        If there is no such layer, signal, sequence or unit, or the recordings aren't of sequences of the same length.

    Examples
    --------
    >>> import torch, lstm_explain as lx
    >>> model, x = torch.nn.LSTM(8, 16, batch_first=True), torch.randn(4, 10, 8)
    >>> with lx.record(model) as clean:
    ...     _ = model(x)
    >>> with lx.record(model) as edited, lx.intervene(model, "l0", forget_gate=1.0, units=[3], feedback=True):
    ...     _ = model(x)
    >>> lx.compare_runs(clean, edited, layer="l0", units=3).edited.shape
    (1, 10)
    """
    runs = []
    for name, recording in (("clean", clean), ("edited", edited)):
        if not isinstance(recording, Recording):
            raise InputError(f"needed {name} as a recording, got {type(recording).__name__}")
        if layer not in recording:
            raise InputError(f"needed layer as one of {', '.join(recording)} of the {name} recording, got {layer!r}")
        runs.append(recording[layer])
    signal = runs[0].memory if signal is None else signal
    count, _, width = runs[0].signal(signal).shape
    if not 0 <= sequence < count:
        raise InputError(f"needed sequence from 0 to {count - 1}, got {sequence}")
    shown = (units,) if isinstance(units, int) else tuple(units)
    if not shown or (bad := [unit for unit in shown if not 0 <= unit < width]):
        raise InputError(f"needed units from 0 to {width - 1} of {layer} {signal}, got {bad[0] if shown else 'none'}")
    if runs[0].units != runs[1].units or runs[0].signal(signal).shape[::2] != runs[1].signal(signal).shape[::2]:
        shapes = " and ".join(str(tuple(run.signal(signal).shape)) for run in runs)
        raise InputError(f"needed recordings of the same sequences and units of {layer}, got {signal} of shapes {shapes}")
    steps = [int(run.valid[sequence].sum()) for run in runs]
    if steps[0] != steps[1]:
        raise InputError(f"needed sequence {sequence} with as many steps in both recordings, got {steps[0]} and {steps[1]}")
    before, after = (_of(run, run.signal(signal), sequence, shown).double().numpy() for run in runs)
    marks = runs[1].changed.get(signal, torch.zeros_like(runs[1].signal(signal), dtype=torch.bool))
    alike = [run for run in edited.values() if run.valid.shape == runs[1].valid.shape]
    steps_changed = [mark[sequence].any(1).cpu() for run in alike for mark in run.changed.values()]
    intervened = torch.stack([torch.zeros(len(runs[1].valid[sequence]), dtype=torch.bool), *steps_changed]).any(0)
    intervened = intervened[runs[1].valid[sequence].cpu()]
    put = _of(runs[1], marks, sequence, shown).numpy()
    return ComparedRunsResult(before, after, put, intervened.numpy(), layer, signal, shown, sequence)


def _of(run: Trajectory, signal: torch.Tensor, sequence: int, units: tuple[int, ...]) -> torch.Tensor:
    """Some units of one sequence at its valid steps, ``(unit, time)``."""
    return signal[sequence, run.valid[sequence]][:, list(units)].T.cpu()
