"""Attributions to a gate or a state: by step, by unit, or as a map of both."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator

from lstm_explain.analyses.attribution.gates_result import GateAttributionResult
from lstm_explain.errors import InputError
from lstm_explain.plots._dispatch import chosen, draw
from lstm_explain.plots._text import SIGNED, plain

_WRITTEN = 60
"""More tokens than these can't be read along an axis."""


@draw.register
def draw_gate_attribution(
    result: GateAttributionResult, ax: Axes, kind: str | None = None, example: int = 0, tokens: Sequence[str] | None = None
) -> None:
    """Draw one example's attributions: sums over units, sums over steps, or all of them as colours."""
    drawn = chosen("kind", kind, ("steps", "units", "map"))
    if not 0 <= example < len(result.valid):
        raise InputError(f"needed example from 0 to {len(result.valid) - 1}, got {example}")
    steps = np.nonzero(result.valid[example])[0]
    start, stop = int(steps[0]), int(steps[-1]) + 1
    if tokens is not None and len(tokens) < stop:
        raise InputError(f"needed tokens= for the example's {stop} steps, got {len(tokens)}")
    label = f"attribution, {result.unit}"
    if drawn == "map":
        shown = result.attributions[example, start:stop].T
        limit = float(np.abs(shown).max()) or 1.0
        extent = (start - 0.5, stop - 0.5, len(shown) - 0.5, -0.5)
        colours = Normalize(-limit, limit)
        image = ax.imshow(shown, cmap=SIGNED, norm=colours, aspect="auto", interpolation="nearest", extent=extent)
        ax.grid(False)
        ax.set(xlabel="step", ylabel="unit")
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
        ax.figure.colorbar(image, ax=ax).set_label(label)
    else:
        values = result.by_step[example, start:stop] if drawn == "steps" else result.by_unit[example]
        places = np.arange(start, stop) if drawn == "steps" else np.arange(len(values))
        ax.bar(places, values, color=["C1" if value > 0 else "C0" for value in values], width=0.9)
        ax.axhline(0, color="0.5", linewidth=0.8)
        over = "units" if drawn == "steps" else "steps"
        ax.set(xlabel=drawn.removesuffix("s"), ylabel=f"{label},\nsummed over {over}")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if tokens is not None and drawn != "units" and stop - start <= _WRITTEN:
        ax.set_xticks(np.arange(start, stop), [plain(token) for token in tokens[start:stop]])
    share = None if result.relative_delta is None else float(result.relative_delta[example])
    short = "" if result.converged is None or result.converged[example] else ": it doesn't add up"
    checked = "it doesn't claim to add up" if share is None else f"residual {share:.0e} of the difference of outputs{short}"
    what, how = result.signal.replace("_", " "), result.method.replace("_", " ")
    ax.set_title(f"{what} of {result.layer}: attribution to {result.explained[example]}, {_most(result, example)},\nby {how}; {checked}")


def _most(result: GateAttributionResult, example: int) -> str:
    """Where the largest attribution is."""
    values = result.attributions[example]
    step, unit = np.unravel_index(int(np.abs(values).argmax()), values.shape)
    return f"most to unit {unit} at step {step}, {values[step, unit]:+.3g}" if values[step, unit] else "none anywhere"
