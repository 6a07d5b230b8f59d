"""A run that was changed beside the one that wasn't."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lstm_explain.analyses.compare_runs import ComparedRunsResult
from lstm_explain.plots._dispatch import draw


@draw.register
def draw_compared_runs(result: ComparedRunsResult, ax: Axes) -> None:
    """Draw each unit's trajectory in both runs: dashed the clean one, dots where a value was put there; grey steps were intervened in."""
    steps, bounded = np.arange(result.clean.shape[1]), result.signal.endswith("_gate")
    for k, unit in enumerate(result.units):
        ax.plot(steps, result.clean[k], color=f"C{k}", linestyle="--", linewidth=1.0, alpha=0.75, label=f"unit {unit}, clean")
        ax.plot(steps, result.edited[k], color=f"C{k}", linewidth=1.6, label=f"unit {unit}, edited")
        if (put := result.changed[k]).any():
            ax.plot(steps[put], result.edited[k][put], "o", color=f"C{k}", markersize=3.5, label=f"unit {unit}, put there")
    edges = np.flatnonzero(np.diff(np.concatenate([[False], result.intervened, [False]]).astype(int)))
    for start, stop in edges.reshape(-1, 2):
        ax.axvspan(start - 0.5, stop - 0.5, color="0.5", alpha=0.15, lw=0, zorder=0, label="intervened" if start == edges[0] else None)
    signal = result.signal.replace("_", " ")
    if bounded:
        low, high = min(0.0, float(result.edited.min())), max(1.0, float(result.edited.max()))
        ax.set_ylim(low - 0.02, high + 0.02)
    else:
        ax.axhline(0, color="0.5", linewidth=0.8, zorder=0)
    ax.set(xlabel="step", ylabel=signal, title=f"{result.layer}: {signal} with the intervention and without")
    ax.set_xlim(0, max(1, len(steps) - 1))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend()
