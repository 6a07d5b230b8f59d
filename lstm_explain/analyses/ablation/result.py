"""What an ablation is: what each set of units changes, with its intervals, by label, and how far removal can go."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lstm_explain.display import jsonable, number, table
from lstm_explain.recording.certificate import Certificate
from lstm_explain.trajectory import Padding

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, eq=False)
class Effects:
    """What is changed over some steps; each array has one number for each set of units.

    Attributes
    ----------
    change : ndarray ``(set,)``
        Mean loss with the set held at another sequence's values, less the mean loss without; NaN where there are no such steps.
    low, high : ndarray ``(set,)``
        The 95 % interval of each by itself.
    family_low, family_high : ndarray ``(set,)``
        95 % intervals that hold for all sets at once, and for all classes of all labels where these are classes.
    shown : ndarray of bool ``(set,)``
        Whether the interval of the family leaves out zero by more than `rounding`. What isn't shown may still be so.
    clean : float
        Mean loss of the network as it is.
    rounding : float
        What changing nothing changes: of the first set held at its own values, the largest mean of any group.
    steps, groups : int
        How many steps (or sequences, of a loss that has one number for each) were counted, and of how many groups.
    """

    change: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    family_low: NDArray[np.float64]
    family_high: NDArray[np.float64]
    shown: NDArray[np.bool_]
    clean: float
    rounding: float
    steps: int
    groups: int


@dataclass(frozen=True, eq=False, repr=False)
class AblationResult:
    """What a layer's units are for: how the loss changes when they hold what they held in another sequence.

    Attributes
    ----------
    layer : str
    units : tuple of tuple of int
        The sets that were taken away, one after the other.
    names : tuple of str
        Each set by the name that it was given, or its units joined by a plus.
    effects : Effects
        Over all steps.
    by : mapping of str to mapping of str to Effects
        Over the steps of each class of each label.
    order : ndarray of int ``(set,)`` or None
        The sets in the order in which they were removed: least change first, by what each does alone.
    removal : Effects or None
        Its first entry is the first set of `order` removed alone, its second the first two together, and so on.
    donors : ndarray of int ``(batch,)``
        Whose values each sequence's units held.
    noop : float
        The largest change of the loss at any step when the first set is held at its own values: 0 to rounding.
    passes, sequences, steps : int
        The cost: how many forward passes were made, of how many sequences in all, and of how many steps in all.
    certificate, ablated_certificate : Certificate
        Of the recorded clean passes, and of one with units held, whose edits are taken out.
    resamples, seed, padding
    """

    layer: str
    units: tuple[tuple[int, ...], ...]
    names: tuple[str, ...]
    effects: Effects
    by: Mapping[str, Mapping[str, Effects]]
    order: NDArray[np.int64] | None
    removal: Effects | None
    donors: NDArray[np.int64]
    noop: float
    passes: int
    sequences: int
    steps: int
    certificate: Certificate
    ablated_certificate: Certificate
    resamples: int
    seed: int
    padding: Padding

    @property
    def removable(self) -> int | None:
        """How many sets, by `order`, were removed before the loss was shown to rise; None where removal wasn't asked for."""
        if self.removal is None:
            return None
        rises = np.flatnonzero(self.removal.shown & (self.removal.change > 0))
        return int(rises[0]) if len(rises) else len(self.units)

    def __repr__(self) -> str:
        change, shown = self.effects.change, self.effects.shown
        most = int(np.nanargmax(np.abs(change)))
        interval = f"{self.effects.low[most]:+.3g} to {self.effects.high[most]:+.3g}"
        removal = "" if self.removal is None else f"; {self.removable} removed before a rise is shown"
        return (
            f"<Ablation of {len(self.units)} of {self.layer}: most by {self.names[most]}, {change[most]:+.3g} ({interval}) on "
            f"{self.effects.clean:.3g}; {int(shown.sum())} of {len(shown)} shown over the family{removal}; {self.cost}; "
            f"padding {self.padding}>"
        )

    @property
    def cost(self) -> str:
        """The cost in words."""
        return f"{number(self.passes)} forward passes of {number(self.sequences)} sequences in all"

    def _repr_html_(self) -> str:
        e, rows = self.effects, []
        for at in np.argsort(-np.abs(np.nan_to_num(e.change)), kind="stable")[:10]:
            own, family = (f"{low[at]:+.3g} to {high[at]:+.3g}" for low, high in ((e.low, e.high), (e.family_low, e.family_high)))
            rows.append((self.names[at], f"{e.change[at]:+.4g}", own, family, "shown" if e.shown[at] else "not shown"))
        caption = (
            f"The {len(rows)} largest of {len(self.units)} ablations of {self.layer}, on a loss of {e.clean:.4g}, over {number(e.steps)} "
            f"steps of {e.groups} groups; changing nothing: {self.noop:.1e}; {self.cost}"
        )
        return table(caption, ("units", "change", "95 %", "95 %, family", "verdict"), rows)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers; None where a value isn't finite: no steps there, or too few groups for an interval."""
        return dict(
            jsonable(
                vars(self)
                | {
                    "effects": vars(self.effects),
                    "by": {label: {name: vars(effects) for name, effects in classes.items()} for label, classes in self.by.items()},
                    "removal": None if self.removal is None else vars(self.removal),
                    "removable": self.removable,
                    "certificate": str(self.certificate),
                    "ablated_certificate": str(self.ablated_certificate),
                }
            )
        )

    def to_frame(self) -> "DataFrame":
        """A pandas frame, one row for each set of units and each class; without a label, over all steps. Needs pandas."""
        from pandas import DataFrame, concat

        parts = [("", "", self.effects)] + [(label, name, e) for label, classes in self.by.items() for name, e in classes.items()]
        columns = ("change", "low", "high", "family_low", "family_high", "shown")
        return concat(
            [
                DataFrame({"units": self.names, "label": label, "class": name} | {column: getattr(effects, column) for column in columns})
                for label, name, effects in parts
            ],
            ignore_index=True,
        )
