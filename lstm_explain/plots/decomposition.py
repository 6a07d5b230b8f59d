"""Contextual decompositions: a phrase beside everything else, as bars or over text."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from lstm_explain.analyses.attribution.decomposition.result import ContextualDecompositionResult
from lstm_explain.errors import InputError
from lstm_explain.plots._dispatch import chosen, draw
from lstm_explain.plots._text import COLUMNS, SIGNED, draw_text


@draw.register
def draw_contextual_decomposition(
    result: ContextualDecompositionResult,
    ax: Axes,
    kind: str | None = None,
    example: int = 0,
    tokens: Sequence[str] | None = None,
    columns: int = COLUMNS,
) -> None:
    """Draw one example's shares as bars that add up to the output, or over its tokens with the phrase underlined."""
    drawn = chosen("kind", kind, ("shares", "text")) if kind or tokens is None else "text"
    if not 0 <= example < len(result.valid):
        raise InputError(f"needed example from 0 to {len(result.valid) - 1}, got {example}")
    steps, inside = int(result.valid[example].sum()), result.phrase[example]
    beta, gamma, bias, output = (float(of_all[example]) for of_all in (result.beta, result.gamma, result.bias, result.output))
    if drawn == "shares":
        values = [beta, gamma, bias]
        names = [f"phrase\n({_steps(inside)})", "everything else", "bias"]
        starts = np.concatenate([[0.0], np.cumsum(values)[:-1]])
        ax.bar(names, values, bottom=starts, color=["C1" if value > 0 else "C0" for value in values], width=0.7)
        for at, end in enumerate(np.cumsum(values)[:-1]):
            ax.plot([at - 0.35, at + 1.35], [end, end], color="0.5", linewidth=0.8)
        ax.axhline(output, color="black", linewidth=1.2, linestyle="--", label=f"the output, {output:.3g}")
        ax.axhline(0, color="0.5", linewidth=0.8)
        ax.set(ylabel="share, in units of the output")
        ax.grid(False, axis="x")
        # Bars that begin at the end of another leave no room above them otherwise.
        ax.use_sticky_edges = False
        ax.margins(y=0.1)
        ax.legend()
    else:
        if tokens is None or len(tokens) < steps:
            raise InputError(f"needed tokens= for the example's {steps} steps, got {0 if tokens is None else len(tokens)}")
        limit = max(abs(beta), abs(gamma)) or 1.0
        draw_text(
            ax,
            tokens[:steps],
            np.where(inside[:steps], beta, gamma),
            norm=Normalize(-limit, limit),
            cmap=SIGNED,
            label="share of the whole phrase (underlined), and of everything else, in units of the output",
            columns=columns,
            marks=inside[:steps],
        )
    ax.set_title(
        f"{result.explained[example]} = {beta:.3g} by the phrase {_signed(gamma)} by everything else {_signed(bias)} by biases\n"
        f"contextual decomposition, which doesn't see resets; residual {result.residual[example]:.1e}"
        + ("" if result.converged[example] else ": it doesn't add up")
    )


def _signed(value: float) -> str:
    return f"{'-' if value < 0 else '+'} {abs(value):.3g}"


def _steps(inside: NDArray[np.bool_]) -> str:
    """A phrase in words: ``steps 3-5, 9``."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).astype(int))).reshape(-1, 2)
    runs = [f"{start}" if stop - start == 1 else f"{start}-{stop - 1}" for start, stop in edges]
    shown = ", ".join(runs[:4]) + (", ..." if len(runs) > 4 else "")
    return f"step{'' if inside.sum() == 1 else 's'} {shown}" if runs else "no step"
