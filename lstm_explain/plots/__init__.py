"""Results as pictures: a result in, one Axes out; nothing is computed here.

A room of this floor has the name of its analysis and registers how to draw that analysis's result.
"""

from lstm_explain.plots import (
    ablation,
    attribution,
    attribution_matrix,
    compare_runs,
    comparison,
    components,
    contexts,
    correlations,
    decomposition,
    description_length,
    erasure,
    faithfulness,
    gates,
    probing,
    saturation,
    selection,
    sparse_probe,
    timescale,
    unit_text,
    verification,
)
from lstm_explain.plots._dispatch import STYLE, panels, plot

__all__ = [
    "STYLE",
    "ablation",
    "attribution",
    "attribution_matrix",
    "compare_runs",
    "comparison",
    "components",
    "contexts",
    "correlations",
    "decomposition",
    "description_length",
    "erasure",
    "faithfulness",
    "gates",
    "panels",
    "plot",
    "probing",
    "saturation",
    "sparse_probe",
    "selection",
    "timescale",
    "unit_text",
    "verification",
]
