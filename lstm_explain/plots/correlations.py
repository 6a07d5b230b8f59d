"""Correlations between units, in the order of their clusters."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from lstm_explain.analyses.correlations import CorrelationsResult
from lstm_explain.plots._dispatch import draw
from lstm_explain.plots._text import SIGNED

_MOST_NAMED = 48
_LINE = 0.03
"""The height of a line of text, as a share of the picture's."""


@draw.register
def draw_correlations(result: CorrelationsResult, ax: Axes) -> None:
    """Draw the matrix; clusters of several units in boxes; grey where a unit never changed."""
    order = np.array(result.order)
    image = ax.imshow(
        np.ma.masked_invalid(result.correlations[np.ix_(order, order)]), cmap=SIGNED, norm=Normalize(-1, 1), interpolation="nearest"
    )
    ax.set_facecolor("0.8")
    ax.grid(False)
    clusters = result.clusters[order]
    boxes = []
    for cluster in range(result.clusters.max() + 1):
        places = np.flatnonzero(clusters == cluster)
        if len(places) > 1:
            # Units of one cluster stand side by side in the order of the clustering.
            low, high = places[0] - 0.5, places[-1] + 0.5
            ax.plot([low, high, high, low, low], [low, low, high, high, low], color="black", linewidth=1)
            boxes.append((cluster, high, len(places)))
    several = len({layer for layer, _ in result.units}) > 1
    if len(order) <= _MOST_NAMED:
        names = [f"{layer} {unit}" if several else str(unit) for layer, unit in (result.units[at] for at in order)]
        ax.set_xticks(range(len(order)), names, rotation=90, size=7)
        ax.set_yticks(range(len(order)), names, size=7)
        ax.set_xlabel("unit")
    else:
        taken: list[float] = []
        for cluster, high, size in boxes:
            if all(abs(high - other) > _LINE * len(order) for other in taken):
                ax.text(high + 0.01 * len(order), high, f"cluster {cluster}: {size}", size=7, va="bottom")
                taken.append(high)
        ax.set(xticks=[], yticks=[])
        ax.set_xlabel(f"{len(order)} units, in the order of their clusters; beside boxes: how many units")
    ax.figure.colorbar(image, ax=ax).set_label("correlation")
    (largest,) = result.pairs(1)
    pair = " and ".join(f"{layer} {unit}" for layer, unit in (largest.first, largest.second))
    draws = result.largest_by_chance
    chance = (
        f"by chance at most {draws.max():.2f} in {len(draws)} draws"
        if len(draws)
        else f"not controlled: {result.missing.partition(':')[0]}"
    )
    ax.set_title(f"largest |r| {abs(largest.correlation):.2f}, {pair}; boxes: clusters at {result.threshold:g}\n{chance}")
