"""Principal components: how much variance each has, and paths along the first two."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from lstm_explain.analyses.components import ComponentsResult
from lstm_explain.display import percent
from lstm_explain.errors import InputError
from lstm_explain.plots._dispatch import chosen, draw, layers_of


@draw.register
def draw_components(
    result: ComponentsResult,
    ax: Axes,
    kind: str | None = None,
    layer: str | None = None,
    paths: NDArray[np.float64] | None = None,
    sequences: Sequence[int] = (0,),
    most: int = 30,
) -> None:
    """Draw the variance along each component beside what chance has, or some sequences' `paths`, ``result.project(trajectory)``."""
    if chosen("kind", kind, ("paths", "variance") if paths is not None else ("variance", "paths")) == "variance":
        _variance(ax, result, layer, most)
    else:
        _paths(ax, result, layer, paths, sequences)


def _variance(ax: Axes, result: ComponentsResult, layer: str | None, most: int) -> None:
    if most < 1:
        raise InputError(f"needed most from 1, got {most}")
    titles = []
    for at, (name, one) in enumerate(layers_of(result.layers, layer).items()):
        shown = np.arange(min(len(one.variance), most))
        ax.plot(shown + 1, 100 * one.ratio[shown], "o-", color=f"C{at}", label=name)
        if len(one.by_chance):
            chance = 100 * one.by_chance.max(0)[shown] / one.variance.sum()
            ax.plot(shown + 1, chance, color=f"C{at}", linestyle=":", label=f"{name}: most by chance in {len(one.by_chance)} draws")
        above = f"not controlled: {one.missing.partition(':')[0]}" if one.missing else f"{one.above_chance} above chance"
        titles.append(f"{name}: participation ratio {one.participation_ratio:.1f} of {len(one.mean)} units\n{above}")
    ax.set(xlabel="component", ylabel="share of the variance, %")
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_title("\n".join(titles))
    ax.legend()


def _paths(ax: Axes, result: ComponentsResult, layer: str | None, paths: NDArray[np.float64] | None, sequences: Sequence[int]) -> None:
    name, one = next(iter(layers_of(result.layers, layer).items()))
    if paths is None or np.ndim(paths) != 3 or np.shape(paths)[2] != len(one.variance) or len(one.variance) < 2:
        got = "none" if paths is None else f"shape {np.shape(paths)}"
        needed = f"(batch, time, {max(len(one.variance), 2)})"
        raise InputError(f"needed paths= of {name}, {needed}, what result.project(trajectory) returns, got {got}")
    if bad := [sequence for sequence in sequences if not 0 <= sequence < len(paths)]:
        raise InputError(f"needed sequences from 0 to {len(paths) - 1}, got {bad[0]}")
    for at, sequence in enumerate(sequences):
        x, y = paths[sequence, :, :2][np.isfinite(paths[sequence, :, 0])].T
        ax.plot(x, y, color=f"C{at % 8}", linewidth=1, label=f"sequence {sequence}")
        ax.plot(x[:1], y[:1], "o", color=f"C{at % 8}", mfc="white", markersize=6)
        ax.plot(x[-1:], y[-1:], "o", color=f"C{at % 8}", markersize=6)
    ax.set(xlabel=f"component 1 ({percent(one.ratio[0])} of the variance)", ylabel=f"component 2 ({percent(one.ratio[1])})")
    ax.set_title(f"{name}: paths of the {one.signal.replace('_', ' ')}, from the hollow dot to the full one")
    ax.legend()
