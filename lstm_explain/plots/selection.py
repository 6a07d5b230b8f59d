"""Selected units over their span, and the spans that match it."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from lstm_explain.analyses.selection.match import MatchResult
from lstm_explain.analyses.selection.select import SelectionResult
from lstm_explain.display import number
from lstm_explain.errors import InputError
from lstm_explain.plots._dispatch import draw
from lstm_explain.plots._rows import Row, draw_rows
from lstm_explain.plots._text import COLUMNS, plain

_MOST_NAMED = 60
_MOST_LINES = 8


@draw.register
def draw_selection(result: SelectionResult, ax: Axes, tokens: Sequence[str] | None = None) -> None:
    """Draw the selected units as lines over the span and what is around it; `tokens`, of the whole sequence, as marks of the steps."""
    sequence, start, stop = result.span
    steps = np.arange(result.shown, result.shown + result.values.shape[1])
    if tokens is not None and len(tokens) <= steps[-1]:
        raise InputError(f"needed tokens for {steps[-1] + 1} steps, got {len(tokens)}")
    ax.axvspan(start - 0.5, stop - 0.5, color="0.9", zorder=0)
    for at, (unit, values) in enumerate(zip(result.units, result.values, strict=True)):
        named = len(result.units) <= _MOST_LINES
        ax.plot(
            steps,
            values,
            marker=".",
            color=f"C{at % 8}" if named else "C0",
            alpha=1 if named else 0.5,
            label=f"unit {unit}" if named else None,
        )
    for sign in sorted({*result.signs.tolist()} or {1}):
        ax.axhline(sign * result.threshold, color="0.3", linewidth=0.9, linestyle="--")
    ax.set_xlim(steps[0] - 0.5, steps[-1] + 0.5)
    if tokens is not None and len(steps) <= _MOST_NAMED:
        ax.set_xticks(steps, [plain(tokens[step]) for step in steps], family="DejaVu Sans Mono")
        ax.grid(False, axis="x")
        ax.set_xlabel(f"what was read, from step {steps[0]} of sequence {sequence}")
    else:
        ax.set_xlabel(f"step of sequence {sequence}")
    ax.set_ylabel(result.signal.replace("_", " "))
    units = f"{len(result.units)} unit{'' if len(result.units) == 1 else 's'}"
    chance = (
        f"; at random places {result.by_chance.mean():.2g} on average: {result.verdict}" if len(result.by_chance) else ": not controlled"
    )
    ax.set_title(f"{result.layer}: {units} on in the span and off around it{chance}")
    if 0 < len(result.units) <= _MOST_LINES:
        ax.legend()


@draw.register
def draw_matches(
    result: MatchResult, ax: Axes, tokens: Sequence[Sequence[str]] | None = None, count: int = 12, columns: int = COLUMNS
) -> None:
    """Draw the best matches as rows, on the colours of the share of selected units that are on; `tokens` are those of every sequence."""
    if count < 1:
        raise InputError(f"needed count from 1, got {count}")
    shown = result.matches[:count]
    if not shown:
        raise InputError("needed at least one match, got none")
    rows = []
    for one in shown:
        end = one.shown + len(one.share)
        if tokens is not None and (len(tokens) <= one.sequence or len(tokens[one.sequence]) < end):
            raise InputError(f"needed tokens= for {end} steps of sequence {one.sequence}, got fewer")
        text = [" "] * len(one.share) if tokens is None else list(tokens[one.sequence][one.shown : end])
        rows.append(
            Row(
                text,
                one.share,
                one.start - one.shown,
                one.stop - one.shown,
                f"{one.matched} of {result.selected}   {one.sequence}, {one.start}",
            )
        )
    draw_rows(
        ax, rows, columns=columns, norm=Normalize(0, 1), cmap=None, label="share of the selected units that are on; in the box: the match"
    )
    ax.set_ylabel("selected units   sequence, step")
    chance = (
        f"by chance {number(float(result.by_chance.mean()))} on average: {result.verdict}" if len(result.by_chance) else "not controlled"
    )
    ax.set_title(f"{result.layer}: {result.complete:,} other spans have {result.pattern}; {chance}")
