"""Rows of text, one below the other, so that the place that each is about stands in the same column."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from lstm_explain.plots._text import draw_text


class Row(NamedTuple):
    """Tokens, the value of each, and which of them the row is about."""

    tokens: Sequence[str]
    values: NDArray[np.float64]
    at: int
    stop: int
    label: str


def draw_rows(ax: Axes, rows: Sequence[Row], *, columns: int, norm: Normalize, cmap: str | None, label: str) -> None:
    """Draw each row's tokens on the colours of their values, the part that it is about in a box; what doesn't fit is cut off."""
    cells = [_cells(row) for row in rows]
    # What is before the place gets the columns that the longest needs, as far as what is after it leaves some.
    ahead, behind = max(at for _, _, at, _ in cells), max(len(text) - at for text, _, at, _ in cells)
    left = min(ahead, max(columns - behind, columns * 2 // 3))
    columns = min(columns, left + behind)
    tokens: list[str] = []
    values: list[float] = []
    for text, own, at, _ in cells:
        begin = at - left
        shown = range(begin, begin + columns)
        tokens += [text[k] if 0 <= k < len(text) else " " for k in shown]
        values += [own[k] if 0 <= k < len(text) else np.nan for k in shown]
    draw_text(ax, tokens, np.array(values), norm=norm, cmap=cmap, label=label, columns=columns)
    for line, (_, _, at, stop) in enumerate(cells):
        right = min(left + stop - at, columns)
        x, y = [left, right, right, left, left], np.add([0.04, 0.04, 0.96, 0.96, 0.04], line)
        ax.plot(x, y, color="black", linewidth=1.2)
    ax.set_yticks(np.arange(len(rows)) + 0.5, [row.label for row in rows])
    ax.tick_params(axis="y", length=0)


def _cells(row: Row) -> tuple[str, list[float], int, int]:
    """A row character by character, with each one's value, and from where to where its place is. A line's end doesn't end the row."""
    text = "".join(row.tokens).replace("\n", "↵").replace("\t", "→")
    lengths = [len(token) for token in row.tokens]
    values = np.repeat(row.values, lengths).tolist()
    at = sum(lengths[: row.at])
    return text, values, at, at + max(sum(lengths[row.at : row.stop]), 1)
