"""How long does each cell remember?"""

from textwrap import wrap

import numpy as np

from lstm_explain.display import number, percent
from lstm_explain.plots import panels, plot
from lstm_explain.report.measure import Measured
from lstm_explain.report.section import Picture, Section, nothing
from lstm_explain.study import Study

WIDE = 88
"""Characters of a title that a picture has room for."""


def section(study: Study, measured: Measured) -> Section:
    """Survival, half-lives, and the true retention beside the forget gate."""
    result = measured.timescale
    if result is None:
        return nothing("timescale", "How long cells remember", "No memory is measured", "no layer has a gate that keeps")
    gates = " or ".join(dict.fromkeys(f"{layer.gate.replace('_', ' ')}s" for layer in result.layers.values()))
    medians, beyond = {}, {}
    for name, layer in result.layers.items():
        medians[name] = float(np.median(layer.half_life))
        beyond[name] = int(np.isinf(layer.half_life).sum())
    longest = max(int(layer.lags[-1]) for layer in result.layers.values())
    units = sum(layer.units for layer in result.layers.values())
    gap = np.concatenate([np.abs(layer.retention - layer.forget_mean) for layer in result.layers.values()])
    gap = gap[np.isfinite(gap)]
    shares = {name: layer.off_diagonal_share for name, layer in result.layers.items()}
    has_peepholes = bool((gap > 0).any())

    survival, (ax,) = panels(7.2, 4.0)
    plot(result, ax, title=_broken(_list(medians, longest)))
    half_life, (ax,) = panels(7.2, 3.6)
    plot(
        result,
        ax,
        kind="half_life",
        title=f"{sum(beyond.values())} of {units} cells hold half of their content for more than {longest} steps",
    )
    pictures = [
        Picture("timescale_survival", survival, f"Survival curves by layer; {_list(medians, longest)}."),
        Picture(
            "timescale_half_life",
            half_life,
            f"Distribution of half-lives by layer; {sum(beyond.values())} of {units} cells beyond {longest} steps.",
        ),
    ]
    if has_peepholes:
        retention, (ax,) = panels(5.2, 4.6)
        plot(result, ax, kind="retention", title=f"peepholes change a cell's one-step\nretention by {number(float(gap.mean()))} on average")
        pictures.append(
            Picture(
                "timescale_retention",
                retention,
                f"Mean one-step retention of each cell beside its mean forget gate; they differ by {number(float(gap.mean()))} on average.",
            )
        )
    peepholes = (
        " Through its peepholes a cell also reaches itself: the true one-step retention differs from the forget gate by "
        f"{number(float(gap.mean()))} on average and {number(float(gap.max()))} at most, and other cells make up "
        f"{', '.join(f'{percent(share, 2)} ({name})' for name, share in shares.items())} of the norm of ∂c_t/∂c_(t-1)."
        if has_peepholes
        else ""
    )
    return Section(
        name="timescale",
        title="How long cells remember",
        finding=(
            f"T{_list(medians, longest)[1:]}; {number(sum(beyond.values()))} of {number(units)} cells still hold more than half of "
            f"their content after {longest} steps.{peepholes}"
        ),
        pictures=tuple(pictures),
        method=(
            f"Survival after k steps is the product of k consecutive {gates}, averaged over all runs of k steps inside a sequence; the "
            "half-life is where it falls to one half. The forget timescale -1/mean(ln f) and the reset rate (share of steps with f < 0.1) "
            "stand beside them in the sidecar."
        ),
        not_shown=(
            "These follow the direct path, from cell to cell. What a cell hands on through the hidden state and gets back later isn't in "
            "them, nor is whether anything reads the cell."
        ),
        brief=(
            f"T{_list(medians, longest)[1:]}: the time in which a cell loses half of what it holds; {number(sum(beyond.values()))} of "
            f"{number(units)} still hold more than half after {longest} steps, the longest time that was measured."
        ),
        numbers=result.to_dict()
        | {
            "median_half_life": {name: value if np.isfinite(value) else None for name, value in medians.items()},
            "median_half_life_none": f"more than half is left after {longest} steps, the longest run that was measured",
            "cells": units,
            "cells_beyond_longest_lag": beyond,
            "retention_minus_forget": {"mean": float(gap.mean()), "largest": float(gap.max())} if len(gap) else None,
            "retention_minus_forget_none": None if len(gap) else "no gate is finite",
            "off_diagonal_share": shares,
        },
        results={"timescale": result},
    )


def _broken(title: str) -> str:
    """A title over a narrow picture."""
    return "\n".join(wrap(title, WIDE))


def _list(medians: dict[str, float], longest: int) -> str:
    def say(value: float) -> str:
        if np.isnan(value):
            return "not a number"
        return f"{value:z.1f} steps" if np.isfinite(value) else f"more than {longest} steps"

    return f"the median cell's half-life is {' and '.join(f'{say(value)} in {name}' for name, value in medians.items())}"
