"""Probe scores beside their controls; single units beside labels."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from lstm_explain.analyses.probing.result import MAJORITY, UNTRAINED, WINDOW, LabelProbing, ProbingResult
from lstm_explain.analyses.probing.unit_scores import UnitScoresResult
from lstm_explain.errors import InputError
from lstm_explain.plots._dispatch import chosen, draw, layers_of

_CONTROLS = {
    UNTRAINED: ("untrained network", "o", "C1"),
    WINDOW: ("last inputs only", "s", "C2"),
    MAJORITY: ("majority or mean", "|", "0.45"),
}


@draw.register
def draw_probing(result: ProbingResult, ax: Axes, kind: str | None = None, label: str | None = None, units: int = 12) -> None:
    """Draw each label's best probe beside its controls, or beside its control task, or the best single cells beside all labels."""
    labels: dict[str, LabelProbing] = layers_of(result.labels, label, "label")
    match chosen("kind", kind, ("scores", "selectivity", "matrix")):
        case "scores":
            _scores(ax, labels, result)
        case "selectivity":
            _selectivity(ax, labels)
        case _:
            _matrix(ax, labels, result, units)


def _scores(ax: Axes, labels: dict[str, LabelProbing], result: ProbingResult) -> None:
    untrained = f"untrained network, best of {result.twins} (bar: all)" if result.twins > 1 else "untrained network"
    rows = np.arange(len(labels))[::-1]
    lowest = 0.0
    for row, found in zip(rows, labels.values(), strict=True):
        best = found.probes[found.best].score
        ax.plot([best.low, best.high], [row, row], color="C0", linewidth=5, alpha=0.35, solid_capstyle="butt", zorder=2)
        first = row == rows[0]
        ax.plot(best.value, row, "o", color="C0", markersize=8, label="best probe of a state (bar: 95 %)" if first else None, zorder=4)
        cell = found.best_unit()[1].unit_score
        ax.plot(cell.value, row, "^", color="C0", markersize=6, mfc="white", label="best single cell" if first else None, zorder=4)
        if len(found.twins) > 1:
            # Side by side with the probe's own bar, which it may lie on.
            values = [twin.score.value for twin in found.twins]
            lowest = min(lowest, *values)
            ax.plot([min(values), max(values)], [row - 0.2] * 2, color="C1", linewidth=2.5, solid_capstyle="butt", zorder=2)
            ax.plot(values, [row - 0.2] * len(values), "|", color="C1", markersize=6, zorder=2)
        for control, (name, marker, colour) in _CONTROLS.items():
            at = found.best_control(control)
            name = untrained if control == UNTRAINED else name
            if at is not None:
                value = at[1].score.value
                lowest = min(lowest, value)
                size = 12 if marker == "|" else 6
                ax.plot(value, row, marker, color=colour, markersize=size, mfc="white", mew=1.6, label=name if first else None, zorder=3)
        ax.text(1.04, row, f"{best.value:.3f}  {found.verdict}", va="center", size=8)
    ax.set_yticks(rows, [f"{name.replace('_', ' ')}\n({found.metric})" for name, found in labels.items()])
    ax.set(xlim=(max(-0.25, min(-0.02, lowest - 0.02)), 1.015), ylim=(-0.6, len(rows) - 0.4))
    ax.set_xlabel("score on groups that the probe has not seen")
    shown = [found.verdict for found in labels.values()]
    beyond = f"{shown.count('shown')} of {len(labels)} labels: the best probe of a state is above every control"
    ax.set_title("probe scores, not controlled" if set(shown) == {"not controlled"} else beyond)
    ax.legend(loc="upper center", bbox_to_anchor=(0.45, -0.16), ncols=3)


def _selectivity(ax: Axes, labels: dict[str, LabelProbing]) -> None:
    rows = np.arange(len(labels))[::-1]
    lowest, known, above_zero = 0.0, 0, 0
    for row, found in zip(rows, labels.values(), strict=True):
        best = found.probes[found.best]
        score, task, above = best.score.value, best.control_task.value, best.selectivity
        if np.isnan(above.value):
            ax.text(1.04, row, "no control task", va="center", size=8, color="0.45")
            continue
        lowest, first = min(lowest, score, task), not known
        known, above_zero = known + 1, above_zero + (above.low > 0)
        ax.plot([task, score], [row, row], color="0.7", linewidth=2, zorder=2)
        ax.plot(score, row, "o", color="C0", markersize=8, label="best probe of a state" if first else None, zorder=4)
        ax.plot(
            task,
            row,
            "D",
            color="C3",
            markersize=6,
            mfc="white",
            mew=1.6,
            label="same, random label for each type" if first else None,
            zorder=3,
        )
        ax.text(1.04, row, f"{above.value:+.3f} ({above.low:+.3f} to {above.high:+.3f})", va="center", size=8)
    if not known:
        raise InputError("needed a probing with a control task, got none: give types, as in probe(..., controls={'types': ...})")
    ax.set_yticks(rows, [f"{name.replace('_', ' ')}\n({found.metric})" for name, found in labels.items()])
    ax.set(xlim=(max(-0.25, min(-0.02, lowest - 0.02)), 1.015), ylim=(-0.6, len(rows) - 0.4))
    ax.set_xlabel("score on groups that the probe has not seen; beside it selectivity (95 %)")
    ax.set_title(f"{above_zero} of {known} labels: the probe tells more than it can learn by heart")
    ax.legend(loc="upper center", bbox_to_anchor=(0.45, -0.16), ncols=2)


def _over_chance(units: UnitScoresResult) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Scores from 0, chance, to 1."""
    return 2 * units.scores - 1 if units.kind == "binary" else units.scores


def _matrix(ax: Axes, labels: dict[str, LabelProbing], result: ProbingResult, units: int) -> None:
    if units < 1:
        raise InputError(f"needed at least one unit, got {units}")
    each = np.stack([_over_chance(found.units) for found in labels.values()])
    # Taking turns: every label's best, then every label's second best, and so on.
    ranked = np.argsort(-each, axis=1, kind="stable").T.ravel().tolist()
    picked = list(dict.fromkeys(ranked))[:units]
    shown = each[:, picked].T
    image = ax.imshow(shown, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    for row, unit in enumerate(picked):
        for column, found in enumerate(labels.values()):
            certain = found.units.p_values_family[unit] <= 0.05
            text = f"{found.units.scores[unit]:.2f}" if certain else f"({found.units.scores[unit]:.2f})"
            ax.text(column, row, text, ha="center", va="center", size=8, color="white" if shown[row, column] < 0.5 else "black")
    ax.set_xticks(range(len(labels)), [f"{name.replace('_', ' ')}\n{_short(found.units)}" for name, found in labels.items()])
    ax.set_yticks(range(len(picked)), [f"{result.cells[unit][0]} unit {result.cells[unit][1]}" for unit in picked])
    ax.grid(False)
    certain = [found.units.p_values_family.min() <= 0.05 for found in labels.values()]
    ax.set_title(f"{sum(certain)} of {len(labels)} labels go with single cells\nin brackets: not shown (over the family of all cells)")
    ax.figure.colorbar(image, ax=ax).set_label("over chance: 2 AUC - 1, or share of variance")


def _short(units: UnitScoresResult) -> str:
    return {"binary": "AUC", "continuous": "r²", "categorical": "η²"}[units.kind]


@draw.register
def draw_unit_scores(result: UnitScoresResult, ax: Axes) -> None:
    """Draw every unit's score; filled where it is shown over the family."""
    units, shown = np.arange(len(result.scores)), result.p_values_family <= 0.05
    chance = 0.5 if result.kind == "binary" else 0.0
    ax.vlines(units, chance, result.scores, color=["C0" if one else "0.75" for one in shown], linewidth=1)
    ax.plot(units[shown], result.scores[shown], "o", color="C0", label="shown over the family (5 %)")
    ax.plot(units[~shown], result.scores[~shown], "o", color="0.6", mfc="white", label="not shown")
    ax.set(ylim=(chance, 1.02), xlabel="unit", ylabel=result.metric)
    ax.set_title(f"{int(shown.sum())} of {len(units)} units go with the label")
    ax.legend()
