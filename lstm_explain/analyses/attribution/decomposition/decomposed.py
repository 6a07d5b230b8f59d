"""`decomposed`: what `attribute` answers by a decomposition, which hands out the whole output and has no baseline."""

from typing import Any

import numpy as np
from torch import nn

from lstm_explain.analyses.attribution.asked import evaluated
from lstm_explain.analyses.attribution.decomposition.cell import cell_decomposition, recorded
from lstm_explain.analyses.attribution.decomposition.lrp import checked_rule, lrp
from lstm_explain.analyses.attribution.decomposition.posed import pose
from lstm_explain.analyses.attribution.result import AttributionResult


def decomposed(model: nn.Module, inputs: Any, target: Any, method: str, rule: Any, epsilon: Any, **question: Any) -> AttributionResult:
    """The shares of every step and feature, or of every step, and those of everything else.

    Parameters
    ----------
    **question
        As of `pose`.
    """
    by_rule = checked_rule(rule, epsilon) if method == "lrp" else None
    with evaluated(model):
        posed = pose(model, inputs, target, watched=None if by_rule else recorded(model), **question)
        found, settings, shares = lrp(posed, *by_rule) if by_rule else cell_decomposition(posed)
    valid, output = posed.valid.numpy(), np.array(posed.output.tolist())
    attributions = np.where(valid.reshape(*valid.shape, *[1] * (found.ndim - 2)), found, 0.0)
    # What goes to padding, which the model has read, goes to no step of the example.
    batch = len(found)
    read_in_padding = found.reshape(batch, -1).sum(1) - attributions.reshape(batch, -1).sum(1)
    elsewhere = shares | {"padding": read_in_padding}
    handed_out = np.column_stack([attributions.reshape(batch, -1), *elsewhere.values()])
    return AttributionResult(
        attributions=attributions,
        valid=valid,
        output=output,
        baseline_output=None,
        convergence_delta=handed_out.sum(1) - output,
        converged=posed.whole(handed_out),
        explained=posed.in_words(),
        method=method,
        settings={**posed.settings, **settings},
        padding=posed.padding,
        elsewhere=elsewhere,
    )
