"""What is known about each unit, to put units in order by and to choose which of them fit in the page."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lstm_explain.report.measure import Measured
from lstm_explain.report.section import Section


class Order(NamedTuple):
    """A number for each unit; the highest come first, and units without one last."""

    what: str
    values: Mapping[str, NDArray[np.float64]]
    """``(unit,)`` for each layer that has it; NaN where a unit has none."""


def orders(measured: Measured, sections: Mapping[str, Section]) -> tuple[Order, ...]:
    """Every order that this study's sections give."""
    found: list[Order] = []
    if measured.saturation is not None:
        keeps = measured.saturation.keeps
        for side in ("left", "right"):
            shares = {
                name: np.asarray(getattr(layer, side)[layer.gates.index(keeps), 0], dtype=np.float64)
                for name, layer in measured.saturation.layers.items()
                if keeps in layer.gates
            }
            found.append(Order(f"share of steps with the {keeps.replace('_', ' ')} {side}-saturated", shares))
    if measured.timescale is not None:
        longest = max(int(layer.lags[-1]) for layer in measured.timescale.layers.values())
        lives = {name: np.minimum(layer.half_life, longest) for name, layer in measured.timescale.layers.items()}
        found.append(Order(f"half-life, steps, at most {longest}", lives))
    if measured.probing is not None:
        for label, probed in measured.probing.labels.items():
            scores: dict[str, NDArray[np.float64]] = {name: np.full(width, np.nan) for name, width in measured.units.items()}
            for (name, unit), score in zip(measured.probing.cells, probed.units.scores, strict=True):
                if unit < len(scores.get(name, ())):
                    scores[name][unit] = score
            found.append(Order(f"“{label.replace('_', ' ')}” by itself: {probed.units.metric}", scores))
    if held := _held(measured, sections["ablation"].numbers):
        found.append(Order("change of the loss when held", held))
    return tuple(found)


def _held(measured: Measured, numbers: Mapping[str, Any]) -> dict[str, NDArray[np.float64]]:
    """What holding each unit by itself did to the loss, of the units that were held."""
    changes = {}
    for name, layer in numbers.get("layers", {}).items():
        changes[name] = np.full(measured.units[name], np.nan)
        for units, change in zip(layer["units"], layer["effects"]["change"], strict=True):
            if len(units) == 1 and change is not None:
                changes[name][units[0]] = change
    return changes


def interest(widths: Mapping[str, int], known: Sequence[Order], sections: Mapping[str, Section]) -> tuple[tuple[str, int], ...]:
    """All units: those that a claim was about, the best founded first; then the first of each order by turns, then the rest."""
    tested, told = sections["verification"].results.get("verification"), sections["unit_text"].numbers
    claimed = [] if tested is None else [(one.claim.layer, unit) for one in tested.ranked for unit in one.claim.units]
    if "unit" in told and (tested is None or not tested.verified):
        claimed.insert(0, (told["layer"], told["unit"]))
    ranked = []
    for order in known:
        units = [(-value, name, unit) for name, values in order.values.items() for unit, value in enumerate(values) if not np.isnan(value)]
        ranked.append([(name, unit) for _, name, unit in sorted(units)])
    turns = [order[at] for at in range(max(map(len, ranked), default=0)) for order in ranked if at < len(order)]
    rest = [(name, unit) for name, width in widths.items() for unit in range(width)]
    return tuple(one for one in dict.fromkeys([*claimed, *turns, *rest]) if one[1] < widths.get(one[0], 0))
