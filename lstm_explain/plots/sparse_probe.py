"""A probe's score against the number of units it may look at."""

import numpy as np
from matplotlib.axes import Axes

from lstm_explain.analyses.probing.sparse_probe import SparseProbeResult
from lstm_explain.plots._dispatch import draw


@draw.register
def draw_sparse_probe(result: SparseProbeResult, ax: Axes) -> None:
    """Draw the score of each count with its interval, the twins' beside it, and the fewest units that are as good as the best."""
    curves = [(result.scores, "trained", "C0", "o", "C0")]
    if result.twins:
        name = "untrained" if result.twins == 1 else f"untrained (mean of {result.twins})"
        curves.append((result.untrained, name, "C1", "o", "white"))
    for scores, name, colour, marker, fill in curves:
        value, low, high = np.array(scores).T
        ax.fill_between(result.counts, low, high, color=colour, alpha=0.18, linewidth=0)
        ax.plot(result.counts, value, color=colour, marker=marker, mfc=fill, label=name)
    if result.above_chance:
        ax.axvline(result.fewest, color="C0", linestyle=":", linewidth=1.2)
        title = f"{result.fewest} of {result.units} units are within the interval of the best ({result.best})"
    else:
        title = f"no number of {result.units} units is above chance"
    ax.axhline(result.chance, color="0.5", linestyle="--", linewidth=1, label="chance")
    ax.set_xscale("log", base=2)
    ax.set_xticks(result.counts, [str(count) for count in result.counts])
    ax.minorticks_off()
    ax.set(xlabel="units that the probe may look at", ylabel=f"{result.metric} on groups not seen (band: 95 %)", title=title)
    # Differences within a hundredth of chance shouldn't fill the picture.
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, result.chance - 0.05), max(high, result.chance + 0.05))
    ax.legend(loc="best")
