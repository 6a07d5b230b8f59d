"""What taking units away does: effects with their intervals, the removal curve, and predictions beside each other."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lstm_explain.analyses.ablation.predictions import Predictions
from lstm_explain.analyses.ablation.result import AblationResult, Effects
from lstm_explain.errors import InputError
from lstm_explain.plots._dispatch import chosen, draw, layers_of
from lstm_explain.plots._text import COLUMNS, ink_on, legible

_MARKERS = "osD^vPX"


@draw.register
def draw_ablation(
    result: AblationResult,
    ax: Axes,
    kind: str | None = None,
    label: str | None = None,
    units: int = 30,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Draw the largest effects, sorted, over all steps or by the classes of a label; or the removal curve."""
    if chosen("kind", kind, ("effects", "removal")) == "removal":
        if label is not None or result.removal is None:
            needed = "an ablation with order='removal'" if label is None else "no label"
            raise InputError(f'needed {needed} for kind="removal", got {"none" if label is None else repr(label)}')
        _removal(ax, result)
    else:
        _effects(ax, result, label, units, notes or {})


def _effects(ax: Axes, result: AblationResult, label: str | None, units: int, notes: Mapping[str, str]) -> None:
    if units < 1:
        raise InputError(f"needed at least one unit, got {units}")
    overall = result.effects
    largest = np.argsort(-np.abs(overall.change), kind="stable")[:units]
    picked = largest[np.argsort(overall.change[largest], kind="stable")]
    words = (label or "").replace("_", " ")
    split: dict[str, Effects] = {"all steps": overall} if label is None else next(iter(layers_of(result.by, label, "label").values()))
    rows, handles = np.arange(len(picked)), []
    for at, (name, effects) in enumerate(split.items()):
        y = rows + (0.5 - (at + 0.5) / len(split)) * 0.7
        colour, marker = f"C{at}", _MARKERS[at % len(_MARKERS)]
        ax.hlines(y, effects.low[picked], effects.high[picked], color=colour, linewidth=3, alpha=0.35, zorder=2)
        for shown, face in ((True, colour), (False, "white")):
            here = effects.shown[picked] == shown
            ax.plot(effects.change[picked][here], y[here], marker, color=colour, mfc=face, markersize=5, zorder=3)
        text = f"{name} (loss {effects.clean:.3g})" if label is None else f"{words}: {name} (loss {effects.clean:.3g})"
        handles.append(Line2D([], [], color=colour, marker=marker, linestyle="", label=text))
    handles.append(Line2D([], [], color="0.3", marker="o", mfc="white", linestyle="", label="hollow: not shown over the family"))
    names = [result.names[at] for at in picked]
    ax.axvline(0, color="0.5", linewidth=0.8, zorder=1)
    ax.set_yticks(rows, [f"{notes[name]}  {name}" if name in notes else name for name in names])
    ax.set(ylim=(-0.7, len(picked) - 0.3), ylabel=f"unit of {result.layer}")
    ax.set_xlabel("change of the mean loss while the unit is held at another sequence's values (bar: 95 %)")
    which = f"; the {len(picked)} largest" if len(picked) < len(result.units) else ""
    ax.set_title(f"{int(overall.shown.sum())} of {len(result.units)} ablations are shown to change the loss over all steps{which}")
    ax.legend(handles=handles, loc="lower right")


def _removal(ax: Axes, result: AblationResult) -> None:
    removal, clean = result.removal, result.effects.clean
    assert removal is not None and result.removable is not None
    count = np.arange(1 + len(result.units))
    low, high = (np.concatenate([[clean], clean + bound]) for bound in (removal.low, removal.high))
    known = np.isfinite(low) & np.isfinite(high)
    ax.fill_between(count, np.where(known, low, np.nan), np.where(known, high, np.nan), alpha=0.2, linewidth=0, label="95 %")
    loss = np.concatenate([[clean], clean + removal.change])
    ax.plot(count, loss, color="C0", zorder=2)
    for shown, face, text in ((False, "white", "not shown to differ"), (True, "C0", "shown to differ, over the family")):
        here = np.concatenate([[False], removal.shown]) == shown
        if here.any():
            ax.plot(count[here], loss[here], "o", color="C0", mfc=face, label=text, zorder=3)
    ax.axhline(clean, color="0.5", linewidth=0.8, linestyle="--", zorder=1)
    ax.set_xlabel(f"units of {result.layer} held together, the least effect alone first")
    ax.set_ylabel("mean loss")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_title(f"{result.removable} of {len(result.units)} held together before a rise of the loss is shown")
    ax.legend(loc="upper left")


@draw.register
def draw_predictions(result: Predictions, ax: Axes, columns: int = COLUMNS) -> None:
    """Draw what came, and below it what each run held most likely there, on the probability that it gave to what came."""
    size = max(len(name) for run in (result.tokens, result.clean, result.ablated) for name in run)
    cell = min(size, 8) + (size > 1)
    columns = min(max(1, columns // cell), len(result.tokens))
    norm, cmap = Normalize(0, 1), "viridis"
    lines = -(-len(result.tokens) // columns)
    grid = np.full((4 * lines - 1, columns), np.nan)
    for row, values in ((1, result.clean_came), (2, result.ablated_came)):
        for at, value in enumerate(values):
            grid[4 * (at // columns) + row, at % columns] = value
    image = ax.imshow(
        np.ma.masked_invalid(grid), cmap=cmap, norm=norm, aspect="auto", extent=(0, columns, len(grid), 0), interpolation="nearest"
    )
    for row, run in enumerate((result.tokens, result.clean, result.ablated)):
        for at, token in enumerate(run):
            line, column = 4 * (at // columns) + row, at % columns
            text = "".join(map(legible, token if len(token) <= cell else f"{token[: cell - 2]}…"))
            ink = ink_on(image.cmap(norm(grid[line, column]))) if row else "black"
            ax.text(column + 0.5, line + 0.52, text, color=ink, family="DejaVu Sans Mono", size=8, ha="center", va="center")
    names = ("what came", "as it is", "unit held")
    ax.set_yticks([4 * line + row + 0.5 for line in range(lines) for row in range(3)], names * lines)
    ax.set(xticks=[])
    ax.tick_params(length=0)
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    bar = ax.figure.colorbar(image, ax=ax, orientation="horizontal", fraction=0.03, pad=0.01, aspect=60)
    bar.set_label("probability of what came; the character is the most likely one")
    clean, ablated = result.right
    ax.set_title(f"{clean} of {len(result.tokens)} are what was most likely as it is, {ablated} with the unit held")
