"""Faithfulness: deletion and insertion beside the controls, comprehensiveness, and what is left when weights are drawn anew."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from lstm_explain.display import percent
from lstm_explain.errors import InputError
from lstm_explain.plots._dispatch import chosen, draw
from lstm_explain.verdicts.faithfulness.removal import FRACTIONS
from lstm_explain.verdicts.faithfulness.result import HEADLINE, FaithfulnessResult

_LINES = ("-", ":", "--")
_COLOURS = ("C0", "0.45", "C1")


@draw.register
def draw_faithfulness(result: FaithfulnessResult, ax: Axes, kind: str | None = None) -> None:
    """Draw the curves of deletion or of insertion, comprehensiveness as bars, or the randomised weights."""
    drawn = chosen("kind", kind, ("deletion", "insertion", "comprehensiveness", "randomisation"))
    if drawn == "randomisation":
        _randomisation(ax, result)
    elif drawn == "comprehensiveness":
        _bars(ax, result)
    else:
        _curves(ax, result, drawn)


def _names(result: FaithfulnessResult) -> list[str]:
    return [result.method.replace("_", " "), *("random" if one == "random" else one.replace("_", " ") for one in result.controls)]


def _falls(result: FaithfulnessResult) -> str:
    return "fall of the output, mean" if result.rank == "signed" else "size of the output's change, mean"


def _against_random(result: FaithfulnessResult, what: str, measure: str) -> str:
    """Whether what was measured is better than for steps at random, and by how much."""
    return f"{_names(result)[0]}: more faithful than random steps by {what}:\n{result.claims['random'].verdict(measure)}"


def _curves(ax: Axes, result: FaithfulnessResult, drawn: str) -> None:
    curves = result.removal.deletion if drawn == "deletion" else result.removal.insertion
    shares, areas = result.removal.shares.mean(0), result.removal.area(curves).mean(1)
    for at, name in enumerate(_names(result)):
        mean = curves[at].mean(0)
        ax.plot(shares, mean, _LINES[at], marker="o", color=_COLOURS[at], label=f"{name}: area {areas[at]:.3g}", zorder=4 - at)
    ax.axhline(0, color="0.5", linewidth=0.8)
    what = "replaced, those that it names first" if drawn == "deletion" else "kept, those that it names first; all others replaced"
    ax.set(xlim=(0, 1), xlabel=f"share of the steps {what}", ylabel=_falls(result))
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    measure = f"{drawn}, area"
    ax.set_title(_against_random(result, drawn, measure))
    ax.legend(title="more is better" if drawn == "deletion" else "less is better", title_fontsize=8)


def _bars(ax: Axes, result: FaithfulnessResult) -> None:
    names, places = _names(result), np.arange(len(FRACTIONS) + 1)
    width = 0.8 / len(names)
    for at, name in enumerate(names):
        of = result.comprehensiveness[at]
        means = np.append(of.mean(0), of.mean())
        ax.bar(places + (at - (len(names) - 1) / 2) * width, means, width * 0.92, color=_COLOURS[at], label=name, zorder=2)
    claims = result.claims["random"]
    labels = [f"{percent(fraction)}" for fraction in FRACTIONS]
    shown = [claims.shown[claims.measures.index(f"comprehensiveness{tail}")] for tail in [*(f" at {one}" for one in labels), ", AOPC"]]
    ax.axhline(0, color="0.5", linewidth=0.8)
    words = [f"{label}\n{'shown' if is_shown else 'not shown'}" for label, is_shown in zip([*labels, "mean (AOPC)"], shown, strict=True)]
    ax.set_xticks(places, words)
    ax.set(xlabel="share of the steps replaced, those that it names; against random", ylabel=_falls(result))
    ax.set_title(_against_random(result, "comprehensiveness at 10 %", HEADLINE))
    ax.margins(y=0.2)
    ax.legend(loc="upper left", ncols=len(names))


def _randomisation(ax: Axes, result: FaithfulnessResult) -> None:
    found = result.randomisation
    if found is None:
        raise InputError(f'needed attributions with weights drawn anew for kind="randomisation", got none: {result.lost}')
    kind = "" if result.rank == "signed" else "_size"
    rows = np.arange(len(found.parts))
    for at, (name, label) in enumerate((("cascade", "all from the output down to here"), ("alone", "this alone"))):
        mean, low, high = found.means[name + kind][:3]
        y = rows + (-0.14, 0.14)[at]
        known = np.isfinite(low) & np.isfinite(high)
        ax.hlines(y[known], low[known], high[known], color=f"C{at}", linewidth=3, alpha=0.35)
        ax.plot(mean, y, "os"[at], color=f"C{at}", label=label)
    ax.axvline(0, color="0.5", linewidth=0.8)
    ax.set_yticks(rows, found.parts)
    ax.set(xlim=(-1.05, 1.05), ylim=(len(rows) - 0.4, -0.6), ylabel="drawn anew")
    of = "" if result.rank == "signed" else " of sizes"
    ax.set_xlabel(f"rank correlation{of} with the model's own (bar: 95 %)")
    ax.set_title(f"little is left: {result.lost.partition(' (')[0]}")
    ax.legend(loc="lower left")
