"""Series on one Axes: each feature's own line, on the colours of its steps' values."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from lstm_explain.plots._text import SIGNED, plain

_HEIGHT = 0.8
"""Of a row, where rows are 1 apart: what is left keeps lines from touching."""


def draw_series(
    ax: Axes,
    series: NDArray[np.float64],
    values: NDArray[np.float64],
    *,
    names: Sequence[str],
    start: int,
    norm: Normalize,
    label: str,
    cmap: str | None = SIGNED,
) -> None:
    """Draw lines ``(time, feature)`` on the colours of `values`, from step `start`; several each in a row and on a scale of its own.

    Where a line is NaN there is none.
    """
    alone = len(names) == 1
    marks = []
    for row, (name, line, own) in enumerate(zip(names, series.T, values.T, strict=True)):
        low, high = float(np.nanmin(line)) + 0.0, float(np.nanmax(line)) + 0.0
        span = high - low
        # A line that doesn't move has no scale: it runs through the middle of its row.
        height = line if alone else row - _HEIGHT * ((line - low) / span - 0.5 if span else np.zeros_like(line))
        # A wide band has the colour, and a thin line on it the signal, which would vanish where the attribution is zero and white.
        band = LineCollection(list(_around(height, start)), cmap=cmap, norm=norm, linewidths=6, capstyle="butt", joinstyle="round")
        band.set_array(own)
        ax.add_collection(band)
        ax.plot(np.arange(start, start + len(line)), height, color="0.15", linewidth=0.9, marker="." if len(line) == 1 else None)
        marks.append(f"{plain(name)}\n{low:.3g} to {high:.3g}" if span else f"{plain(name)}\n{low:.3g} throughout")
    ax.set_xlim(start - 0.5, start + len(series) - 0.5)
    if alone:
        ax.set_ylabel(plain(names[0]))
        ax.margins(y=0.08)
    else:
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.set_yticks(range(len(names)), marks)
        ax.grid(False, axis="y")
    ax.figure.colorbar(band, ax=ax).set_label(label)


def _around(height: NDArray[np.float64], start: int) -> NDArray[np.float64]:
    """Each step's piece of a line ``(step, 3, 2)``: from half way to the one before to half way to the next."""
    between = (height[1:] + height[:-1]) / 2
    steps = np.arange(start, start + len(height))
    x = np.stack([steps - 0.5, steps, steps + 0.5], 1)
    y = np.stack([np.r_[height[0], between], height, np.r_[between, height[-1]]], 1)
    return np.stack([x, y], 2)
