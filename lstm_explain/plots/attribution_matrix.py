"""Attributions of every output step to every input step, as a map."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from lstm_explain.analyses.attribution.matrix import AttributionMatrix
from lstm_explain.errors import InputError
from lstm_explain.plots._dispatch import draw
from lstm_explain.plots._text import SIGNED, plain

MOST_NAMED = 60


@draw.register
def draw_attribution_matrix(result: AttributionMatrix, ax: Axes, example: int = 0, tokens: Sequence[str] | None = None) -> None:
    """Draw one example: a row for each output step, a column for each input step, padding left out."""
    if not 0 <= example < len(result.valid):
        raise InputError(f"needed example from 0 to {len(result.valid) - 1}, got {example}")
    inputs, outputs = result.valid[example], result.output_valid[example]
    if not outputs.any():
        raise InputError(f"needed an example with one of the output steps, got {example}, which has none")
    if tokens is not None and len(tokens) < inputs.sum():
        raise InputError(f"needed tokens= for the example's {inputs.sum()} steps, got {len(tokens)}")
    shown, steps = result.attributions[example][outputs][:, inputs], result.output_steps[outputs]
    limit = float(np.abs(shown).max()) or 1.0
    image = ax.imshow(shown, cmap=SIGNED, norm=Normalize(-limit, limit), aspect="auto", interpolation="nearest")
    ax.grid(False)
    ax.set(xlabel="input step", ylabel="output step")
    if tokens is not None and len(steps) <= MOST_NAMED and inputs.sum() <= MOST_NAMED:
        names = [plain(token) for token in tokens]
        ax.set_xticks(range(int(inputs.sum())), names[: int(inputs.sum())])
        if result.from_future is not None:
            ax.set_yticks(range(len(steps)), [names[step] for step in steps])
    elif len(steps) < 12 or (np.diff(steps) != 1).any() or steps[0]:
        every = -(-len(steps) // 12)
        ax.set_yticks(range(0, len(steps), every), [str(step) for step in steps[::every]])
    ax.figure.colorbar(image, ax=ax).set_label("attribution, in units of the output")
    checks = []
    if result.relative_delta is not None:
        checks.append(f"residual at most {float(result.relative_delta[example][outputs].max()):.0e} of the difference")
    if result.from_future is not None:
        checks.append(
            f"from the future at most {float(result.from_future[example]):.0e}" if result.from_future[example] else "none from the future"
        )
    step, source = np.unravel_index(int(np.abs(shown).argmax()), shown.shape)
    most = f"output step {steps[step]} hangs most on step {np.flatnonzero(inputs)[source]}, {shown[step, source]:+.3g}"
    ax.set_title("\n".join([f"{most}, by {result.method.replace('_', ' ')}", "; ".join(checks)]).strip())
