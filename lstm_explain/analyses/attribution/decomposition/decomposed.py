"""`decomposed`: what `attribute` answers by a decomposition, which hands out the whole output and has no baseline."""

from typing import Any

import torch
from torch import Tensor, nn

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
    steps = posed.valid
    valid = steps.to(found.device)
    attributions = torch.where(valid.reshape(*valid.shape, *[1] * (found.dim() - 2)), found.double(), 0.0)
    # What goes to padding, which the model has read, goes to no step of the example.
    read_in_padding = found.double().flatten(1).sum(1) - attributions.flatten(1).sum(1)
    elsewhere: dict[str, Tensor] = {name: share.double() for name, share in shares.items()} | {"padding": read_in_padding}
    handed_out = torch.cat([attributions.flatten(1), torch.stack(list(elsewhere.values()), dim=1)], dim=1)
    return AttributionResult(
        attributions=attributions.cpu().numpy(),
        valid=steps.numpy(),
        output=posed.output.double().cpu().numpy(),
        baseline_output=None,
        convergence_delta=(handed_out.sum(1) - posed.output.double()).cpu().numpy(),
        converged=posed.whole(handed_out).cpu().numpy(),
        explained=posed.in_words(),
        method=method,
        settings={**posed.settings, **settings},
        padding=posed.padding,
        elsewhere={name: share.cpu().numpy() for name, share in elsewhere.items()},
    )
