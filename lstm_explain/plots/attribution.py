"""Attributions: over text, step by step, or as a map of steps and features."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from lstm_explain.analyses.attribution.result import AttributionResult
from lstm_explain.errors import InputError
from lstm_explain.plots._dispatch import chosen, draw
from lstm_explain.plots._text import COLUMNS, SIGNED, draw_text


@draw.register
def draw_attribution(
    result: AttributionResult,
    ax: Axes,
    kind: str | None = None,
    example: int = 0,
    tokens: Sequence[str] | None = None,
    feature_names: Sequence[str] | None = None,
    start: int = 0,
    columns: int = COLUMNS,
) -> None:
    """Draw one example's attributions over its tokens, as bars by step, or as a map of features and steps."""
    drawn = chosen("kind", kind, ("steps", "text", "map")) if kind or tokens is None else "text"
    if not 0 <= example < len(result.valid):
        raise InputError(f"needed example from 0 to {len(result.valid) - 1}, got {example}")
    steps = int(result.valid[example].sum())
    if not 0 <= start < steps:
        raise InputError(f"needed start from 0 to {steps - 1}, got {start}")
    shown, values = slice(start, steps), result.by_step[example]
    what = f"attribution to {result.explained[example]}"
    if drawn == "steps":
        ax.bar(np.arange(start, steps), values[shown], color=["C1" if value > 0 else "C0" for value in values[shown]], width=0.9)
        ax.axhline(0, color="0.5", linewidth=0.8)
        ax.set(xlabel=_axis(result), ylabel="attribution, in units of the output")
        if tokens is not None and steps - start <= 60:
            ax.set_xticks(np.arange(start, steps), [_plain(token) for token in tokens[start:steps]])
    elif drawn == "text":
        if tokens is None or len(tokens) < steps:
            raise InputError(f"needed tokens= for the example's {steps} steps, got {0 if tokens is None else len(tokens)}")
        limit = float(np.abs(values[shown]).max()) or 1.0
        draw_text(
            ax,
            tokens[start:steps],
            values[shown],
            norm=Normalize(-limit, limit),
            cmap=SIGNED,
            label=f"attribution{_credited(result)}in units of the output: red raises it, blue lowers it",
            columns=columns,
        )
    else:
        if result.attributions.ndim < 3:
            raise InputError('needed attributions to features for kind="map", got one for each step: use kind="steps"')
        whole = result.attributions[example, shown].T
        limit = float(np.abs(whole).max()) or 1.0
        image = ax.imshow(
            whole,
            cmap=SIGNED,
            norm=Normalize(-limit, limit),
            aspect="auto",
            interpolation="nearest",
            extent=(start - 0.5, steps - 0.5, len(whole) - 0.5, -0.5),
        )
        ax.grid(False)
        ax.set(xlabel=_axis(result), ylabel="feature")
        if feature_names is not None:
            ax.set_yticks(range(len(feature_names)), feature_names)
        ax.figure.colorbar(image, ax=ax).set_label("attribution, in units of the output")
    ax.set_title(f"{what}, by {result.method.replace('_', ' ')}{_account(result, example)}")


def _axis(result: AttributionResult) -> str:
    """What a step is: of a cell decomposition, one of the top layer's input."""
    return str(result.settings.get("credit_to", "step")).replace("steps", "step", 1)


def _credited(result: AttributionResult) -> str:
    return f" to {result.settings['credit_to']},\n" if "credit_to" in result.settings else ", "


def _account(result: AttributionResult, example: int) -> str:
    """Of a decomposition: where the output went, and what is left over."""
    if result.elsewhere is None or result.convergence_delta is None:
        return ""
    shares = {"steps": float(result.attributions[example].sum())}
    shares |= {name.replace("_", " "): float(share[example]) for name, share in result.elsewhere.items() if share[example] != 0}
    terms = " ".join(f"{'-' if value < 0 else '+'} {abs(value):.3g} to {name}" for name, value in shares.items()).removeprefix("+ ")
    short = "" if result.converged is None or result.converged[example] else ": it doesn't add up"
    return f"\n{result.output[example]:.3g} = {terms}; residual {result.convergence_delta[example]:.1e}{short}"


def _plain(token: str) -> str:
    return token.replace("$", r"\$") if token.strip() and token.isprintable() else repr(token)[1:-1]
