"""Text on colours: each character on the colour of its token's value."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage
from numpy.typing import NDArray

SIGNED = "RdBu_r"
COLUMNS = 88
LONGEST_TOKEN = 32
_SHOWN = {"\n": "↵", "\t": "→"}


def draw_text(
    ax: Axes,
    tokens: Sequence[str],
    values: NDArray[np.float64],
    *,
    norm: Normalize,
    cmap: str | None,
    label: str,
    columns: int = COLUMNS,
    marks: NDArray[np.bool_] | None = None,
    boxed: int | None = None,
) -> None:
    """Draw tokens on the colours of their values, wrapped at `columns`; underlined where `marks` is true, one token in a box."""
    tokens = [short(token) for token in tokens]
    places, lines = _places(tokens, columns)
    columns = 1 + max((column for cells in places for _, column in cells), default=0)
    grid = np.full((lines, columns), np.nan)
    for value, cells in zip(values, places, strict=True):
        for line, column in cells:
            grid[line, column] = value
    image: AxesImage = ax.imshow(
        np.ma.masked_invalid(grid), cmap=cmap, norm=norm, aspect="auto", extent=(0, columns, lines, 0), interpolation="nearest"
    )
    underlined = np.zeros(len(tokens), dtype=bool) if marks is None else marks
    for token, value, mark, cells in zip(tokens, values, underlined, places, strict=True):
        ink = "black" if np.isnan(value) else ink_on(image.cmap(norm(value)))
        for character, (line, column) in zip(token, cells, strict=True):
            ax.text(
                column + 0.5,
                line + 0.52,
                legible(character),
                color="0.55" if character in _SHOWN else ink,
                family="DejaVu Sans Mono",
                size=8,
                ha="center",
                va="center",
            )
            if mark:
                ax.plot([column, column + 1], [line + 0.96] * 2, color="black", linewidth=1.1, solid_capstyle="butt")
    for line, column in [] if boxed is None else places[boxed]:
        ax.plot(np.add([0, 1, 1, 0, 0], column), np.add([0.02, 0.02, 0.98, 0.98, 0.02], line), color="black", linewidth=1.2)
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.figure.colorbar(image, ax=ax, orientation="horizontal", fraction=0.03, pad=0.01, aspect=60).set_label(label)


def short(token: str) -> str:
    """A token that doesn't fill lines by itself."""
    return token if len(token) <= LONGEST_TOKEN else f"{token[: LONGEST_TOKEN - 1]}…"


def legible(character: str) -> str:
    """A character as it can be drawn."""
    return _SHOWN.get(character, character if character.isprintable() else "·")


def plain(token: str) -> str:
    """A token as a label of an axis."""
    return token if token.strip() and token.isprintable() else repr(token)[1:-1]


def _places(tokens: Sequence[str], columns: int) -> tuple[list[list[tuple[int, int]]], int]:
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


def ink_on(rgba: tuple[float, float, float, float]) -> str:
    """Black or white, whichever is easier to read on a colour (relative luminance, WCAG 2.1)."""
    channels = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in rgba[:3]]
    luminance = 0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2]
    return "black" if luminance > 0.179 else "white"
