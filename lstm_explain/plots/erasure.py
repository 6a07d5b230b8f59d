"""What probes find before and after a label was erased."""

from matplotlib.axes import Axes

from lstm_explain.analyses.probing.erasure import ErasureResult
from lstm_explain.display import percent
from lstm_explain.plots._dispatch import draw

_ROWS = {
    "before": ("as they are", "C0"),
    "random": ("random directions\nerased", "C1"),
    "relearned": ("label erased,\nprobe from other groups", "C2"),
    "after": ("label erased", "C2"),
}


@draw.register
def draw_erasure(result: ErasureResult, ax: Axes) -> None:
    """Draw each score with its interval, one row each, beside the majority's."""
    for row, (name, (_, colour)) in enumerate(reversed(_ROWS.items())):
        score = getattr(result, name)
        ax.plot([score.low, score.high], [row, row], color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt", zorder=2)
        ax.plot(score.value, row, "o", color=colour, zorder=3)
        ax.annotate(f"{round(score.value, 3) + 0.0:.3f}", (score.value, row), (0, 7), textcoords="offset points", ha="center", size=8)
    ax.axvline(result.majority.value, color="0.5", linestyle="--", linewidth=1, label="majority or mean")
    ax.set_yticks(range(len(_ROWS)), [words for words, _ in reversed(_ROWS.values())])
    ax.set(ylim=(-0.5, len(_ROWS) - 0.3), xlabel=f"{result.metric} on groups not seen (bar: 95 %)")
    ax.margins(x=0.08)
    ax.set_title(f"erasing {result.rank} of {result.units} directions, {percent(result.removed, 1)} of the variance")
    ax.legend(loc="best")
