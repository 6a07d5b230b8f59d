"""Attributions: over text, over series, step by step, or as a map of steps and features."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lstm_explain.analyses.attribution.result import AttributionResult
from lstm_explain.errors import InputError
from lstm_explain.plots._dispatch import chosen, draw
from lstm_explain.plots._series import draw_series
from lstm_explain.plots._text import COLUMNS, SIGNED, draw_text, plain, short

MOST_SERIES = 12
"""More lines than these can't be told apart on one Axes."""


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
    inputs: Tensor | ArrayLike | None = None,
    features: Sequence[int | str] | None = None,
) -> None:
    """Draw one example's attributions over its tokens or its series, as bars by step, or as a map of features and steps."""
    usual = "series" if inputs is not None else "groups" if result.by_group is not None else "steps"
    drawn = chosen("kind", kind, ("steps", "text", "map", "groups", "series")) if kind else usual if tokens is None else "text"
    if not 0 <= example < len(result.valid):
        raise InputError(f"needed example from 0 to {len(result.valid) - 1}, got {example}")
    steps = int(result.valid[example].sum())
    if not 0 <= start < steps:
        raise InputError(f"needed start from 0 to {steps - 1}, got {start}")
    shown, values = slice(start, steps), result.by_step[example]
    if drawn == "groups":
        _draw_groups(result, ax, example)
    elif drawn == "series":
        _draw_series(result, ax, example, shown, inputs, features, feature_names)
    elif drawn == "steps":
        ax.bar(np.arange(start, steps), values[shown], color=["C1" if value > 0 else "C0" for value in values[shown]], width=0.9)
        ax.axhline(0, color="0.5", linewidth=0.8)
        ax.set(xlabel=_axis(result), ylabel=f"attribution, {result.unit}")
        if tokens is not None and steps - start <= 60:
            ax.set_xticks(np.arange(start, steps), [plain(token) for token in tokens[start:steps]])
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
            label=f"attribution{_credited(result)}{result.unit}: red raises it, blue lowers it",
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
        ax.figure.colorbar(image, ax=ax).set_label(f"attribution, {result.unit}")
    checked = _residual(result, example) if drawn in ("groups", "series") else ""
    most = _strongest_group(result, example) if drawn == "groups" else strongest(result, example, tokens)
    how = f"by {result.method.replace('_', ' ')}{checked}{_account(result, example)}"
    ax.set_title(f"attribution to {result.explained[example]}: {most}, {how}")


def strongest(result: AttributionResult, example: int, tokens: Sequence[str] | None = None) -> str:
    """Which step has the largest attribution, in words."""
    values = result.by_step[example]
    step = int(np.abs(values).argmax())
    if not values[step]:
        return "none to any step"
    token = "" if tokens is None else f"“{short(plain(tokens[step])).strip()}” at "
    return f"most to {token}{_axis(result).partition(' ')[0]} {step}, {values[step]:+.3g}"


def _strongest_group(result: AttributionResult, example: int) -> str:
    """Which group has the largest attribution, in words."""
    assert result.groups is not None and result.by_group is not None
    values = result.by_group[example]
    group = int(np.abs(values).argmax())
    return f"most to {result.groups[group]}, {values[group]:+.3g}" if values[group] else "none to any group"


def _axis(result: AttributionResult) -> str:
    """What a step is: of a cell decomposition, one of the top layer's input."""
    return str(result.settings.get("credit_to", "step")).replace("steps", "step", 1)


def _credited(result: AttributionResult) -> str:
    return f" to {result.settings['credit_to']},\n" if "credit_to" in result.settings else ", "


def _residual(result: AttributionResult, example: int) -> str:
    """How far the example's attributions are from adding up; of a decomposition `_account` says it."""
    if result.elsewhere is not None:
        return ""
    if result.relative_delta is None:
        return "\nit doesn't claim to add up"
    claims = ": it doesn't claim to add up" if result.converged is None and result.method != "gradient_shap" else ""
    short = ": it doesn't add up" if result.converged is not None and not result.converged[example] else claims
    return f"\nresidual {float(result.relative_delta[example]):.0e} of the difference of outputs{short}"


def _account(result: AttributionResult, example: int) -> str:
    """Of a decomposition: where the output went, and what is left over."""
    if result.elsewhere is None or result.convergence_delta is None:
        return ""
    shares = {"steps": float(result.attributions[example].sum())}
    shares |= {name.replace("_", " "): float(share[example]) for name, share in result.elsewhere.items() if share[example] != 0}
    terms = " ".join(f"{'-' if value < 0 else '+'} {abs(value):.3g} to {name}" for name, value in shares.items()).removeprefix("+ ")
    short = "" if result.converged is None or result.converged[example] else ": it doesn't add up"
    return f"\n{result.output[example]:.3g} = {terms}; residual {result.convergence_delta[example]:.1e}{short}"


def _draw_groups(result: AttributionResult, ax: Axes, example: int) -> None:
    """Bars, the first group on top; under them what the groups don't add up to, where there is something to add up to."""
    if result.groups is None or result.by_group is None:
        raise InputError('needed attributions to groups for kind="groups", got none: give lx.attribute by=')
    names, values = list(result.groups), result.by_group[example]
    errors = None if result.group_spread is None else result.group_spread[example]
    ax.barh(names, values, xerr=errors, color=["C1" if value > 0 else "C0" for value in values], height=0.8)
    if result.convergence_delta is not None:
        ax.barh(["not attributed"], [-float(result.convergence_delta[example])], color="0.6", height=0.8)
    ax.axvline(0, color="0.5", linewidth=0.8)
    ax.grid(False, axis="y")
    ax.invert_yaxis()
    ax.set(xlabel="attribution, in units of the output" if errors is None else "attribution (lines: standard errors)")


def _draw_series(
    result: AttributionResult,
    ax: Axes,
    example: int,
    shown: slice,
    inputs: Tensor | ArrayLike | None,
    features: Sequence[int | str] | None,
    feature_names: Sequence[str] | None,
) -> None:
    """The example's series, each on the colours of its own attributions, or of its steps' where features have none of their own."""
    if result.settings.get("embedding") is not None:
        raise InputError('needed attributions to numbers for kind="series", got attributions to tokens: use kind="text" with tokens=')
    if inputs is None:
        raise InputError('needed inputs=, what was attributed, for kind="series", got none')
    of = result.attributions
    whole = np.asarray(inputs.detach().double().cpu() if isinstance(inputs, Tensor) else inputs, dtype=np.float64)
    if whole.shape[:2] != of.shape[:2] or whole.ndim not in (2, 3) or (of.ndim == 3 and whole.shape != of.shape):
        raise InputError(f"needed inputs= of shape {of.shape}, as they were attributed, got {whole.shape}")
    series = whole[example, shown].reshape(shown.stop - shown.start, -1)
    values = np.broadcast_to(of[example, shown].reshape(len(series), -1), series.shape)
    names = [f"feature {at}" for at in range(series.shape[1])] if feature_names is None else list(feature_names)
    if len(names) != series.shape[1]:
        raise InputError(f"needed feature_names for {series.shape[1]} features, got {len(names)}")
    picked = _picked(features, names, values)
    of_steps = "" if of.shape == whole.shape else " of the step"
    label = f"attribution{of_steps}, {result.unit}"
    limit = float(np.abs(values[:, picked]).max()) or 1.0
    drawn = [names[at] for at in picked]
    draw_series(ax, series[:, picked], values[:, picked], names=drawn, start=shown.start, norm=Normalize(-limit, limit), label=label)
    ax.set_xlabel(_axis(result))
    if len(picked) < len(names) and len(picked) > 1:
        chosen_by = "those with the largest attributions" if features is None else "as asked"
        ax.set_ylabel(f"{len(picked)} of {len(names)} features, {chosen_by}")


def _picked(features: Sequence[int | str] | None, names: list[str], values: NDArray[np.float64]) -> list[int]:
    """Which features to draw, by place or by name; the ones with the largest attributions, in their order, where there are too many."""
    if features is None:
        return sorted(np.argsort(-np.abs(values).sum(0), kind="stable")[:MOST_SERIES].tolist())
    picked = []
    for feature in features:
        if isinstance(feature, str) and feature not in names:
            raise InputError(f"needed features among {', '.join(names[:MOST_SERIES])}, got {feature!r}")
        at = names.index(feature) if isinstance(feature, str) else int(feature)
        if not 0 <= at < len(names):
            raise InputError(f"needed features from 0 to {len(names) - 1}, got {feature}")
        picked.append(at)
    if not picked:
        raise InputError("needed at least one feature, got none")
    return picked
