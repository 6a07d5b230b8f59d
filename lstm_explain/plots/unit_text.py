"""Text coloured by the value of one unit."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from lstm_explain.analyses.unit_text import UnitTextResult
from lstm_explain.plots._dispatch import draw

_SIGNED = "RdBu_r"
_SHOWN = {"\n": "↵", "\t": "→"}


@draw.register
def draw_unit_text(result: UnitTextResult, ax: Axes, columns: int = 88) -> None:
    """Draw text on the colour of a unit's value; characters where a label holds are underlined."""
    gate = result.signal.endswith("_gate")
    limit = 1.0 if gate or result.signal in ("hidden_state", "cell_candidate") else float(np.nanmax(np.abs(result.values))) or 1.0
    norm = Normalize(0.0 if gate else -limit, limit)
    places, lines = _places(result.tokens, columns)
    columns = 1 + max((column for cells in places for _, column in cells), default=0)

    grid = np.full((lines, columns), np.nan)
    for value, cells in zip(result.values, places, strict=True):
        for line, column in cells:
            grid[line, column] = value
    image = ax.imshow(
        np.ma.masked_invalid(grid),
        cmap=None if gate else _SIGNED,
        norm=norm,
        aspect="auto",
        extent=(0, columns, lines, 0),
        interpolation="nearest",
    )
    marks = np.zeros(len(result.tokens), dtype=bool) if result.marks is None else result.marks
    for token, value, mark, cells in zip(result.tokens, result.values, marks, places, strict=True):
        ink = _ink(image.cmap(norm(value)))
        for character, (line, column) in zip(token, cells, strict=True):
            ax.text(
                column + 0.5,
                line + 0.52,
                # A dollar sign alone would start a formula.
                _SHOWN.get(character, r"\$" if character == "$" else character if character.isprintable() else "·"),
                color="0.55" if character in _SHOWN else ink,
                family="DejaVu Sans Mono",
                size=8,
                ha="center",
                va="center",
            )
            if mark:
                ax.plot([column, column + 1], [line + 0.96] * 2, color="black", linewidth=1.1, solid_capstyle="butt")
    ax.set(xticks=[], yticks=[], title=f"{result.layer} unit {result.unit}: {result.signal.replace('_', ' ')} after each character")
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.figure.colorbar(image, ax=ax, orientation="horizontal", fraction=0.03, pad=0.01, aspect=60).set_label(
        f"{result.signal.replace('_', ' ')}{'' if result.marks is None else '; underlined: where the label holds'}"
    )


def _places(tokens: tuple[str, ...], columns: int) -> tuple[list[list[tuple[int, int]]], int]:
    """Where each token's characters stand, (line, column), wrapped at `columns`; and how many lines there are."""
    places: list[list[tuple[int, int]]] = []
    line = column = 0
    for token in tokens:
        cells = []
        for character in token:
            if column == columns:
                line, column = line + 1, 0
            cells.append((line, column))
            column += 1
            if character == "\n":
                line, column = line + 1, 0
        places.append(cells)
    return places, line + (column > 0) or 1


def _ink(rgba: tuple[float, float, float, float]) -> str:
    """Black or white, whichever is easier to read on a colour (relative luminance, WCAG 2.1)."""
    channels = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in rgba[:3]]
    luminance = 0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2]
    return "black" if luminance > 0.179 else "white"
