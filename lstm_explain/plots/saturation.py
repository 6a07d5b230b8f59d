"""Gate saturation: the scatter of Karpathy, Johnson & Li (2015), and the histogram of all values."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from lstm_explain.analyses.saturation import SaturationResult
from lstm_explain.errors import InputError
from lstm_explain.plots._dispatch import chosen, draw, layers_of


@draw.register
def draw_saturation(result: SaturationResult, ax: Axes, kind: str | None = None, gate: str | None = None, layer: str | None = None) -> None:
    """Draw saturation as a scatter of units or a histogram of values."""
    gate = result.keeps if gate is None else chosen("gate", gate, result.gates)
    layers = {name: one for name, one in layers_of(result.layers, layer).items() if gate in one.gates}
    if not layers:
        raise InputError(f"needed a layer with a {gate}, got {layer}")
    if chosen("kind", kind, ("scatter", "histogram")) == "scatter":
        _scatter(result, ax, gate, layers)
    else:
        _histogram(result, ax, gate, layers)


def _scatter(result: SaturationResult, ax: Axes, gate: str, layers: dict[str, Any]) -> None:
    low, high = result.thresholds[0]
    ax.plot([0, 1], [1, 0], color="0.7", linewidth=0.8, zorder=1)
    for k, (name, layer) in enumerate(layers.items()):
        at = layer.gates.index(gate)
        ax.scatter(layer.left[at, 0], layer.right[at, 0], s=14, color=f"C{k}", alpha=0.6, linewidths=0, label=name, clip_on=False, zorder=2)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", title=gate.replace("_", " "))
    ax.set_xlabel(f"left-saturated: share of steps < {low}")
    ax.set_ylabel(f"right-saturated: share of steps > {high}")
    ax.legend(title="one dot is one unit", loc="upper right")


def _histogram(result: SaturationResult, ax: Axes, gate: str, layers: dict[str, Any]) -> None:
    for k, (name, layer) in enumerate(layers.items()):
        counts = layer.histogram[layer.gates.index(gate)]
        ax.stairs(counts / max(counts.sum(), 1), result.edges, label=name, color=f"C{k}", linewidth=1.4)
    for threshold in result.thresholds[0]:
        ax.axvline(threshold, color="0.6", linewidth=0.8, linestyle="--")
    ax.set(xlim=(0, 1), ylim=(0, None), title=gate.replace("_", " "))
    ax.set_xlabel("gate value")
    ax.set_ylabel(f"share of values in a bin of {np.diff(result.edges)[0]:.3g}")
    ax.legend()
