"""What `contexts` returns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lstm_explain.display import jsonable, number, table
from lstm_explain.errors import InputError
from lstm_explain.trajectory import Padding

if TYPE_CHECKING:
    from pandas import DataFrame

Kind = Literal["top", "bottom", "average"]
KINDS: tuple[Kind, ...] = ("top", "bottom", "average")


class Context(NamedTuple):
    """One place, and what was read around it, in the order of the input."""

    value: float
    """The unit's value after reading the step."""
    sequence: str | int
    step: int
    at: int
    """Which of the steps shown is the place itself."""
    read: tuple[str, ...] | NDArray[np.float64]
    """What the steps shown have read: tokens, or numbers ``(time, feature)``."""
    values: NDArray[np.float64]
    """The unit's value at the steps shown, ``(time,)``."""

    @property
    def text(self) -> str | None:
        """The tokens in one piece, with the place's own in brackets; None where numbers were read."""
        if not isinstance(self.read, tuple):
            return None
        return f"{''.join(self.read[: self.at])}[{self.read[self.at]}]{''.join(self.read[self.at + 1 :])}"


@dataclass(frozen=True, eq=False)
class LayerContexts:
    """One layer, in one direction.

    Attributes
    ----------
    signal : str
    units : tuple of int
        By their places in the recording.
    top, bottom, average : tuple of tuple of Context
        For each of `units`: its highest places, highest first; its lowest, lowest first; and places drawn by chance, evenly spread over its
        quantiles, lowest first.
    mean, deviation : ndarray ``(unit,)``
        Over all steps.
    steps, sequences : int
        What was looked through.
    nonfinite : ndarray of int ``(unit,)``
        Steps at which a unit was NaN or infinite; these enter nothing else.
    """

    signal: str
    units: tuple[int, ...]
    top: tuple[tuple[Context, ...], ...]
    bottom: tuple[tuple[Context, ...], ...]
    average: tuple[tuple[Context, ...], ...]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    steps: int
    sequences: int
    nonfinite: NDArray[np.int64]

    def of(self, unit: int, kind: Kind = "top") -> tuple[Context, ...]:
        """One unit's contexts of a kind.

        Raises
        ------
        InputError
            If there is no such unit or kind.
        """
        if unit not in self.units:
            raise InputError(f"needed unit as one of {_listed(self.units)}, got {unit!r}")
        if kind not in KINDS:
            raise InputError(f"needed kind as one of {', '.join(KINDS)}, got {kind!r}")
        found: tuple[tuple[Context, ...], ...] = getattr(self, kind)
        return found[self.units.index(unit)]

    def exceptional(self) -> NDArray[np.float64]:
        """How many deviations each unit's highest place is above its mean, ``(unit,)``; NaN for a unit that never changed."""
        highest = np.array([contexts[0].value if contexts else np.nan for contexts in self.top])
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.deviation > 0, (highest - self.mean) / self.deviation, np.nan)


def _listed(units: tuple[int, ...]) -> str:
    return ", ".join(map(str, units)) if len(units) <= 8 else f"{units[0]}, {units[1]}, ..., {units[-1]}"


@dataclass(frozen=True, eq=False, repr=False)
class ContextsResult:
    """Where each unit of each layer is highest, lowest and as usual, over a whole corpus.

    Top contexts are picked because they are extreme: what they have in common is an idea of what the unit does, and shown only where
    the average contexts don't have it too.

    Attributes
    ----------
    layers : mapping of str to LayerContexts
    count : int
        How many contexts of each kind a unit has at most.
    apart : int
        So many steps at least are between two top, or two bottom, contexts of one unit in one sequence.
    padding : {"none", "known", "unknown"}
    """

    layers: Mapping[str, LayerContexts]
    count: int
    apart: int
    padding: Padding

    def __repr__(self) -> str:
        units = sum(len(layer.units) for layer in self.layers.values())
        steps = max(layer.steps for layer in self.layers.values())
        sequences = max(layer.sequences for layer in self.layers.values())
        return (
            f"<Contexts of {', '.join(self.layers)}: {self.count} highest, lowest and average places of {number(units)} units over "
            f"{number(steps)} steps of {number(sequences)} sequences; padding {self.padding}>"
        )

    def _repr_html_(self) -> str:
        rows = []
        for name, layer in self.layers.items():
            above = layer.exceptional()
            for at in np.argsort(-np.nan_to_num(above, nan=-np.inf), kind="stable")[:10]:
                first = layer.top[at][0] if layer.top[at] else None
                where = ("", "", "") if first is None else (f"{first.value:.3f}", f"{first.sequence}, step {first.step}", first.text or "")
                rows.append((name, layer.units[at], f"{layer.mean[at]:.3f}", f"{above[at]:.1f}", *where))
        header = ("layer", "unit", "mean", "deviations above it", "highest", "at", "context")
        return table(f"The units with the most exceptional places; padding {self.padding}", header, rows)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers; None where a value isn't finite."""
        layers = {}
        for name, layer in self.layers.items():
            lists = {kind: [[one._asdict() for one in unit] for unit in getattr(layer, kind)] for kind in KINDS}
            layers[name] = vars(layer) | lists
        return dict(jsonable(vars(self) | {"layers": layers}))

    def to_frame(self) -> "DataFrame":
        """A pandas frame, one row for each layer, unit, kind and context. Needs pandas."""
        from pandas import DataFrame

        rows = [
            (name, unit, kind, rank, one.value, one.sequence, one.step, one.text)
            for name, layer in self.layers.items()
            for unit in layer.units
            for kind in KINDS
            for rank, one in enumerate(layer.of(unit, kind))
        ]
        return DataFrame(rows, columns=["layer", "unit", "kind", "rank", "value", "sequence", "step", "text"])
