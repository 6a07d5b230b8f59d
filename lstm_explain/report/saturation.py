"""How much of the time does each gate sit at one of its ends?"""

import numpy as np

from lstm_explain.analyses.saturation import THRESHOLDS
from lstm_explain.display import number, percent
from lstm_explain.plots import panels, plot
from lstm_explain.report.measure import Measured
from lstm_explain.report.section import Picture, Section, nothing
from lstm_explain.study import Study

LOW, HIGH = THRESHOLDS[0]
COLUMNS = 3
"""Gates in a row; of an LSTM beside a GRU there are five."""
SPARSE = 0.02
"""Karpathy, Johnson & Li (2015) found no unit whose forget gate is left-saturated throughout; up to this share counts as none."""


def section(study: Study, measured: Measured) -> Section:
    """The saturation of every gate."""
    result = measured.saturation
    if result is None:
        return nothing("saturation", "Gates at their ends", "No gate is measured", "no layer has gates")
    counts = {gate: {side: result.units_saturated(side, gate)[0] for side in ("left", "right")} for gate in result.gates}
    totals = {gate: result.units_saturated("left", gate)[1] for gate in result.gates}
    left, of = result.units_saturated("left")
    right, keeps = counts[result.keeps]["right"], f"{result.keeps.replace('_', ' ')}s"
    agrees = left <= SPARSE * of
    caveats = study.about.get("caveats", {})
    nonfinite = sum(int(layer.nonfinite.sum()) for layer in result.layers.values())
    # Shares of one unit in two disjoint halves of the text: how far they depend on what was read.
    gaps = None
    if measured.halves:
        one, other = (half.layers for half in measured.halves)
        gaps = np.concatenate(
            [np.abs(getattr(one[n], s)[:, 0] - getattr(other[n], s)[:, 0]).ravel() for n in one for s in ("left", "right")]
        )
        gaps = gaps[np.isfinite(gaps)]

    scatter, axes = panels(11, 4.2, len(result.gates), COLUMNS)
    for ax, gate in zip(axes, result.gates, strict=True):
        n = counts[gate]
        of_all = f"{gate.replace('_', ' ')}: {n['left']} of {totals[gate]} units are left-, {n['right']}"
        plot(
            result,
            ax,
            gate=gate,
            title=f"{of_all}\nright-saturated more than half the time",
        )
    histogram, axes = panels(11, 3.2, len(result.gates), COLUMNS)
    for ax, gate in zip(axes, result.gates, strict=True):
        n = sum(layer.histogram[layer.gates.index(gate)] for layer in result.layers.values() if gate in layer.gates)
        ends = (n[result.edges[1:] <= LOW].sum() + n[result.edges[:-1] >= HIGH].sum()) / max(n.sum(), 1)
        plot(
            result,
            ax,
            kind="histogram",
            gate=gate,
            title=f"{gate.replace('_', ' ')}: {percent(ends)} of all values\nare below {LOW} or above {HIGH}",
        )

    # Their finding is one about forget gates.
    known = f"{'as' if agrees else 'unlike what'} Karpathy, Johnson and Li (2015) found, " if result.keeps == "forget_gate" else ""
    names = [gate.replace("_gate", "") for gate in result.gates]
    share = f"{left} of {number(of)} {keeps} ({percent(left / of, 1)})"
    shown = (
        [f"Halves of the data disagree on a unit's share by {np.median(gaps):z.3f} in the median and {gaps.max():z.2f} at most"]
        if gaps is not None and len(gaps)
        else []
    )
    return Section(
        name="saturation",
        title="Gates at their ends",
        finding=(
            f"{share} are left-saturated more than half the time, and {number(right)} ({percent(right / of)}) right-saturated: {known}"
            f"{'there are next to no cells without memory' if agrees else 'there are cells that mostly forget'}."
            + (" It is what the network was trained for, see below." if "saturation" in caveats else "")
        ),
        pictures=(
            Picture(
                "saturation_scatter",
                scatter,
                f"Scatter of left- and right-saturation for each gate and unit: {share} lie beyond one half on the left.",
            ),
            Picture(
                "saturation_histogram",
                histogram,
                f"Histograms of all values of the {_and(names)} gates, by layer.",
            ),
        ),
        method=(
            f"At each step a gate below 0.1 counts as left-saturated and one above 0.9 as right-saturated, over "
            f"{number(max(layer.steps for layer in result.layers.values()))} steps; the sidecar has 0.05 and 0.95 too. "
            + "; ".join(shown)
            + ("." if shown else "")
        ),
        not_shown=" ".join(
            ([f"{number(nonfinite)} values were NaN and are left out."] if nonfinite else [])
            + ["Saturation says how a gate is used, not what for; and it depends on how the forget bias was initialised."]
            + ([caveats["saturation"]] if "saturation" in caveats else [])
        ),
        brief=(
            f"{share.capitalize()} are closed more than half the time, and {number(right)} open"
            + (
                f"; on halves of the data a unit’s share differs by {np.median(gaps):z.3f} at the median."
                if gaps is not None and len(gaps)
                else "; there are no two groups to compare."
            )
        ),
        numbers=result.to_dict()
        | {
            "units_saturated_more_than_half": counts | {"of": of},
            "gate_that_keeps": result.keeps,
            "left_share_of_gate_that_keeps": left / of,
            "right_share_of_gate_that_keeps": right / of,
            "halves": None if gaps is None or not len(gaps) else {"median_gap": float(np.median(gaps)), "largest_gap": float(gaps.max())},
            "halves_none": None if gaps is not None and len(gaps) else "the data has only one group, or no gate is finite",
        },
        results={"saturation": result},
    )


def _and(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
