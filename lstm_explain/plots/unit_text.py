"""Text coloured by the value of one unit."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from lstm_explain.analyses.unit_text import UnitTextResult
from lstm_explain.plots._dispatch import draw
from lstm_explain.plots._text import COLUMNS, SIGNED, draw_text


@draw.register
def draw_unit_text(result: UnitTextResult, ax: Axes, columns: int = COLUMNS) -> None:
    """Draw text on the colour of a unit's value; characters where a label holds are underlined."""
    gate = result.signal.endswith("_gate")
    limit = 1.0 if gate or result.signal in ("hidden_state", "cell_candidate") else float(np.nanmax(np.abs(result.values))) or 1.0
    signal = result.signal.replace("_", " ")
    draw_text(
        ax,
        result.tokens,
        result.values,
        norm=Normalize(0.0 if gate else -limit, limit),
        cmap=None if gate else SIGNED,
        label=f"{signal}{'' if result.marks is None else '; underlined: where the label holds'}",
        columns=columns,
        marks=result.marks,
    )
    ax.set_title(f"{result.layer} unit {result.unit}, {signal}: {_found(result)}")


def _found(result: UnitTextResult) -> str:
    """How the unit differs where the label holds; or from where to where it goes."""
    values = result.values
    if result.marks is not None and 0 < result.marks.sum() < len(result.marks):
        return f"mean {np.nanmean(values[result.marks]):.3g} where the label holds, {np.nanmean(values[~result.marks]):.3g} elsewhere"
    return f"from {np.nanmin(values):.3g} to {np.nanmax(values):.3g}"
