"""The contexts of one unit: rows of text, or small lines, on the colours of the unit's value."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from lstm_explain.analyses.contexts.result import KINDS, Context, ContextsResult
from lstm_explain.errors import InputError
from lstm_explain.plots._dispatch import chosen, draw, layers_of
from lstm_explain.plots._rows import Row, draw_rows
from lstm_explain.plots._series import draw_series
from lstm_explain.plots._text import COLUMNS, SIGNED

_WORDS = {"top": "highest", "bottom": "lowest", "average": "average"}


@draw.register
def draw_contexts(
    result: ContextsResult,
    ax: Axes,
    kind: str | None = None,
    layer: str | None = None,
    unit: int | None = None,
    columns: int = COLUMNS,
    feature: int = 0,
) -> None:
    """Draw one unit's highest, lowest or average contexts, of the first layer and unit if left out; of series, one feature."""
    kind = chosen("kind", kind, KINDS)
    name, found = next(iter(layers_of(result.layers, layer).items()))
    unit = found.units[0] if unit is None else unit
    contexts: Sequence[Context] = found.of(unit, kind)
    if not contexts:
        raise InputError(f"needed a unit that is finite somewhere, got {name} unit {unit}")
    # On the same colours in all three pictures of a unit.
    every = np.concatenate([one.values for other in KINDS for one in found.of(unit, other)])
    norm, cmap = _colours(found.signal, every[np.isfinite(every)])
    signal = found.signal.replace("_", " ")
    if contexts[0].text is not None:
        rows = [Row(tuple(one.read), one.values, one.at, one.at + 1, _label(one)) for one in contexts]
        draw_rows(ax, rows, columns=columns, norm=norm, cmap=cmap, label=f"{signal}; in the box: the place")
    else:
        _series(ax, contexts, feature, norm, cmap, signal)
    ax.set_ylabel("value   sequence, step")
    steps = f"{found.steps:,} steps"
    ax.set_title(f"{name} unit {unit}: its {_WORDS[kind]} contexts by {signal} in {steps} (mean {found.mean[found.units.index(unit)]:.2f})")


def _label(one: Context) -> str:
    return f"{one.value:.2f}   {one.sequence}, {one.step}"


def _colours(signal: str, values: NDArray[np.float64]) -> tuple[Normalize, str | None]:
    if signal.endswith("_gate"):
        return Normalize(0.0, 1.0), None
    limit = 1.0 if signal in ("hidden_state", "cell_candidate") else float(np.abs(values).max()) or 1.0
    return Normalize(-limit, limit), SIGNED


def _series(ax: Axes, contexts: Sequence[Context], feature: int, norm: Normalize, cmap: str | None, signal: str) -> None:
    features = np.asarray(contexts[0].read).shape[1]
    if not 0 <= feature < features:
        raise InputError(f"needed feature from 0 to {features - 1}, got {feature}")
    before, after = max(one.at for one in contexts), max(len(one.values) - one.at for one in contexts)
    lines, values = (np.full((before + after, len(contexts)), np.nan) for _ in range(2))
    for column, one in enumerate(contexts):
        here = slice(before - one.at, before - one.at + len(one.values))
        lines[here, column], values[here, column] = np.asarray(one.read)[:, feature], one.values
    draw_series(ax, lines, values, names=[_label(one) for one in contexts], start=-before, norm=norm, label=signal, cmap=cmap)
    ax.axvline(0, color="0.3", linewidth=0.8, linestyle=":")
    ax.set_xlabel(f"steps from the place; line: input feature {feature}" if features > 1 else "steps from the place; line: the input")
