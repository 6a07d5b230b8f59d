"""How long cells remember: survival curves, half-lives, and retention beside the forget gate."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from lstm_explain.analyses.timescale import TimescaleResult
from lstm_explain.errors import InputError
from lstm_explain.plots._dispatch import chosen, draw, layers_of


@draw.register
def draw_timescale(result: TimescaleResult, ax: Axes, kind: str | None = None, layer: str | None = None, unit: int | None = None) -> None:
    """Draw timescales as survival curves, half-lives, or retention beside the forget gate."""
    layers = layers_of(result.layers, layer)
    drawers = {"survival": _survival, "half_life": _half_life, "retention": _retention}
    drawer = drawers[chosen("kind", kind, tuple(drawers))]
    if unit is not None and (drawer is not _survival or len(layers) > 1):
        raise InputError('needed unit= only with kind="survival" and one layer=: a unit belongs to a layer')
    if drawer is _survival:
        _survival(ax, layers, unit)
    else:
        drawer(ax, layers)


def _survival(ax: Axes, layers: dict[str, Any], unit: int | None = None) -> None:
    for k, (name, layer) in enumerate(layers.items()):
        lags, curves = np.concatenate([[0], layer.lags]), np.vstack([np.ones(layer.units), layer.survival])
        if unit is not None:
            if not 0 <= unit < layer.units:
                raise InputError(f"needed unit from 0 to {layer.units - 1} of {name}, got {unit}")
            ax.plot(lags, curves[:, unit], marker="o", color=f"C{k}", label=f"{name} unit {unit}")
            continue
        low, median, high = np.quantile(curves, [0.1, 0.5, 0.9], axis=1)
        ax.plot(lags, median, marker="o", color=f"C{k}", label=f"{name}: median unit")
        ax.fill_between(lags, low, high, color=f"C{k}", alpha=0.18, linewidth=0, label=f"{name}: units from 10 % to 90 %")
    ax.axhline(0.5, color="0.5", linewidth=0.8, linestyle="--")
    ax.set_xscale("symlog", linthresh=1, base=2)
    ax.set(xlim=(0, None), ylim=(0, 1.02), title="what a cell still holds after k steps")
    ax.set_xlabel("k, steps (logarithmic from 1 on)")
    ax.set_ylabel(f"survival: mean product of k {_gates(layers)}")
    ticks = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    longest = max(int(layer.lags[-1]) for layer in layers.values())
    ax.set_xticks([tick for tick in ticks if tick <= longest], [str(tick) for tick in ticks if tick <= longest])
    ax.minorticks_off()
    ax.legend()


def _half_life(ax: Axes, layers: dict[str, Any]) -> None:
    for k, (name, layer) in enumerate(layers.items()):
        reached = np.sort(layer.half_life[np.isfinite(layer.half_life)])
        beyond = layer.units - len(reached)
        label = f"{name}: {beyond} of {layer.units} beyond {layer.lags[-1]} steps" if beyond else name
        ax.step(reached, np.arange(1, len(reached) + 1) / layer.units, where="post", color=f"C{k}", label=label)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set(ylim=(0, 1.02), title="half-lives of all cells")
    ax.set_xlabel("half-life, steps (logarithmic)")
    ax.set_ylabel("share of cells that forget sooner")
    ax.legend()


def _retention(ax: Axes, layers: dict[str, Any]) -> None:
    for k, (name, layer) in enumerate(layers.items()):
        ax.scatter(layer.forget_mean, layer.retention, s=14, color=f"C{k}", alpha=0.6, linewidths=0, label=name, zorder=2)
    ends = np.array([layer.forget_mean for layer in layers.values()] and [0.0, 1.0])
    ax.plot(ends, ends, color="0.5", linewidth=0.8, linestyle="--", zorder=1)
    ax.set(title=f"the true one-step retention of each cell beside its {_gates(layers).removesuffix('s')}")
    ax.set_xlabel(f"mean {_gates(layers).removesuffix('s')}")
    ax.set_ylabel(r"mean $\partial c_t / \partial c_{t-1}$ of the cell itself, $h$ fixed", parse_math=True)
    ax.legend()


def _gates(layers: dict[str, Any]) -> str:
    """The gates by which the layers keep: "forget gates", "update gates", or both."""
    return " or ".join(dict.fromkeys(f"{layer.gate.replace('_', ' ')}s" for layer in layers.values()))
