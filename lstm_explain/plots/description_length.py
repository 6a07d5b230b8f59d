"""What each portion of a label costs, with the states and without."""

import numpy as np
from matplotlib.axes import Axes

from lstm_explain.analyses.probing.description_length import DescriptionLengthResult
from lstm_explain.plots._dispatch import draw


@draw.register
def draw_description_length(result: DescriptionLengthResult, ax: Axes) -> None:
    """Draw bits per step against the steps that are known by then, as stairs: the lower, the more the states tell."""
    begins, ends = np.concatenate([[0], result.ends[:-1]]), result.ends
    # The first portion begins at no step, which a logarithmic axis hasn't got.
    edges = np.concatenate([[ends[0] / 2], ends])
    with_states, without = (bits / (ends - begins) for bits in (result.portion_bits, result.portion_reference_bits))
    ax.stairs(without, edges, baseline=None, color="0.5", linestyle="--", linewidth=1.5, label="without the states")
    ax.stairs(with_states, edges, baseline=None, color="C0", linewidth=2, label="with the states")
    low, high = (np.append(cost, cost[-1]) for cost in (with_states, without))
    ax.fill_between(edges, low, high, step="post", color="C0", alpha=0.12, linewidth=0)
    ax.set_xscale("log")
    ax.set(xlim=(edges[0], edges[-1]), ylim=(0, None), xlabel="step, in the order in which groups were drawn", ylabel="bits per step")
    moved = f"labels moved: {result.moved.mean():.2f} ± {result.moved.std(ddof=1):.2g}"
    ax.set_title(f"{result.compression:.2f} times shorter with the states ({moved})")
    ax.legend(loc="lower left")
