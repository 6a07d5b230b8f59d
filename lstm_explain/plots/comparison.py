"""Attributions beside each other: over the same steps or text, and how far they agree."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from lstm_explain.display import percent
from lstm_explain.errors import InputError
from lstm_explain.plots._dispatch import chosen, draw
from lstm_explain.plots._text import SIGNED, ink_on, legible
from lstm_explain.verdicts.comparison import ComparisonResult

_TOKENS = 100
"""More than so many letters in a row can't be read."""
_AGREEMENTS = ("signed", "size", "overlap")


@draw.register
def draw_comparison(
    result: ComparisonResult,
    ax: Axes,
    kind: str | None = None,
    example: int = 0,
    tokens: Sequence[str] | None = None,
    start: int = 0,
    agreement: str | None = None,
) -> None:
    """Draw one example's attributions as aligned rows, one for each result, or the matrix of agreement."""
    if chosen("kind", kind, ("rows", "matrix")) == "matrix":
        _matrix(ax, result, chosen("agreement", agreement, _AGREEMENTS))
    else:
        _rows(ax, result, example, tokens, start)


def _rows(ax: Axes, result: ComparisonResult, example: int, tokens: Sequence[str] | None, start: int) -> None:
    if not 0 <= example < len(result.valid):
        raise InputError(f"needed example from 0 to {len(result.valid) - 1}, got {example}")
    steps = int(result.valid[example].sum())
    if not 0 <= start < steps:
        raise InputError(f"needed start from 0 to {steps - 1}, got {start}")
    if tokens is not None and len(tokens) < steps:
        raise InputError(f"needed tokens= for the example's {steps} steps, got {len(tokens)}")
    values = result.by_step[:, example, start:steps]
    limits = np.abs(values).max(1, keepdims=True)
    scaled = np.divide(values, limits, out=np.zeros_like(values), where=limits > 0)
    count, norm = len(result.names), Normalize(-1, 1)
    image = ax.imshow(
        scaled, cmap=SIGNED, norm=norm, aspect="auto", interpolation="nearest", extent=(start - 0.5, steps - 0.5, count - 0.5, -0.5)
    )
    if tokens is not None and steps - start <= _TOKENS:
        for row in range(count):
            for at, token in enumerate(tokens[start:steps]):
                text = "".join(map(legible, token if len(token) <= 6 else f"{token[:5]}…"))
                ink = ink_on(image.cmap(norm(scaled[row, at])))
                ax.text(start + at, row, text, color=ink, family="DejaVu Sans Mono", size=7, ha="center", va="center")
    for edge in np.arange(1, count) - 0.5:
        ax.axhline(edge, color="white", linewidth=2)
    ax.grid(False)
    names = []
    for name, limit, own in zip(result.names, limits[:, 0], result.by_step, strict=True):
        unsigned = ", sizes" if (own >= 0).all() else ""
        names.append(f"{name.replace('_', ' ')}\n(largest {limit:.2g}{unsigned})")
    ax.set_yticks(range(count), names)
    ax.set_xlabel("step")
    bar = ax.figure.colorbar(image, ax=ax, orientation="horizontal", fraction=0.05, pad=0.02, aspect=60)
    bar.set_label("attribution, as a share of each one's largest: red raises the output, blue lowers it")
    firsts = [start + int(np.abs(own).argmax()) for own in values]
    common = max(firsts, key=firsts.count)
    agree = f"{firsts.count(common)} of {count} name step {common} first"
    ax.set_title(f"attributions to {result.explained[example]} of example {example}: {agree}")


def _matrix(ax: Axes, result: ComparisonResult, agreement: str) -> None:
    of = getattr(result, agreement)
    signed = agreement != "overlap"
    cmap, norm = (SIGNED, Normalize(-1, 1)) if signed else ("viridis", Normalize(0, 1))
    names = [name.replace("_", " ") for name in result.names]
    image = ax.imshow(np.ma.masked_invalid(of.median), cmap=cmap, norm=norm)
    for row in range(len(names)):
        for column in range(len(names)):
            value = of.median[row, column]
            known = np.isfinite(value)
            interval = "" if row == column or not known else f"\n{of.interval(row, column)}"
            ink = ink_on(image.cmap(norm(value))) if known else "black"
            text = f"{value:.2f}{interval}" if known else "no order"
            ax.text(column, row, text, color=ink, size=8, ha="center", va="center")
    ax.grid(False)
    ax.set_xticks(range(len(names)), names, rotation=30, ha="right")
    ax.set_yticks(range(len(names)), names)
    what = {
        "signed": "rank correlation of steps",
        "size": "rank correlation of sizes",
        "overlap": f"share of the first {percent(result.fraction)} of steps in common (by chance {percent(result.chance)})",
    }[agreement]
    ax.figure.colorbar(image, ax=ax).set_label(what)
    others = of.median[~np.eye(len(names), dtype=bool) & np.isfinite(of.median)]
    kind = "shares in common" if agreement == "overlap" else "rank correlations"
    found = f"{kind} of methods from {others.min():z.2f} to {others.max():z.2f}" if len(others) else f"{kind}: none"
    ax.set_title(f"{found}\nmedians of {len(result.valid)} sequences; 95 % in brackets")
